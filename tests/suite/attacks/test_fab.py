"""FAB against closed forms, a linear program, an independent library, and its contract."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from suite.attacks.fab import FAB, nearest_on_plane
from suite.attacks.minimal import DeepFool
from suite.base.seeding import seeded
from suite.core.space import Reach, Space
from tests.support.attacks import exact_distance, fooled
from tests.support.models import images, linear, moons, patients, rows


def planes(n=12, d=7):
    """Points in boxes of unequal units, some features frozen, and planes of which the last three are out of reach."""
    with seeded(5):
        lower, width = torch.rand(n, d), torch.rand(n, d)
        width[:, 2] = 0
        p = lower + width * torch.rand(n, d)
        p[:, 3] = lower[:, 3]
        slope, scale = torch.randn(n, d), torch.rand(d) + 0.5
        most = torch.where(slope > 0, lower + width - p, lower - p).mul(slope).sum(1)
        gap = most * torch.rand(n)
        gap[-3:] = 1.5 * most[-3:]
    sign = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)  # planes behind as well as ahead
    return p, slope * sign[:, None], gap * sign, Reach(p, lower, lower + width), scale


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_that_of_a_solver(norm):
    p, slope, gap, reach, scale = planes()
    q = nearest_on_plane(p, slope, gap, reach, scale, norm)
    assert (q >= reach.lower - 1e-6).all() and (q <= reach.upper + 1e-6).all()
    got = ((q - p) * slope).sum(1)
    torch.testing.assert_close(got[:-3], gap[:-3])
    assert (got.abs()[-3:] < gap.abs()[-3:]).all()
    delta = ((q - p) / scale).double().numpy()
    for i in range(len(p)):
        w, room = (slope[i] * scale).double().numpy(), [((t[i] - p[i]) / scale).double().numpy()
                                                        for t in (reach.lower, reach.upper)]
        if i >= len(p) - 3:  # as far towards the plane as the box allows
            best = np.where((w > 0) == (gap[i].item() > 0), room[1], room[0])
            np.testing.assert_allclose(delta[i] @ w, best @ w, rtol=1e-5)
        elif norm == "linf":  # least t with |delta_j| <= t
            d = len(w)
            limits = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
            best = linprog(np.r_[np.zeros(d), 1], limits, np.zeros(2 * d), np.r_[w, 0][None], [gap[i].item()],
                           [*zip(*room, strict=True), (0, None)])
            assert abs(delta[i]).max() == pytest.approx(best.fun, rel=1e-4, abs=1e-6)
        else:
            best = minimize(lambda v: v @ v, np.zeros(len(w)), jac=lambda v: 2 * v, bounds=[*zip(*room, strict=True)],
                            constraints={"type": "eq", "fun": lambda v, w=w, i=i: v @ w - gap[i].item()}, tol=1e-12)
            assert delta[i] @ delta[i] == pytest.approx(best.fun, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_reaches_the_distance_of_a_linear_model(norm, n):
    classifier = linear()
    x, y = rows(classifier, n)
    adversarial = FAB(norm=norm)(classifier, x, y)
    assert fooled(classifier, adversarial, y).all()
    ratio = classifier.space.distance(adversarial, x, norm) / exact_distance(classifier, x, norm)
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("fields", [{}, {"rivals": 4}], ids=["nearest", "rivals"])
def test_finds_the_nearest_of_many_boundaries(norm, fields):
    classifier = linear(classes=5)
    x, y = rows(classifier, 40)
    weight, scale = classifier.module.weight.detach(), classifier.space.scale
    with torch.no_grad():
        logits = classifier.module(x)
    slopes = torch.linalg.vector_norm((weight[None] - weight[y][:, None]) * scale, 1 if norm == "linf" else 2, dim=2)
    exact = ((logits.gather(1, y[:, None]) - logits) / slopes).nan_to_num(torch.inf).scatter(1, y[:, None], torch.inf)
    adversarial = FAB(norm=norm, **fields)(classifier, x, y)
    assert fooled(classifier, adversarial, y).all()
    got = classifier.space.distance(adversarial, x, norm) / exact.amin(1)
    assert got.min() >= 1 - 1e-4
    assert got.max() <= 1.02


def test_the_box_is_part_of_the_projection():
    classifier = linear(3)
    x, y = rows(classifier, 8, (3,))
    x[:, 0] = 1.0
    classifier.space = Space(torch.tensor([1.0, -50, -50]), torch.tensor([1.0, 50, 50]))
    with torch.no_grad():
        y, gap = classifier.module(x).argmax(1), classifier.module(x).diff(dim=1).abs()[:, 0]
    weight = classifier.module.weight.diff(dim=0)[0].detach()
    adversarial = FAB()(classifier, x, y)
    assert torch.equal(adversarial[:, 0], x[:, 0])
    got = classifier.space.distance(adversarial, x) / (gap / weight[1:].abs().sum())
    torch.testing.assert_close(got, torch.ones(8), rtol=0.02, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_patients_stay_possible_and_frozen_columns_as_they_are(norm):
    classifier, x, y = patients()
    adversarial = FAB(norm=norm)(classifier, x, y)
    assert classifier.space.contains(adversarial, x).all()
    assert torch.equal(adversarial[:, 2], x[:, 2])
    hit = fooled(classifier, adversarial, y)
    assert hit.float().mean() > 0.5
    assert torch.equal(adversarial[~hit], x[~hit])


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_of_few_and_many_classes(norm, classes):
    classifier, x, y = images(3, classes)
    adversarial = FAB(norm=norm)(classifier, x, y)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert fooled(classifier, adversarial, y).all()
    distance = classifier.space.distance(adversarial, x, norm)
    bound = float(distance.median())
    bounded = FAB(eps=bound, norm=norm)(classifier, x, y)
    moved = (bounded != x).flatten(1).any(1)
    assert torch.equal(moved, distance <= bound) and (classifier.space.distance(bounded, x, norm) <= bound).all()


def test_a_target_is_reached_by_name():
    classifier = linear(classes=4)
    x, y = rows(classifier, 40)
    adversarial = FAB(target=2)(classifier, x, y)
    reached = classifier.judge(adversarial) == 2
    assert reached.sum() > (y == 2).sum() + 15
    assert torch.equal(adversarial[~reached], x[~reached])


def test_early_stop_costs_less_and_fools_the_same_rows():
    classifier, x, y = moons()
    whole, count = FAB(eps=0.06)(classifier, x, y), classifier.queries
    quick = FAB(eps=0.06, early_stop=True)(classifier, x, y)
    assert classifier.queries - count < 0.75 * count
    assert (fooled(classifier, quick, y) != fooled(classifier, whole, y)).sum() <= 2
    assert classifier.space.distance(whole, x).sum() < classifier.space.distance(quick, x).sum()


@pytest.mark.parametrize(("norm", "eps", "nearest", "radius"), [
    ("l2", 4.0, np.inf, 2.0), ("l2", 4.0, 1.0, 0.5), ("l2", np.inf, np.inf, 3.0), ("linf", 0.4, np.inf, 0.2),
    ("linf", np.inf, np.inf, 0.5)])
def test_a_restart_is_half_as_far_away_as_need_be_looked(norm, eps, nearest, radius):
    classifier = linear(36)
    x, _ = rows(classifier, 50, (36,))
    start = FAB(norm=norm, eps=eps)._around(classifier, classifier.space.reach(x, np.inf), torch.full((50,), nearest),
                                            torch.Generator().manual_seed(0))
    far = classifier.space.distance(start, x, norm)
    if norm == "l2":
        torch.testing.assert_close(far, torch.full((50,), radius))
    else:
        assert 0.8 * radius < far.min() and far.max() <= radius


def test_restarts_find_nothing_further_away_and_the_seed_decides():
    classifier, x, y = moons()
    state = torch.random.get_rng_state()
    x, y = x[~fooled(classifier, x, y)], y[~fooled(classifier, x, y)]
    once, thrice = (classifier.space.distance(FAB(steps=5, restarts=r)(classifier, x, y), x) for r in (1, 3))
    once, thrice = (torch.where(d == 0, torch.inf, d) for d in (once, thrice))  # not found
    assert (thrice <= once + 1e-3).all() and (thrice < once - 1e-4).any()
    first, same, other = (FAB(steps=2, restarts=2)(classifier, x, y, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_passes_are_counted_and_batches_change_no_result():
    classifier, x, y = linear(classes=12), *rows(linear(classes=12), 5)
    FAB(steps=3, candidates=4, early_stop=True, eps=1e-6)(classifier, x, y)
    assert (classifier.queries, classifier.gradients) == (5 * 3, 5 * 3 * 4)
    classifier, x, y = moons()
    whole = FAB(steps=20)(classifier, x[:20], y[:20])
    classifier.batch = 7
    torch.testing.assert_close(FAB(steps=20)(classifier, x[:20], y[:20]), whole, rtol=0, atol=1e-4)


def test_goes_no_further_than_deepfool():
    classifier, x, y = moons()
    ours, theirs = (classifier.space.distance(attack(classifier, x, y), x, "l2")
                    for attack in (FAB(norm="l2"), DeepFool()))
    assert ours.median() <= 1.01 * theirs.median() and ours.mean() <= theirs.mean()
