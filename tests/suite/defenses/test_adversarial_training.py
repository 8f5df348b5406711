"""Adversarial training and TRADES: the inner attack against corners, what is learned, and the piloted budget."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from suite.attacks.ascent import ascend, uniform
from suite.attacks.gradient import PGD
from suite.base.errors import NotApplicable
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.plain import Plain
from suite.defenses.robust.adversarial import AdversarialTraining, Trades
from suite.training.loop import Batch, TorchRecipe
from tabular.models import MLP, LogisticRegression, RandomForest

BOX = Space(0.0, 1.0)


def split(x, y, space=BOX):
    return Split(np.asarray(x, np.float32), np.asarray(y, np.int64), space, ("healthy", "ill"), np.arange(len(y)))


def robust_or_useful(n=400, seed=0):
    """One column that is right for 90 % and far from 0.5, eight that are right for almost all and close to it.

    Whoever may move each column by 0.2 can turn the eight around and not the one (after Tsipras et al. 2018, arXiv
    1805.12152), so 90 % is the best robust accuracy, and a model that trusts the eight has almost none.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    sign = 2 * y - 1
    robust = 0.5 + 0.4 * sign * np.where(rng.random(n) < 0.9, 1, -1)
    weak = 0.5 + 0.07 * sign[:, None] + rng.normal(0, 0.06, (n, 8))
    return split(np.clip(np.c_[robust, weak], 0, 1), y)


def robust_accuracy(classifier, data, eps):
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    found = PGD(eps=eps, steps=20, restarts=2)(classifier, x, y)
    return float((classifier.judge(found) == y).float().mean())


@pytest.fixture(scope="module")
def parts():
    return robust_or_useful(seed=0), robust_or_useful(200, seed=1), robust_or_useful(300, seed=2)


