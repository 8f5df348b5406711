"""Randomized smoothing: certificates against their closed form, expectation over noise, and repeatable predictions."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm

from suite.attacks.gradient import PGD
from suite.base.errors import InputError, NotApplicable
from suite.core.classifier import EstimatorClassifier
from suite.core.data import Split
from suite.defenses.plain import Plain
from suite.defenses.robust.smoothing import NoiseFront, RandomizedSmoothing, smoothed
from suite.evaluate import measure_clean
from suite.models import artifacts
from tabular.models import MLP, RandomForest
from tests.support import toy as _toy
from tests.support.images import SmallCNN, squares
from tests.support.models import linear, rows

TRAIN, VAL, TEST = squares(300, 0), squares(100, 1), squares(60, 2)


def case(n=12, scale=1.0, spread=0.5, sigma=0.5, draws=8):
    """A smoothed linear model, inputs, and their margins in units of the space."""
    plain = linear(6, scale=torch.full((6,), scale))
    x, y = rows(plain, n, spread=spread)
    weight = plain.module.weight[1] - plain.module.weight[0]
    with torch.no_grad():
        lead = plain.module(x).diff(dim=1)[:, 0].abs()
    return smoothed(plain, sigma, draws), x, y, (lead / weight.norm() / scale).detach().double().numpy()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_radius_of_a_linear_model_is_the_distance_to_its_boundary(scale):
    """Under endless draws; so many give a lower bound of it (Cohen et al. 2019, proposition 3)."""
    model, x, y, margin = case(scale=scale, spread=0.4 * scale)
    label, radius = model.certify(x, n=20_000)
    most = model.sigma * norm.ppf(0.001 ** (1 / 20_000))
    said = label >= 0
    assert (label[said] == y.numpy()[said]).all()
    assert (radius <= np.minimum(margin, most) + 1e-9).all()
    assert np.allclose(radius[said], np.minimum(margin, most)[said], rtol=0.1, atol=0.03)
    assert said[margin > 0.03].all()


def test_bound_is_that_of_clopper_and_pearson_and_few_draws_abstain():
    model, x, _, _ = case(sigma=1e-4)  # the noise changes nothing: every draw agrees
    label, radius = model.certify(x, n0=10, n=50)
    assert np.allclose(radius, 1e-4 * norm.ppf(beta.ppf(0.001, 50, 1)))
    label, radius = model.certify(x, n0=10, n=9)  # 0.001 ** (1 / 9) < 1 / 2
    assert (label == -1).all() and (radius == 0).all()


def test_a_row_leaves_as_soon_as_it_can_no_longer_win_and_no_sooner(monkeypatch):
    """Of 1000 draws 550 must be won to exceed one half: a row that wins 30 of 100 cannot any more after 700."""
    model, x, _, _ = case(n=3)
    share, asked = {float(row[0]): p for row, p in zip(x, (0.3, 0.6, 0.9), strict=True)}, []

    def votes(x, n, generator):
        asked.append(len(x))
        won = torch.tensor([round(share[float(row[0])] * n) for row in x])
        return torch.stack([n - won, won], 1) if n < 1000 and len(asked) > 1 else torch.tensor([[0, 1]] * len(x))

    monkeypatch.setattr(model, "_votes", votes)
    label, radius = model.certify(x, n=1000)
    enough = int(np.argmax(beta.ppf(0.001, np.arange(1, 1001), 1000 - np.arange(1, 1001) + 1) > 0.5)) + 1
    last = next(k for k in range(1, 11) if 30 * k + 1000 - 100 * k < enough)
    assert asked == [3] + [3] * last + [2] * (10 - last)
    assert label.tolist() == [-1, 1, 1]
    assert np.allclose(radius[1:], 0.5 * norm.ppf(beta.ppf(0.001, [600, 900], [401, 101])))


def test_certified_accuracy_is_measured_at_the_budgets_of_its_norm():
    model, x, y, margin = case(n=40, spread=1.0)
    data = _toy.dataset(Split(x.numpy(), y.numpy(), model.space, ("well", "ill"), np.arange(40)))
    sheet = _toy.sheet()
    measure_clean(_toy.subject(model, data, norms={"l2": (0.2, (0.2, 0.5, 5.0))}), sheet)
    for eps, slack in ((0.2, 0.1), (0.5, 0.15)):
        assert _toy.value(sheet, "certified_accuracy", eps) == pytest.approx((margin > eps).mean(), abs=slack)
    assert _toy.value(sheet, "certified_accuracy", 5.0) == 0  # beyond what so many draws can show
    assert "certified_accuracy" not in {r.metric for r in _clean(linear(6), data)}


def _clean(model, data):
    sheet = _toy.sheet()
    measure_clean(_toy.subject(model, data), sheet)
    return sheet.rows


def test_a_certificate_does_not_hang_on_what_was_asked_before_or_on_memory():
    (fresh, x, _, _), (asked, *_), (cramped, *_) = case(spread=0.3), case(spread=0.3), case(spread=0.3)
    asked.scores(x)
    first, second = (m.certify(x, n0=400, n=2000) for m in (fresh, asked))
    assert np.array_equal(first[1], second[1]) and first[1].any()
    inner = cramped.module.inner[1]

    class Small(torch.nn.Module):
        def forward(self, z):
            if len(z) > 1000:
                raise torch.OutOfMemoryError
            return inner(z)

    cramped.module.inner[1] = Small()
    votes = cramped._votes(x, 400, torch.Generator().manual_seed(0))
    assert (votes.sum(1) == 400).all() and cramped.queries == 400 * len(x)
    assert cramped.batch <= 1000 // 8


def test_no_attack_gets_closer_than_the_certificate():
    model = RandomizedSmoothing(sigma=0.2)(SmallCNN(), TRAIN, VAL)
    x, y = torch.from_numpy(TEST.x[:20]), torch.from_numpy(TEST.y[:20])
    label, radius = model.certify(x, n=500)
    safe = torch.from_numpy((label == y.numpy()) & (radius > 0.2))
    assert safe.sum() > 10
    found = PGD(norm="l2", eps=0.2, steps=20)(model, x[safe], y[safe])
    votes = model._votes(found, 400, torch.Generator().manual_seed(1))
    assert (votes.argmax(1) == y[safe]).all()


def test_noise_in_training_lets_the_network_keep_its_head_under_noise():
    x = (TEST.x + np.random.default_rng(0).normal(0, 0.3, TEST.x.shape)).astype(np.float32)
    plain, defended = (d(SmallCNN(), TRAIN, VAL) for d in (Plain(), RandomizedSmoothing(sigma=0.3)))
    loss = [-np.log(model.predict_proba(x)[np.arange(60), TEST.y]).mean() for model in (plain, defended)]
    assert loss[1] < 0.85 * loss[0]


def test_predictions_are_repeatable_whatever_else_is_in_the_batch():
    model, x, _, _ = case(n=9)
    whole, state = model.scores(x), torch.random.get_rng_state()
    assert torch.equal(model.scores(x), whole)
    for size in (1, 3, 8):
        torch.testing.assert_close(torch.cat([model.scores(part) for part in x.split(size)]), whole)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_attacks_average_over_fresh_noise_and_go_by_what_the_model_says():
    """The slope of a smoothed linear model is the same everywhere along its weights; its estimates scatter."""
    model, x, _, _ = case(n=4, sigma=2.0, draws=4)
    ones = [1.0, -1.0]
    said = model.scores(x)

    def gradient():
        logits, (grad,) = model.pull(x, lambda z: [torch.tensor(ones).expand_as(z)])
        assert torch.equal(logits, said)
        return grad

    with model.frozen():
        first, second = gradient(), gradient()
    with model.frozen():
        again = gradient()
    assert not torch.allclose(first, second)
    assert torch.equal(first, again)
    many, _, _, _ = case(n=4, sigma=2.0, draws=40_000)
    _, (exact,) = many.pull(x, lambda z: [torch.tensor(ones).expand_as(z)])
    with model.frozen():
        mean = torch.stack([gradient() for _ in range(400)]).mean(0)
    assert (mean - exact).norm() < (first - exact).norm()


@pytest.mark.parametrize("seed", [0, 1])
def test_same_seed_same_attack(seed):
    model, x, y, _ = case(n=6, spread=1.0)
    attack = PGD(eps=0.3, steps=5)
    assert torch.equal(attack(model, x, y, seed), attack(model, x, y, seed))


def test_stored_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("suite.base.registry.load", lambda *_: MLP)
    defense = RandomizedSmoothing(sigma=0.1)
    flat = [Split(s.x.reshape(len(s), -1), s.y, s.space, s.classes, s.rows) for s in (TRAIN, VAL)]
    model = defense(MLP(epochs=2), *flat)
    artifacts.save(model, tmp_path, "mlp")
    read = artifacts.load(tmp_path, "mlp", 2, model.space, defense=defense)
    assert np.array_equal(read.predict_proba(flat[1].x), model.predict_proba(flat[1].x))
    assert (read.certified_norm, read.sigma) == ("l2", 0.1)
    copy.deepcopy(model.module)


def test_noise_in_front_of_a_trained_network():
    plain = SmallCNN(epochs=2).fit(TRAIN, VAL)
    plain.notes["eps"] = 0.1
    noisy = NoiseFront(sigma=0.01).wrap(plain, TRAIN, VAL)
    assert np.allclose(noisy.predict_proba(TEST.x), plain.predict_proba(TEST.x), atol=0.05)
    assert noisy.notes == plain.notes and noisy.recipe is plain.recipe
    with pytest.raises(NotApplicable, match="networks only"):
        NoiseFront().wrap(EstimatorClassifier(_toy.Says(0.1, 0.2), 2, TEST.space), TRAIN, VAL)


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="sigma"):
        RandomizedSmoothing(sigma=0.0)
    with pytest.raises(InputError, match="draws"):
        NoiseFront(draws=0)
    with pytest.raises(NotApplicable, match="RandomForest"):
        RandomizedSmoothing()(RandomForest(), TRAIN, VAL)
