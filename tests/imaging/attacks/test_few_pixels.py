"""Few pixels: the best ones of a linear model are known, and so is what evolution may make of four parents."""

from itertools import permutations

import pytest
import torch

from imaging.attacks.pixels import FewPixels, painted
from imaging.space import ImageSpace
from suite.attacks.noise import RandomNoise
from suite.base.errors import InputError
from suite.base.seeding import torch_generator
from tests.support.linear import constant, linear, slope

SMALL = {"population": 150, "generations": 15}


def gains(classifier, x, y, pixels):
    """By how much the best so many pixels raise the lead, and the lead."""
    lead, grad = slope(classifier, x, y)
    best = torch.maximum(grad * (1 - x), -grad * x).sum(1).flatten(1)  # each channel at its better limit
    return best.topk(pixels).values.sum(1), lead


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 4)])
@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("pixels", [1, 3])
def test_finds_the_best_pixels_of_a_linear_model(shape, n, pixels):
    classifier, x, y = linear(shape, n=n)
    gain, lead = gains(classifier, x, y, pixels)
    _, grad = slope(classifier, x, y)
    for share, possible in ((1.02, False), (0.85 if pixels == 1 else 0.6, True)):
        # moved along the slope, until the lead that is missing is about that share of what the best pixels give
        moved = x - ((share * gain + lead) / grad.flatten(1).square().sum(1)).view(-1, 1, 1, 1) * grad
        assert moved.min() > 0 and moved.max() < 1
        gain_now, lead_now = gains(classifier, moved, y, pixels)
        expected = gain_now + lead_now > 0
        found = FewPixels(eps=float(pixels), **SMALL)(classifier, moved, y)
        hit = classifier.judge(found) != y
        assert not hit[~expected].any() and torch.equal(found[~hit], moved[~hit])
        if possible:
            assert expected.all() and hit.all()
        changed = ImageSpace().distance(found, moved, "l0")
        assert (changed[hit] >= 1).all() and changed.max() <= pixels and found.min() >= 0 and found.max() <= 1


def test_queries_are_exact():
    classifier, x, y = constant((1, 5, 5))
    attack = FewPixels(population=10, generations=4)
    assert torch.equal(attack(classifier, x, y), x)
    assert classifier.queries == 8 * 10 * 5
    classifier.queries = 0
    attack(classifier, x, 1 - y)
    assert classifier.queries == 8 * 10  # fooled by the first population


def test_more_pixels_and_more_generations_fool_more_and_noise_of_a_pixel_fools_less():
    classifier, x, y = linear((1, 12, 12), n=64)

    def hits(eps, generations):
        found = FewPixels(eps=eps, population=10, generations=generations)(classifier, x, y)
        return int((classifier.judge(found) != y).sum())

    few, many, one = hits(2.0, 0), hits(2.0, 10), hits(1.0, 10)
    assert few < many > one
    # as much L2 as two pixels can be, spread over the image as noise
    assert many > (classifier.judge(RandomNoise(eps=0.65 * 2**0.5, norm="l2", draws=1)(classifier, x, y)) != y).sum()


def test_same_seed_same_result_whatever_fits_in_a_batch():
    classifier, x, y = linear((3, 5, 4))
    state, attack = torch.get_rng_state(), FewPixels(eps=2.0, population=20, generations=3)
    first, other = attack(classifier, x, y), attack(classifier, x, y, seed=1)
    assert torch.equal(torch.get_rng_state(), state) and not torch.equal(first, other)
    classifier.batch = 9  # the 8 images at once, but not their 160 candidates
    assert torch.equal(attack(classifier, x, y), first)


@pytest.mark.parametrize("classes", [3, 7])
def test_reaches_a_target(classes):
    classifier, x, y = linear((1, 6, 6), classes, n=24)
    found = FewPixels(eps=5.0, target=1, **SMALL)(classifier, x, y)
    label, moved = classifier.judge(found), (found != x).flatten(1).any(1)
    assert (label[moved] == 1).all() and moved.sum() > 3
    free = classifier.judge(FewPixels(eps=5.0, **SMALL)(classifier, x, y)) != y
    assert free.sum() >= (label == 1).sum() - (y == 1).sum()


def test_paints_pixels_by_hand():
    x = torch.zeros(1, 2, 3, 4)
    pixels = torch.tensor([[[0.0, 0.0, 0.1, 0.2], [0.99, 0.5, 0.3, 0.4], [0.7, 0.74, 0.5, 0.6]]])
    expected = torch.zeros(1, 2, 3, 4)
    expected[0, :, 0, 0] = torch.tensor([0.1, 0.2])
    expected[0, :, 2, 2] = torch.tensor([0.5, 0.6])  # the last of two that share a place
    assert torch.equal(painted(x, pixels), expected) and not x.any()


def test_a_child_is_one_member_and_half_the_difference_of_two_others():
    values = 0.5 + 0.005 * torch.tensor([1.0, 3.0, 9.0, 27.0])
    members = values[None, :, None, None].expand(500, 4, 1, 3).clone()
    children = FewPixels(population=4)._children(members, {"generator": torch_generator(0), "device": members.device})
    assert (children == children[..., :1]).all()
    possible = {round(float(a + (b - c) / 2), 4) for a, b, c in permutations(values.tolist(), 3)}
    assert {round(v, 4) for v in children[..., 0].flatten().tolist()} == possible
    members[..., 0] += torch.linspace(-0.5, 0.45, 4)[:, None]
    children = FewPixels(population=4, factor=3.0)._children(members, {"generator": torch_generator(0),
                                                                       "device": members.device})
    assert children.min() >= 0 and children.max() <= 1 and children[..., :2].max() < 1


@pytest.mark.parametrize("wrong", [{"eps": 0.5}, {"eps": 1.5}, {"eps": float("inf")}, {"population": 3}])
def test_bad_parameters_are_refused(wrong):
    with pytest.raises(InputError, match="FewPixels"):
        FewPixels(**wrong)
