"""Uncertainty: variances by hand, what disagreement means, and attacks that know of it."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.dummy import DummyClassifier
from sklearn.metrics import roc_auc_score
from torch import nn

from suite.attacks.gradient import PGD
from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.base.seeding import torch_generator
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from suite.defenses.robust.ensemble import Ensemble, MCDropout
from suite.defenses.robust.smoothing import RandomizedSmoothing
from suite.detectors import Uncertainty
from suite.evaluate import measure
from suite.evaluate.detection import behind, measure_detection
from suite.evaluate.worst_case import Part
from suite.training.randomized import Together
from tabular.models import MLP
from tests.support.toy import dataset, sheet, split, subject

CLEAN = np.zeros((2, 1), np.float32)


def line(weight, *before):
    """Logits 0 and weight times the only feature."""
    module = nn.Sequential(*before, nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        module[-1].weight.copy_(torch.tensor([[0.0], [weight]]))
    return module


def fitted(module, **fields):
    return Uncertainty(**fields).fit(CLEAN, None, TorchClassifier(module, 2, Space(-9.0, 9.0)))


def ring(n, seed):
    """Two halves of a ring; nothing in its middle nor outside."""
    rng = np.random.default_rng(seed)
    angle, y = rng.uniform(0.3, np.pi - 0.3, n), np.arange(n) % 2
    x = np.stack([np.cos(angle), np.sin(angle) * (2 * y - 1)], 1) + rng.normal(0, 0.08, (n, 2))
    return split(x.astype(np.float32), y)


@pytest.fixture(scope="module")
def data():
    return dataset(ring(200, 0), train=ring(300, 1), val=ring(200, 2))


@pytest.fixture(scope="module", params=["ensemble", "mc-dropout", "dropout", "noise"])
def model(request, data):
    recipe = MLP(epochs=15, hidden=(32, 32), dropout=0.3 if request.param == "dropout" else 0.0)
    defense = {"ensemble": Ensemble(members=4), "mc-dropout": MCDropout(draws=16),
               "noise": RandomizedSmoothing(sigma=0.2, draws=16)}.get(request.param)
    return defense(recipe, data.train, data.val) if defense else recipe.fit(data.train, data.val)


def test_members_by_hand():
    scores = fitted(Together([line(1.0), line(3.0), line(-2.0)])).score(np.float32([[0], [2], [-1]]))
    # of two classes, one mirrors the other
    expected = [2 * np.var([expit(w * x) for w in (1, 3, -2)]) for x in (0, 2, -1)]
    assert np.allclose(scores, expected, atol=1e-6)
    alike = fitted(Together([line(1.0), line(1.0)])).score(np.float32([[2]]))
    assert np.allclose(alike, 0, atol=1e-9)


@pytest.mark.parametrize("made", ["dropout", "mc-dropout"])
def test_one_unit_left_out_by_hand(made):
    """Kept, it counts for 1 / (1 - p); left out, both classes are as likely."""
    network, clean = line(1.5, nn.Dropout(0.4)), np.float32([[2.0], [-1.0]])
    if made == "mc-dropout":
        classifier = MCDropout(draws=4000)._drawn(TorchClassifier(network, 2, Space(-9.0, 9.0)))
        detector = Uncertainty().fit(CLEAN, None, classifier)
    else:
        detector = fitted(network, draws=4000)
    kept = expit(1.5 / 0.6 * clean[:, 0])
    assert np.allclose(detector.score(clean), 2 * 0.24 * (kept - 0.5) ** 2, rtol=0.05)


def test_a_refusal_is_no_class():
    def refusing(weight, refused):
        module = nn.Linear(1, 3)
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[0.0], [weight], [refused]]))
            module.bias.zero_()
        return module

    together = Together([refusing(1.0, 9.0), refusing(3.0, -9.0)])
    detector = Uncertainty().fit(CLEAN, None, TorchClassifier(together, 2, Space(-9.0, 9.0), rejects=True))
    assert np.allclose(detector.score(np.float32([[2]])), 2 * np.var([expit(2), expit(6)]), atol=1e-6)


def test_dropout_that_is_over_stays_over_in_the_network_itself():
    network = line(1.5, nn.Dropout(0.4))
    detector = fitted(network)
    assert isinstance(network[0], nn.Dropout) and network[1].weight is not detector.module.several.inner[1].weight
    x = torch.tensor([[1.0]])
    assert torch.equal(network(x), network(x))


def test_the_boundary_is_less_certain_than_the_clean_and_clean_is_like_clean(model, data):
    detector = Uncertainty().fit(data.train.x, data.train.y, model)
    clean, again = detector.score(data.test.x), detector.score(data.val.x)
    between = ring(200, 3).x * np.float32([1.0, 0.0])  # on the line between the halves
    assert clean.dtype == np.float64 and clean.shape == (200,) and (clean >= 0).all()
    assert abs(roc_auc_score(np.repeat([0, 1], 200), np.concatenate([clean, again])) - 0.5) < 0.1
    assert roc_auc_score(np.repeat([0, 1], 200), np.concatenate([clean, detector.score(between)])) > 0.9


def test_scores_repeat_whatever_is_in_a_batch_and_touch_no_global_randomness(model, data):
    state = torch.random.get_rng_state()
    first, other = (Uncertainty().fit(data.train.x, data.train.y, model) for _ in range(2))
    scores = first.score(data.test.x)
    assert np.array_equal(scores, other.score(data.test.x))
    first.batch = 7
    assert np.allclose(first.score(data.test.x), scores, atol=1e-5)
    assert first.score(data.test.x[:0]).shape == (0,)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_gradient_is_that_of_the_score(model, data):
    module = Uncertainty().fit(data.train.x, data.train.y, model).module
    x = torch.from_numpy(ring(20, 4).x * np.float32([1.0, 0.3]))
    with torch.enable_grad():
        moved = x.clone().requires_grad_()
        grad, = torch.autograd.grad(module(moved).sum(), moved)
    way = torch.randn(x.shape, generator=torch_generator(0))
    with torch.no_grad():
        slope = (module(x + 1e-3 * way) - module(x - 1e-3 * way)) / 2e-3
    error = ((grad * way).sum(1) - slope).abs()  # a step may cross a kink of the network
    assert error.median() < 1e-3 and error.max() < 0.1 * slope.abs().max()


def test_an_attack_that_knows_it_gets_past_more_than_one_that_does_not(model, data):
    at, out = subject(model, data, eps=0.8, budgets=(0.8,)), sheet()
    attack = PGD(eps=0.8, steps=5)
    measure_detection("uncertainty", Uncertainty(), at, out, [Part("pgd", attack, measure(attack, at, sheet()))], 60)
    found = {r.metric: r.value for r in out.rows if r.attack == "adaptive"}
    blind, adaptive, unguarded = (found[f"{kind}_evasion[uncertainty]"] for kind in ("blind", "adaptive", "unguarded"))
    assert blind <= adaptive <= unguarded and adaptive > 0


def test_an_attack_behind_it_does_not_hang_on_what_was_attacked_before(model, data):
    detector = Uncertainty().fit(data.train.x, data.train.y, model)
    x, y = torch.from_numpy(data.test.x), torch.from_numpy(data.test.y)
    first, again = (PGD(eps=0.5, steps=4)(behind(model, detector, 0.05, 0.01), x, y) for _ in range(2))
    assert torch.equal(first, again)


def test_what_gives_one_answer_only_is_told_who_gives_several():
    with pytest.raises(NotApplicable, match="one answer only; mc-dropout and ensemble are defenses"):
        fitted(line(1.0, nn.Dropout(0.0)))
    forest = EstimatorClassifier(DummyClassifier().fit(CLEAN, [0, 1]), 2, Space(-1.0, 1.0))
    with pytest.raises(NotApplicable, match="looks inside a network"):
        Uncertainty().fit(CLEAN, None, forest)
    with pytest.raises(InputError, match="draws must be at least 2"):
        Uncertainty(draws=1)
    assert registry.load("detectors", "uncertainty") is Uncertainty
    assert {"mc-dropout", "ensemble"} <= set(registry.names("defenses"))
