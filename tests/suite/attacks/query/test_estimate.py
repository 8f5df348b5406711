"""Attacks on estimated gradients: linear models in closed form, and possible patients only."""

import pytest
import torch
from torch import nn

from suite.attacks._search import Goal, Hunt
from suite.attacks.gradient import PGD
from suite.attacks.noise import RandomNoise
from suite.attacks.query.estimate import NES, SPSA
from suite.base.errors import InputError
from suite.base.seeding import torch_generator
from suite.core.classifier import TorchClassifier
from suite.core.space import Space
from tests.support.models import images, linear, moons, patients, rows

ATTACKS = [NES(), SPSA(samples=50)]


def name(attack):
    return type(attack).__name__


def fooled(classifier, x, y):
    return classifier.judge(x) != y


@pytest.mark.parametrize("attack", ATTACKS, ids=name)
@pytest.mark.parametrize("n", [1, 3, 8, 60])
def test_fools_what_lies_within_reach_of_a_linear_model_and_nothing_else(attack, n):
    classifier = linear()
    x, y = rows(classifier, n)
    weight = classifier.module.weight.detach()
    lead = (classifier.module(x).detach() @ torch.tensor([-1.0, 1.0])) * (1 - 2 * y)
    exact = -lead / ((weight[1] - weight[0]) * classifier.space.scale).abs().sum()
    eps = exact.median().item() * 1.5
    found = type(attack)(eps=eps, samples=50)(classifier, x, y)
    hit = fooled(classifier, found, y)
    assert hit[exact < 0.9 * eps].all() and not hit[exact > eps].any()
    assert torch.equal(found[~hit], x[~hit])
    assert (classifier.space.distance(found, x) <= eps + 1e-5).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=name)
def test_many_samples_point_along_the_gradient(attack):
    classifier = linear()
    x, y = rows(classifier, 4)
    attack, goal = type(attack)(samples=4000), Goal(classifier, y)
    hunt = Hunt(classifier, classifier.space.reach(x, 0.1), goal, True)
    _, grad = goal.gradient(classifier, x, "margin")
    for batch in (None, 100):  # in one piece, and in many
        classifier.batch = batch
        estimate = attack._gradient(classifier, hunt, x, torch_generator(0))
        assert torch.cosine_similarity(estimate, grad * classifier.space.scale).min() > 0.99


@pytest.mark.parametrize("attack", ATTACKS, ids=name)
def test_queries_are_exact(attack):
    module = nn.Linear(6, 2)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.copy_(torch.tensor([1.0, 0.0]))
    classifier = TorchClassifier(module, 2, Space(-50.0, 50.0))
    x, y = torch.zeros(8, 6), torch.zeros(8, dtype=torch.long)
    for early_stop in (True, False):
        classifier.queries = 0
        type(attack)(steps=7, samples=12, early_stop=early_stop)(classifier, x, y)
        assert classifier.queries == 8 * (7 * 13 + 1)
    classifier.queries = 0
    attack(classifier, x, 1 - y)
    assert classifier.queries == 8  # wrong already


@pytest.mark.parametrize("attack", ATTACKS, ids=name)
def test_patients_stay_possible_and_noise_does_less(attack):
    classifier, x, y = patients()
    asked, scores = [], classifier.scores
    classifier.scores = lambda z: (asked.append(z), scores(z))[1]
    few, many = (type(attack)(eps=eps, steps=20, samples=30)(classifier, x, y) for eps in (0.05, 0.1))
    assert all(classifier.space.possible(z).all() for z in asked)
    assert classifier.space.contains(many, x).all()
    assert (classifier.space.distance(many, x) <= 0.1 + 1e-5).all()
    hits = [fooled(classifier, z, y).sum() for z in (
        RandomNoise(eps=0.1, draws=1)(classifier, x, y), few, many, PGD(eps=0.1)(classifier, x, y))]
    assert max(hits[:2]) < hits[2] and hits[2] >= 0.8 * hits[3] > 0


def test_both_are_nearly_as_strong_as_with_the_gradient():
    classifier, x, y = moons()
    exact = fooled(classifier, PGD(eps=0.06)(classifier, x, y), y).sum()
    for attack in (NES(eps=0.06, samples=20), SPSA(eps=0.06, samples=20)):
        assert fooled(classifier, attack(classifier, x, y), y).sum() >= exact - 6


@pytest.mark.parametrize("attack", ATTACKS, ids=name)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_seeds_and_targets(attack, channels):
    classifier, x, y = images(channels, classes=4)
    state, attack = torch.get_rng_state(), type(attack)(eps=0.3, target=2, steps=20)
    first, again, other = (attack(classifier, x, y, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
    moved = (first != x).flatten(1).any(1)
    assert moved.any() and not torch.equal(first, other)
    assert (classifier.judge(first)[moved] == 2).all()
    assert first.min() >= 0 and first.max() <= 1 and (first - x).abs().max() <= 0.3 + 1e-6


@pytest.mark.parametrize("attack", [NES, SPSA])
@pytest.mark.parametrize("samples", [0, 7])
def test_bad_parameters_are_refused(attack, samples):
    with pytest.raises(InputError, match="samples"):
        attack(samples=samples)