@dataclass(frozen=True)
class Counted(TorchRecipe):
    """A small network with batch normalisation and dropout that notes each forward pass."""

    info: ClassVar[Info] = Info("Counted", "none")
    epochs: int = 1
    batch: int = 100
    passes: ClassVar[list[tuple[bool, bool]]] = []

    def network(self, inputs, classes):
        net = nn.Sequential(nn.Linear(inputs[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5),
                            nn.Linear(8, classes))
        net.register_forward_hook(lambda m, *_: self.passes.append((m.training, m[0].weight.requires_grad)))
        return net


def test_ascent_of_a_linear_function_ends_in_its_corner():
    box = torch.tensor([[0.2, 0.5, 0.1]]), torch.tensor([[0.4, 0.5, 0.9]])
    slope = torch.tensor([[1.0, 1.0, -3.0]])
    start = uniform(box, torch.Generator().manual_seed(0))
    assert torch.equal(start.clamp(*box), start)
    end = ascend(lambda z: slope.expand_as(z), start, box, 0.2, 5)
    assert torch.equal(end, torch.tensor([[0.4, 0.5, 0.1]]))
    assert torch.equal(ascend(lambda z: slope, start, box, 0.2, 0), start)


def linear_case():
    """A linear model, inputs and labels, and the logits of the corners that are best for either class."""
    torch.manual_seed(0)
    module, x, y = nn.Linear(3, 2), torch.rand(40, 3), torch.randint(0, 2, (40,))
    space = Space(torch.zeros(3), torch.ones(3), torch.tensor([1.0, 0.5, 2.0]))
    lower, upper = space.ball(x, 0.1)
    uphill = module.weight[1] > module.weight[0]
    corners = module(torch.where(uphill, lower, upper)), module(torch.where(uphill, upper, lower))
    return module, space, Batch(x, y, torch.arange(40), torch.Generator().manual_seed(0)), corners


def test_inner_attack_of_adversarial_training_finds_the_worst_corner_of_a_linear_model():
    module, space, batch, (for_healthy, for_ill) = linear_case()
    loss = AdversarialTraining(steps=9).objective(space, 0.1)(module, batch)
    worst = torch.where(batch.y[:, None] == 1, for_healthy, for_ill)
    assert torch.allclose(loss, F.cross_entropy(worst, batch.y, reduction="none"), atol=1e-6)


def test_inner_attack_of_trades_finds_one_of_the_two_corners_where_the_divergence_peaks():
    module, space, batch, corners = linear_case()
    loss = Trades(steps=9, beta=6.0).objective(space, 0.1)(module, batch)
    clean = module(batch.x).log_softmax(1)
    divergence = [(clean.exp() * (clean - corner.log_softmax(1))).sum(1) for corner in corners]
    found = (loss - F.cross_entropy(module(batch.x), batch.y, reduction="none")) / 6
    assert torch.minimum(*((found - d).abs() for d in divergence)).max() < 1e-6


def test_trades_without_a_budget_is_plain_and_grows_with_budget_and_beta():
    torch.manual_seed(0)
    module, batch = nn.Linear(3, 2), Batch(torch.rand(50, 3), torch.randint(0, 2, (50,)), torch.arange(50), None)

    def loss(eps, beta):
        fresh = replace(batch, generator=torch.Generator().manual_seed(0))
        return Trades(beta=beta).objective(BOX, eps)(module, fresh)

    plain = F.cross_entropy(module(batch.x), batch.y, reduction="none")
    assert torch.allclose(loss(0.0, 6.0), plain)
    assert torch.allclose(loss(0.1, 0.0), plain)
    assert (loss(0.1, 6.0) > plain).all()
    assert loss(0.2, 6.0).mean() > loss(0.1, 6.0).mean()
    assert torch.allclose(loss(0.1, 6.0) - plain, 6 * (loss(0.1, 1.0) - plain), atol=1e-6)


@pytest.mark.parametrize(("defense", "outer"), [(AdversarialTraining(eps=0.1, steps=5), 1),
                                                (Trades(eps=0.1, steps=5), 2)])
def test_the_inner_attack_costs_its_steps_and_leaves_statistics_and_weights_alone(defense, outer, parts):
    Counted.passes.clear()
    classifier = defense(Counted(), parts[0], parts[1])
    batches, clean = 4, outer - 1  # TRADES asks once more for the clean prediction
    training = [p for p in Counted.passes if p[0]]
    crafting = [p for p in Counted.passes if not p[1]]
    assert training == [(True, True)] * batches * outer
    assert crafting == [(False, False)] * (batches + 1) * (defense.steps + clean)  # the validation split is one batch
    assert len(Counted.passes) == len(training) + len(crafting) + outer
    assert classifier.module[1][1].num_batches_tracked == batches * outer


@pytest.mark.parametrize("defense", [AdversarialTraining(eps=0.2), Trades(eps=0.2)])
@pytest.mark.parametrize("recipe", [LogisticRegression(lr=0.02), MLP(hidden=(16,), lr=0.02)])
def test_learns_to_trust_what_cannot_be_turned_around(defense, recipe, parts):
    train, val, test = parts
    plain, robust = Plain()(recipe, train, val), defense(recipe, train, val)
    assert (plain.predict(test.x) == test.y).mean() > 0.97
    assert robust_accuracy(plain, test, 0.2) < 0.4
    best = (np.sign(test.x[:, 0] - 0.5) == 2 * test.y - 1).mean()
    assert abs(robust_accuracy(robust, test, 0.2) - best) < 0.03
    assert robust.notes["eps"] == 0.2


def close_classes(seed=0, n=400):
    """Two classes 0.06 apart, one three times as frequent: beyond 0.03 the best robust answer is the majority's."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 4 == 0).astype(int)
    return split(0.47 + 0.06 * y[:, None] + rng.normal(0, 0.001, (n, 1)), y)


def test_takes_the_largest_budget_that_does_not_collapse():
    train, val = close_classes(0), close_classes(1, 200)
    recipe = LogisticRegression(epochs=60, balanced=False)
    assert len(np.unique(AdversarialTraining(eps=0.1)(recipe, train, val).predict(val.x))) == 1
    piloted = AdversarialTraining()(recipe, train, val)
    assert piloted.notes == {"eps": 0.025}
    assert (piloted.predict(val.x) == val.y).all()


@dataclass(frozen=True)
class Costly(AdversarialTraining):
    """Each budget moves the threshold by as much, so that it costs as much accuracy; nothing is trained."""

    def _train(self, recipe, train, val, eps, seed, device):
        module = nn.Linear(1, 2)
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            module.bias.copy_(torch.tensor([0.5 + eps, -0.5 - eps]))
        made = TorchClassifier(module, 2, train.space, recipe=recipe)
        made.notes["eps"] = eps
        return made


@pytest.mark.parametrize(("tolerance", "eps"), [(0.35, 0.3), (0.25, 0.2), (0.15, 0.1), (0.05, 0.1)])
def test_the_pilot_rejects_budgets_that_cost_more_accuracy_than_is_tolerated(tolerance, eps):
    x = (np.arange(400)[:, None] + 0.5) / 400
    data = split(x, x[:, 0] > 0.5)  # a threshold moved by d misses 2 d of the ill: d of balanced accuracy
    piloted = Costly(grid=(0.3, 0.2, 0.1), tolerance=tolerance)(LogisticRegression(epochs=60), data, data)
    assert piloted.notes["eps"] == eps and ("pilot" in piloted.notes) == (tolerance < 0.1)


def test_says_when_every_budget_costs_too_much():
    train, val = close_classes(0), close_classes(1, 200)
    kept = AdversarialTraining(grid=(0.2, 0.1))(LogisticRegression(epochs=20, balanced=False), train, val)
    assert kept.notes["eps"] == 0.1
    assert "too much" in kept.notes["pilot"]


@pytest.mark.parametrize("defense", [AdversarialTraining(eps=0.1), Trades(eps=0.1)])
def test_same_seed_same_network_and_no_global_randomness(defense, parts):
    recipe, state = MLP(hidden=(8,), epochs=3), torch.random.get_rng_state()
    first, again, other = (defense(recipe, *parts[:2], seed=s).predict_proba(parts[2].x) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_trains_networks_only(parts):
    with pytest.raises(NotApplicable, match="RandomForest"):
        AdversarialTraining()(RandomForest(), *parts[:2])
