"""ZOO: distances in closed form, exact counts, and ahead of ART's at equal queries."""

from functools import partial

import numpy as np
import pytest
import torch

from suite.attacks.art.query import ArtZoo
from suite.attacks.query.zoo import Zoo
from tests.support.models import linear, moons, patients, rows
from tests.support.pictures import exact, picture

Smallest = partial(Zoo, norm="l2", eps=float("inf"))


def test_finds_the_closed_form_distance_and_never_less():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 8, spread=0.3)
    found = Smallest(steps=60, search=5, lr=0.05)(classifier, x, y)
    assert (classifier.judge(found) != y).all()
    ratio = classifier.space.distance(found, x, "l2") / exact(classifier, x, "l2")
    assert ratio.min() >= 1 and ratio.median() < 1.02 and ratio.max() < 1.1


def test_finds_what_is_within_reach_and_nothing_that_is_not():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 24)
    far = exact(classifier, x, "l2")
    eps = float(far.median())
    found = Smallest(eps=eps, lr=0.1)(classifier, x, y)
    fooled = classifier.judge(found) != y
    assert fooled[far < 0.8 * eps].float().mean() > 0.9 and not fooled[far > eps].any()
    assert (classifier.space.distance(found, x, "l2") <= eps + 1e-6).all()


def test_stays_in_the_ball_and_reaches_its_corner_on_a_linear_model():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 24)
    far = exact(classifier, x, "linf")
    eps = float(far.median())
    found = Zoo(eps=eps, lr=eps / 2)(classifier, x, y)
    fooled = classifier.judge(found) != y
    assert fooled[far < 0.99 * eps].all() and not fooled[far > 1.001 * eps].any()
    assert (classifier.space.distance(found, x) <= eps * (1 + 1e-5)).all()
    assert torch.equal(found[~fooled], x[~fooled])


def test_in_the_ball_a_row_that_is_fooled_asks_no_more():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 4)
    far = exact(classifier, x, "linf")
    Zoo(eps=0.9 * float(far.min()), steps=7)(classifier, x, y)
    assert classifier.queries == 4 + 4 * 7 * 13
    classifier.queries = 0
    Zoo(eps=2 * float(far.max()), lr=10.0, steps=7)(classifier, x, y)  # the first step leads to the corner
    assert classifier.queries == 4 + 4 * 13


def test_asks_nothing_about_features_that_are_frozen_in_all_rows():
    classifier, x, y = patients(relations=False)
    Zoo(eps=1e-6, steps=3)(classifier, x, y)  # only the continuous column can move by so little
    assert classifier.queries == len(x) * (1 + 3 * 3)


@pytest.mark.parametrize(("coordinates", "asked"), [(4, 4), (128, 6)])
def test_counts_every_query(coordinates, asked):
    classifier = linear()
    x, y = rows(classifier, 5)
    Smallest(steps=7, search=2, coordinates=coordinates)(classifier, x, torch.cat([y[:4], 1 - y[4:]]))
    assert classifier.queries == 5 + 4 * 7 * 2 * (1 + 2 * asked)


def test_batches_change_no_answer_where_all_coordinates_are_measured():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 4)
    whole = Smallest(search=1)(classifier, x, y)
    classifier.batch = 3
    assert torch.allclose(Smallest(search=1)(classifier, x, y), whole, atol=1e-4)


@pytest.mark.parametrize(("data", "count", "eps"), [(moons, 16, 0.12), (picture, 6, 0.25)])
def test_is_ahead_of_art_in_l2_at_equal_queries(data, count, eps):
    classifier, x, y = data()
    right = (classifier.judge(x) == y).nonzero()[:count, 0]
    x, y = x[right], y[right]
    ahead = []
    for seed in range(3):
        classifier.queries = 0
        theirs = ArtZoo(eps=1.0, max_iter=5, constants=1, rate=0.05)(classifier, x, y, seed)
        spent, classifier.queries = classifier.queries, 0
        ours = Smallest(steps=5, search=1, lr=0.02)(classifier, x, y, seed)
        assert classifier.queries <= spent
        few, many = (((classifier.judge(z) != y) & (classifier.space.distance(z, x, "l2") <= eps)).sum()
                     for z in (theirs, ours))
        ahead.append(int(many - few))
    assert np.mean(ahead) > 0.1 * count, ahead


@pytest.mark.parametrize(("data", "count", "eps", "options", "least"), [
    (moons, 60, 0.1, {"steps": 20}, 0.03), (moons, 60, 0.05, {"steps": 10, "lr": 0.025}, -0.02),
    (picture, 8, 0.02, {"steps": 10, "lr": 0.01}, -0.05), (patients, 60, 0.2, {"steps": 12, "lr": 0.1}, 0.03)])
def test_is_ahead_of_art_within_linf_at_equal_queries(data, count, eps, options, least):
    classifier, x, y = data()
    right = (classifier.judge(x) == y).nonzero()[:count, 0]
    x, y = x[right], y[right]
    ahead = []
    for seed in range(3):
        classifier.queries = 0
        theirs = ArtZoo(eps=eps)(classifier, x, y, seed)
        spent, classifier.queries = classifier.queries, 0
        ours = Zoo(eps=eps, **options)(classifier, x, y, seed)
        assert classifier.queries <= 0.8 * spent
        few, many = ((classifier.judge(z) != y).sum() for z in (theirs, ours))
        ahead.append(int(many - few))
        assert (classifier.space.distance(ours, x) <= eps + 1e-5).all()
    assert np.mean(ahead) >= least * len(x), ahead
