"""ZOO: distances in closed form, exact counts, and ahead of ART's at equal queries."""

import pytest
import torch

from suite.attacks.query import ArtZoo
from suite.attacks.zoo import Zoo
from tests.suite._models import linear, moons, rows
from tests.suite.test_hopskipjump import exact, picture


def test_finds_the_closed_form_distance_and_never_less():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 8, spread=0.3)
    found = Zoo(steps=60, search=5, lr=0.05)(classifier, x, y)
    assert (classifier.judge(found) != y).all()
    ratio = classifier.space.distance(found, x, "l2") / exact(classifier, x, "l2")
    assert ratio.min() >= 1 and ratio.median() < 1.02 and ratio.max() < 1.1


def test_finds_what_is_within_reach_and_nothing_that_is_not():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 24)
    far = exact(classifier, x, "l2")
    eps = float(far.median())
    found = Zoo(eps=eps, lr=0.1)(classifier, x, y)
    fooled = classifier.judge(found) != y
    assert fooled[far < 0.8 * eps].float().mean() > 0.9 and not fooled[far > eps].any()
    assert (classifier.space.distance(found, x, "l2") <= eps + 1e-6).all()


@pytest.mark.parametrize(("coordinates", "asked"), [(4, 4), (128, 6)])
def test_counts_every_query(coordinates, asked):
    classifier = linear()
    x, y = rows(classifier, 5)
    Zoo(steps=7, search=2, coordinates=coordinates)(classifier, x, torch.cat([y[:4], 1 - y[4:]]))
    assert classifier.queries == 5 + 4 * 7 * 2 * (1 + 2 * asked)


def test_batches_change_no_answer_where_all_coordinates_are_measured():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 4)
    whole = Zoo(search=1)(classifier, x, y)
    classifier.batch = 3
    assert torch.allclose(Zoo(search=1)(classifier, x, y), whole, atol=1e-4)


@pytest.mark.parametrize(("data", "count", "eps"), [(moons, 16, 0.12), (picture, 6, 0.25)])
def test_is_ahead_of_art_at_equal_queries(data, count, eps):
    classifier, x, y = data()
    right = (classifier.judge(x) == y).nonzero()[:count, 0]
    x, y = x[right], y[right]
    classifier.queries = 0
    theirs = ArtZoo(eps=1.0, max_iter=5, constants=1, rate=0.05)(classifier, x, y)
    spent, classifier.queries = classifier.queries, 0
    ours = Zoo(steps=5, search=1, lr=0.02)(classifier, x, y)
    assert classifier.queries <= spent
    few, many = (((classifier.judge(z) != y) & (classifier.space.distance(z, x, "l2") <= eps)).sum()
                 for z in (theirs, ours))
    assert few + 2 < many
