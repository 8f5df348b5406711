"""GenAttack: reach in closed form, exact counts, and the shrinking mutation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from suite.attacks.noise import RandomNoise
from suite.attacks.query.genattack import GenAttack
from suite.attacks.query.zoo import Zoo
from suite.core.classifier import EstimatorClassifier
from suite.core.space import Space
from tests.support.models import linear, rows
from tests.support.pictures import exact, picture


def test_finds_what_is_well_within_reach_and_nothing_that_is_not():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 32)
    far = exact(classifier, x, "linf")
    eps = float(far.median())
    found = GenAttack(eps=eps)(classifier, x, y)
    fooled = classifier.judge(found) != y
    assert fooled[far < 0.9 * eps].all() and not fooled[far > eps].any()
    assert (classifier.space.distance(found, x) <= eps * 1.0001).all() and torch.equal(found[~fooled], x[~fooled])


@pytest.mark.parametrize("population", [2, 6])
def test_counts_every_query_where_nothing_fools(population):
    class Constant:
        def predict_proba(self, x):
            return np.tile([0.9, 0.1], (len(x), 1))

    classifier = EstimatorClassifier(Constant(), 2, Space(0.0, 1.0))
    x, y = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1])
    GenAttack(steps=30, population=population, plateau=2)(classifier, x, y)
    assert classifier.queries == 3 + 2 * 30 * (population - 1)


def test_a_fooled_row_asks_no_more():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 8, spread=0.1)
    GenAttack(eps=3.0)(classifier, x, y)
    assert classifier.queries < 8 * 60


def test_mutation_pays():
    classifier, x, y = picture()
    attack = GenAttack(eps=0.05, steps=100)
    found = [a(classifier, x, y) for a in (attack, replace(attack, alpha=0.0, plateau=1))]
    good, bad = ((classifier.judge(z) != y).float().mean() for z in found)
    assert good > bad + 0.2


def test_beats_noise_and_asks_less_than_zoo_on_images():
    classifier, x, y = picture()
    queries, fooled = [], []
    zoo = Zoo(norm="l2", eps=float("inf"), steps=10)
    for attack, n in (GenAttack(eps=0.05), 24), (RandomNoise(eps=0.05, draws=1000), 24), (zoo, 4):
        classifier.queries = 0
        fooled.append((classifier.judge(attack(classifier, x[:n], y[:n])) != y[:n]).float().mean())
        queries.append(classifier.queries / n)
    assert fooled[0] > fooled[1] + 0.1 and queries[0] < queries[2]
