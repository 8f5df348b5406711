"""Square Attack and stripes: closed forms on linear models, and the schedule by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from imaging.attacks.square import Bumps, Limits, Square, _bump
from imaging.attacks.stripes import VerticalStripes, striped
from imaging.space import ImageSpace
from suite.attacks.noise import RandomNoise
from suite.base.errors import InputError
from suite.base.seeding import torch_generator
from suite.core.classifier import EstimatorClassifier
from suite.core.space import Reach
from tests.support.linear import constant, linear, slope

SHAPES = [(1, 6, 6), (3, 5, 8), (1, 9, 4), (1, 1, 12)]
L2 = Square(norm="l2", eps=0.5, queries=60)
BOTH = [Square(queries=60), VerticalStripes(draws=20)]
THREE = [*BOTH, L2]


def fooled(classifier, x, y):
    return classifier.judge(x) != y


def everywhere(*shape, grey=0.5):
    """Grey images that may become anything."""
    x = torch.full(shape, grey)
    return Reach(x, torch.zeros(shape), torch.ones(shape))


# --- closed forms ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 3, 8])
def test_square_finds_what_lies_within_reach_and_nothing_else(shape, n):
    classifier, x, y = linear(shape, n=n)
    lead, grad = slope(classifier, x, y)
    exact = -lead / grad.abs().flatten(1).sum(1)
    eps = exact.max().item()
    for share in (0.5, 1.1):
        found = Square(eps=eps * share, queries=400)(classifier, x, y)
        hit = fooled(classifier, found, y)
        assert hit[exact < 0.9 * share * eps].all() and not hit[exact > share * eps].any()
        assert torch.equal(found[~hit], x[~hit])
        assert (found - x).abs().max() <= eps * share + 1e-6 and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize(("n", "shape", "share"), [(8, (1, 12, 12), 0.75), (3, (1, 9, 16), 0.75), (1, (3, 9, 10), 0.5)])
def test_square_in_l2_comes_near_what_the_slope_allows(n, shape, share):
    """The slope is a bump, the same in each channel: the best change in L2 is as long as the budget and along it."""
    classifier, x, y = linear(shape, n=n)
    row, column = (torch.arange(float(s)) - s / 2 for s in shape[1:])
    weight = (row[:, None] * torch.exp(-(row[:, None] ** 2 + column**2) / 8)).expand(shape).flatten()
    with torch.no_grad():
        classifier.module[1].weight.copy_(torch.stack([-weight, weight]))
        classifier.module[1].bias.zero_().sub_(classifier.module(x).mean(0) + torch.tensor([0.0, 0.1]))
    y = classifier.judge(x)
    lead, grad = slope(classifier, x, y)
    far = Square(norm="l2", eps=0.2, queries=1000, early_stop=False)(classifier, x, y)
    assert torch.allclose(ImageSpace().distance(far, x, "l2"), torch.tensor(0.2), rtol=1e-5)
    gain = (slope(classifier, far, y)[0] - lead) / (0.2 * grad.flatten(1).norm(dim=1))
    assert (gain > share).all() and (gain < 1 + 1e-5).all()
    exact = -lead / grad.flatten(1).norm(dim=1)
    for eps, possible in ((exact.median().item() * 0.99, False), (exact.median().item() * 1.01 / share, True)):
        found = Square(norm="l2", eps=eps, queries=1000)(classifier, x, y)
        hit = fooled(classifier, found, y)
        assert hit[exact < share * eps].all() and not hit[exact > eps].any() and hit.any() >= possible
        assert torch.equal(found[~hit], x[~hit]) and found.min() >= 0 and found.max() <= 1
        assert (ImageSpace().distance(found, x, "l2") <= eps + 1e-6).all()


@pytest.mark.parametrize("direction", ["vertical", "horizontal"])
def test_the_best_of_many_stripes_follows_the_sums_of_columns(direction):
    classifier, x, y = linear((1, 4, 5), n=32)
    lead, grad = slope(classifier, x, y)
    gain = grad.sum(2 if direction == "vertical" else 3).abs().flatten(1).sum(1)  # a unit of the best stripes
    eps = (-lead / gain).median().item() * 1.001
    hit = fooled(classifier, VerticalStripes(eps=eps, direction=direction, draws=400)(classifier, x, y), y)
    assert torch.equal(hit, lead + eps * gain > 0)  # of 32 patterns, 400 draws miss one with a chance of 3e-6
    assert 10 < hit.sum() < 22


def test_stripes_are_stripes():
    x = torch.rand(4, 3, 6, 5, generator=torch_generator(0))
    reach = Reach(x, (x - 0.1).clamp(min=0), (x + 0.1).clamp(max=1))
    for direction, axis in (("vertical", 2), ("horizontal", 3)):
        z = striped(reach, torch_generator(1), direction)
        up, down = z == reach.upper, z == reach.lower
        assert (up | down).all()
        sign = (z > x).float()
        assert (sign.amax(axis) == sign.amin(axis)).all()
        assert 0.2 < sign.mean() < 0.8


# --- the squares -----------------------------------------------------------------------------------------------------

def test_sides_follow_the_schedule_of_the_paper():
    attack = Square(queries=10_000)
    first = (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    assert [attack._side(k, 28, 28) for k in first] == [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
    assert [attack._side(k - 1, 28, 28) for k in first[1:]] == [25, 18, 13, 9, 6, 4, 3, 2, 2]
    stretched = Square(queries=1000)
    assert [stretched._side(k, 28, 28) for k in (1, 2, 5, 6, 800, 801)] == [25, 18, 18, 13, 2, 1]
    assert attack._side(0, 28, 20) == 20  # no longer than the shorter edge


def test_squares_lie_everywhere_inside_the_image_and_each_image_has_its_own():
    walk, covered, different = Limits(everywhere(5, 3, 7, 9), torch_generator(0)), torch.zeros(7, 9), 0
    for cells, corner, up, other in Square(queries=400)._steps(walk):
        image = torch.zeros(5, 3 * 63)
        image.scatter_(1, corner[:, None] + cells, 1.0)
        side = round((len(cells) / 3) ** 0.5)
        rows, columns = (image.view(5, 3, 7, 9).amax((1, axis)) for axis in (3, 2))
        assert (rows.sum(1) == side).all() and (columns.sum(1) == side).all()
        assert (image.sum(1) == 3 * side**2).all()
        covered += image.view(-1, 7, 9).sum(0)
        different += len(corner.unique()) > 1
        assert up.shape == other.shape == (5, 3, 1) and other.any(1).all()
    assert (covered > 0).all() and different > 300


def test_a_bump_by_hand():
    one, two = torch.tensor([[0.25, 1.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    by_hand = torch.cat([one / one.norm(), -two / two.norm()]) / 2**0.5
    assert torch.allclose(_bump(3), by_hand)
    assert _bump(1).tolist() == [[-1.0]]
    for side in (2, 4, 7):
        assert float(_bump(side).norm()) == pytest.approx(1)
        assert (_bump(side)[:side // 2] > 0).all() and (_bump(side)[side // 2:] < 0).all()


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 5), (1, 2, 4), (3, 3, 3)])
def test_a_step_in_l2_moves_the_budget_between_two_squares(shape):
    """What stands elsewhere stays, and so does the share of each channel, as long as no limit is met."""
    reach = everywhere(6, *shape)
    walk, moved, started = Bumps(reach, 0.1, torch_generator(0)), 0, None
    for cells, to, away, *drawn in Square(norm="l2", queries=150)._steps(walk):
        before = walk.images.clone() - 0.5
        started = before if started is None else started
        after = walk.ask(cells, to, away, *drawn) - 0.5
        elsewhere = torch.ones(6, shape[1] * shape[2], dtype=torch.bool)
        for corner in (to, away):
            elsewhere.scatter_(1, corner[:, None] + cells, False)
        for channel in range(shape[0]):
            a, b = before[:, channel].flatten(1), after[:, channel].flatten(1)
            assert torch.allclose(a[elsewhere], b[elsewhere], atol=1e-6)
            assert torch.allclose(b.norm(dim=1), a.norm(dim=1), atol=1e-6)
        assert torch.allclose(after.flatten(1).norm(dim=1), torch.tensor(0.1), atol=1e-6)
        moved += (after - before).abs().amax() > 1e-3
        walk.answer(torch.tensor([True, False] * 3))
        assert torch.equal(walk.images[::2] - 0.5, after[::2]) and torch.equal(walk.images[1::2] - 0.5, before[1::2])
    assert moved > 100 and (started[0] != 0).any(0).all()


def test_what_clipping_leaves_of_the_budget_in_l2_is_spent_elsewhere():
    black = Bumps(everywhere(4, 1, 8, 8, grey=0.0), 1.0, torch_generator(0))
    lengths = [black.images.flatten(1).norm(dim=1)]
    for step in Square(norm="l2", queries=30)._steps(black):
        lengths.append(black.ask(*step).flatten(1).norm(dim=1))
        black.answer(lengths[-1] > lengths[-2])
        lengths[-1] = black.images.flatten(1).norm(dim=1)
        assert (black.images >= 0).all() and (lengths[-1] <= 1 + 1e-6).all()
    assert (lengths[0] < 0.8).all() and (lengths[-1] > 0.95).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_no_query_repeats_what_stands_there(channels):
    classifier, x, y = linear((channels, 6, 6), n=4)
    asked, leads, scores = [], [], classifier.scores

    def watched(z):
        out = scores(z)
        asked.append(z.clone())
        leads.append(out.gather(1, 1 - y[:, None])[:, 0] - out.gather(1, y[:, None])[:, 0])
        return out

    classifier.scores = watched
    Square(eps=0.01, queries=200, early_stop=False)(classifier, x, y)
    best, lead = asked[0], leads[0]
    for z, reached in zip(asked[1:], leads[1:], strict=True):
        assert (z != best).flatten(1).any(1).all()
        best, lead = torch.where((reached > lead)[:, None, None, None], z, best), torch.maximum(lead, reached)


# --- costs, seeds and relations --------------------------------------------------------------------------------------

def test_queries_are_counted_and_kept_to():
    classifier, x, y = constant((1, 6, 6))
    assert torch.equal(Square(queries=70)(classifier, x, y), x)
    assert classifier.queries == 70 * 8
    classifier.queries = 0
    assert torch.equal(VerticalStripes(draws=7)(classifier, x, y), x)
    assert classifier.queries == 7 * 8
    classifier.queries = 0
    Square(queries=70)(classifier, x, 1 - y)  # wrong already: fooled by the first query
    assert classifier.queries == 8
    classifier.queries = 0
    Square(queries=1)(classifier, x, y)
    Square(queries=70, early_stop=False)(classifier, x, 1 - y)
    assert classifier.queries == 8 + 70 * 8
    classifier.queries = 0
    assert torch.equal(Square(queries=70, norm="l2")(classifier, x, y), x)
    Square(queries=70, norm="l2")(classifier, x, 1 - y)
    assert classifier.queries == 70 * 8 + 8


@pytest.mark.parametrize("attack", THREE, ids=lambda a: f"{type(a).__name__}-{a.norm}")
def test_same_seed_same_result_and_no_global_randomness(attack):
    classifier, x, y = linear((3, 6, 5))
    state = torch.get_rng_state()
    first, again, other = (attack(classifier, x, 1 - y, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.2)])
def test_more_queries_and_more_budget_go_further(norm, eps):
    classifier, x, y = linear((1, 8, 8), n=32)

    def lead(**parameters):
        return slope(classifier, Square(norm=norm, early_stop=False, **parameters)(classifier, x, y), y)[0]

    short, long, wide = lead(eps=eps, queries=20), lead(eps=eps, queries=200), lead(eps=2 * eps, queries=200)
    assert (long > short).float().mean() > 0.9 and (wide > long).all()


def test_square_beats_as_many_draws_of_noise_and_stops_at_the_first_success():
    classifier, x, y = linear((1, 8, 8), n=64)
    lead, grad = slope(classifier, x, y)
    eps = (-lead / grad.abs().flatten(1).sum(1)).median().item()
    hits = [fooled(classifier, a(classifier, x, y), y).sum() for a in (
        Square(eps=eps, queries=100), VerticalStripes(eps=eps), RandomNoise(eps=eps, draws=100))]
    assert hits[0] > hits[2] + 10 and hits[0] > hits[1]
    eps = 2 * (-lead / grad.flatten(1).norm(dim=1)).median().item()
    hits = [fooled(classifier, a(classifier, x, y), y).sum() for a in (
        Square(norm="l2", eps=eps, queries=100), RandomNoise(norm="l2", eps=eps, draws=100))]
    assert hits[0] > hits[1] + 5


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("attack", THREE, ids=lambda a: f"{type(a).__name__}-{a.norm}")
def test_targets_and_many_classes(attack, classes):
    classifier, x, y = linear((1, 6, 6), classes, n=24)
    attack = replace(attack, eps=0.3 if attack.norm == "linf" else 2.0)
    found = replace(attack, target=1)(classifier, x, y)
    label = classifier.judge(found)
    moved = (found != x).flatten(1).any(1)
    assert (label[moved] == 1).all() and (label == 1).sum() > (y == 1).sum()
    assert fooled(classifier, attack(classifier, x, y), y).float().mean() > 0.9


def test_square_asks_models_without_gradients_and_respects_a_refusal():
    class Mean:
        def predict_proba(self, x):
            p = 1 / (1 + np.exp(-40 * (x.reshape(len(x), -1).mean(1) - 0.5)))
            return np.stack([1 - p, p], 1)

    classifier = EstimatorClassifier(Mean(), 2, ImageSpace())
    x = torch.full((6, 1, 6, 6), 0.48) - torch.linspace(0, 0.05, 6).view(-1, 1, 1, 1)
    y = torch.zeros(6, dtype=torch.long)
    hit = fooled(classifier, Square(eps=0.04, queries=300)(classifier, x, y), y)
    assert hit.tolist() == [True, True, False, False, False, False]  # those less than 0.04 below 0.5
    refusing, x, y = linear((1, 6, 6), rejects=True, n=40)
    found = Square(eps=0.1, queries=60)(refusing, x, y)
    moved = (found != x).flatten(1).any(1)
    label = refusing.judge(found)
    assert moved.sum() > 5 and (label[moved] == 1 - y[moved]).all()


def test_rows_beyond_a_batch_are_attacked_too():
    classifier, x, y = linear((1, 6, 6), n=8)
    classifier.batch = 3
    for attack in (Square(eps=0.3, queries=200), Square(norm="l2", eps=2.0, queries=200)):
        assert fooled(classifier, attack(classifier, x, y), y).all()


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"p_init": 0.0}, {"p_init": 1.5}, {"norm": "l1"}])
def test_bad_parameters_are_refused(wrong):
    with pytest.raises(InputError, match="Square"):
        Square(**wrong)
