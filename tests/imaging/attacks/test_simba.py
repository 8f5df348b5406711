"""SimBA: on a linear model every step and its gain are known."""

import pytest
import torch

from imaging.attacks.simba import SimBA
from imaging.space import ImageSpace
from imaging.transforms import dct
from suite.attacks.noise import RandomNoise
from suite.base.errors import InputError
from suite.base.seeding import torch_generator
from tests.support.linear import constant, linear, slope

BASES = ["dct", "pixel"]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 4, 7)])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_each_direction_of_a_linear_model_gains_what_it_can(basis, shape, n):
    """With room for all its steps, SimBA gains the L1 norm of the gradient in its basis."""
    classifier, x, y = linear(shape, n=n)
    lead, grad = slope(classifier, x, y)
    gain = (dct.spectrum(grad) if basis == "dct" else grad).abs().flatten(1).sum(1)
    step = (-lead / gain).median().item() * 1.001
    found = SimBA(eps=10.0, basis=basis, step=step / 10, frequencies=0.5, stride=0.3)(classifier, x, y)
    hit = classifier.judge(found) != y
    assert torch.equal(hit, lead + step * gain > 0) and hit.any()
    assert torch.equal(found[~hit], x[~hit])


@pytest.mark.parametrize("basis", BASES)
def test_keeps_to_its_budget_and_finds_nothing_below_the_exact_distance(basis):
    classifier, x, y = linear((1, 6, 8), n=32)
    lead, grad = slope(classifier, x, y)
    exact = -lead / grad.flatten(1).norm(dim=1)
    eps = exact.median().item()
    hits = []
    for share in (1.0, 2.0):
        found = SimBA(eps=share * eps, basis=basis)(classifier, x, y)
        hit = classifier.judge(found) != y
        assert (ImageSpace().distance(found, x, "l2") <= share * eps + 1e-6).all()
        assert not hit[exact > share * eps].any()
        hits.append(int(hit.sum()))
    assert hit[exact < eps].all()  # at twice the distance
    assert hits[1] > hits[0] > 0
    noise = RandomNoise(eps=2 * eps, norm="l2", draws=100)(classifier, x, y)
    assert hits[1] > (classifier.judge(noise) != y).sum()


@pytest.mark.parametrize("basis", BASES)
def test_queries_are_exact(basis):
    classifier, x, y = constant((1, 5, 5))
    assert torch.equal(SimBA(basis=basis, steps=9)(classifier, x, y), x)
    assert classifier.queries == 8 * (1 + 2 * 9)  # neither sign helps
    classifier.queries = 0
    SimBA(basis=basis)(classifier, x, y)
    assert classifier.queries == 8 * (1 + 2 * 25)  # no direction twice
    classifier.queries = 0
    SimBA(basis=basis)(classifier, x, 1 - y)
    assert classifier.queries == 8  # wrong already


def test_a_direction_that_helps_at_once_costs_one_query():
    classifier, x, y = linear((1, 4, 4), n=1)
    with torch.no_grad():  # darker is always worse
        sign = 1.0 - 2 * y[0]
        classifier.module[1].weight.copy_(torch.stack([torch.ones(16), -torch.ones(16)]) * sign)
        classifier.module[1].bias.copy_(torch.tensor([sign, -sign]) * (1.0 - 8))
    x = torch.full((1, 1, 4, 4), 0.5)
    y = classifier.judge(x)
    classifier.queries = 0
    SimBA(basis="pixel", step=0.01, steps=10)(classifier, x, y)
    assert classifier.queries == 11


def test_low_frequencies_come_first_ring_by_ring():
    order = SimBA(frequencies=0.25, stride=0.5)._order(torch.zeros(4, 3, 8, 12), torch_generator(0))
    assert torch.equal(order.sort(1).values, torch.arange(3 * 96).expand(4, -1))
    row, column = order // 12 % 8, order % 12  # first 2 x 3 of 8 x 12, then 6 x 9, of each of 3 channels
    low, next_ = (row < 2) & (column < 3), (row < 6) & (column < 9)
    assert low[:, :18].all() and not low[:, 18:].any() and next_[:, :162].all() and not next_[:, 162:].any()
    assert not torch.equal(order[0], order[1])


@pytest.mark.parametrize("basis", BASES)
def test_same_seed_same_result_targets_and_batches(basis):
    classifier, x, y = linear((3, 5, 4), classes=4, n=16)
    state, attack = torch.get_rng_state(), SimBA(eps=3.0, basis=basis, target=2)
    first, again, other = (attack(classifier, x, y, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    moved = (first != x).flatten(1).any(1)
    assert (classifier.judge(first)[moved] == 2).all() and moved.sum() > 8
    classifier.batch = 3
    assert (classifier.judge(attack(classifier, x, y))[moved] == 2).all()


@pytest.mark.parametrize("wrong", [{"basis": "wavelet"}, {"frequencies": 0}, {"stride": 0}])
def test_bad_parameters_are_refused(wrong):
    with pytest.raises(InputError, match="SimBA"):
        SimBA(**wrong)
