"""HopSkipJump: distances in closed form from labels alone, exact counts, and not behind ART's at equal queries."""

import math

import numpy as np
import pytest
import torch
from art.attacks import evasion

from suite.attacks.art.border import art_estimator, art_fence
from suite.attacks.query.hopskipjump import HopSkipJump
from suite.core.classifier import Classifier
from suite.core.space import Space
from tests.support.models import linear, moons, patients, rows
from tests.support.pictures import exact, picture


class LabelsOnly(Classifier):
    def __init__(self, inner):
        super().__init__(len(inner.classes_), inner.space)
        self.inner = inner

    def judge(self, x):
        self.queries += len(x)
        return self.inner.judge(x)

    def scores(self, x):
        raise AssertionError("asked for scores")

    _proba = predict_proba = scores


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_closed_form_distance_and_never_less(norm):
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 24)
    found = HopSkipJump(norm=norm)(LabelsOnly(classifier), x, y)
    assert (classifier.judge(found) != y).all()
    ratio = classifier.space.distance(found, x, norm) / exact(classifier, x, norm)
    assert ratio.min() >= 1 and ratio.median() < 1.02 and ratio.max() < 1.1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_come_nearer(norm):
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 16)
    walks = [HopSkipJump(norm=norm, max_iter=k)(classifier, x, y) for k in (0, 3, 20)]
    far, near, nearest = (classifier.space.distance(found, x, norm).mean() for found in walks)
    assert nearest < near < far


def test_counts_every_query():
    """On a plane without limits every first step along the normal still fools."""
    classifier, attack = linear(bound=1e4), HopSkipJump(norm="l2", max_iter=4, init_eval=30, max_eval=45)
    x, y = rows(classifier, 5)
    starts = torch.stack([x[y != label][0] for label in y])
    found = attack(classifier, x, y, starts=starts)
    halvings = math.ceil(-math.log2(0.1 * attack.delta / 6**0.5))
    evals = 30 + int(30 * 2**0.5) + 45 + 45
    assert classifier.queries == len(x) * (1 + 1 + 5 * halvings + evals + 4 + 1)
    assert (classifier.judge(found) != y).all()


def test_a_row_without_a_start_stays_and_asks_no_more():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 5)
    assert torch.equal(HopSkipJump()(classifier, x, y, starts=x), x)
    assert classifier.queries == 2 * len(x)


def test_starts_at_the_nearest_of_the_other_inputs():
    classifier = linear(bound=50.0)
    x, y = rows(classifier, 12)
    found = HopSkipJump(max_iter=0, init_size=12)(classifier, x, y)
    for row, label, other in zip(x, y, found, strict=True):
        pool = x[y != label]
        start = pool[classifier.space.distance(pool, row.expand_as(pool)).argmin()]
        direct = HopSkipJump(max_iter=0)(classifier, row[None], label[None], starts=start[None])[0]
        assert torch.allclose(direct, other, atol=1e-3)


def test_gives_up_what_lies_beyond_eps():
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 24)
    eps = float(exact(classifier, x, "linf").median())
    found = HopSkipJump(eps=eps)(classifier, x, y)
    moved = (found != x).any(1)
    assert 6 <= moved.sum() <= 12 and (classifier.space.distance(found, x)[moved] <= eps * 1.001).all()


def test_raw_knows_ranges_only():
    classifier, x, y = patients()
    raw, found = HopSkipJump().raw(classifier, x, y), HopSkipJump()(classifier, x, y)
    assert (classifier.judge(raw) != y).all() and (classifier.judge(found) != y).all()
    assert not classifier.space.contains(raw, x).any() and classifier.space.contains(found, x).all()
    assert Space.contains(classifier.space, raw, x).all()
    assert (classifier.space.distance(raw, x) < classifier.space.distance(found, x)).float().mean() > 0.9


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("data", "count"), [(moons, 12), (picture, 4)])
def test_is_not_behind_art_at_equal_queries(data, count, norm):
    classifier, x, y = data()
    right = classifier.judge(x) == y
    starts = torch.stack([(x[y != label])[0] for label in y])[right][:count]
    x, y = x[right][:count], y[right][:count]
    options = {"max_iter": 6, "init_eval": 30, "max_eval": 60}
    ours, art = [], []
    for seed in range(3):
        classifier.queries = 0
        found = HopSkipJump(norm=norm, **options)(classifier, x, y, seed, starts=starts)
        asked, classifier.queries = classifier.queries, 0
        with art_fence(seed):
            reference = evasion.HopSkipJump(art_estimator(classifier, x.shape[1:]), verbose=False,
                                            norm=np.inf if norm == "linf" else 2, **options)
            theirs = torch.from_numpy(reference.generate(x.numpy(), x_adv_init=starts.numpy()))
        assert asked < 1.1 * classifier.queries
        assert (classifier.judge(found) != y).all()
        for kept, z in ((ours, found), (art, theirs)):
            kept.append(float(classifier.space.distance(z, x, norm).median()))
    assert np.mean(ours) < 1.02 * np.mean(art)  # of a few rows each, which one seed alone would decide
