"""MemGuard: blinds an attack on answers, within its distortion; labels stay."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.post_training.memguard import MemGuard
from suite.results import metrics


class Leaky(Classifier):
    """Sure of the rows it knows (below 1), less sure of others; the first column says how the label comes out."""

    def __init__(self):
        super().__init__(2, Space(-9.0, 9.0))

    def _proba(self, x):
        odds = np.where(x[:, 1] < 0, 4.0, 1.5) + 0.5 * x[:, 2]
        p = 1 / (1 + np.exp(-np.sign(x[:, 0]) * odds))
        return np.column_stack([1 - p, p])


def split(n, member, seed):
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=n), np.full(n, -1.0 if member else 1.0), rng.normal(size=n)])
    return Split(x.astype(np.float32), (x[:, 0] > 0).astype(np.int64), Space(-9.0, 9.0), ("a", "b"), np.arange(n))


TRAIN, VAL = split(400, True, 0), split(400, False, 1)
FRESH = split(400, False, 2)


def leak(model):
    """AUROC of being sure, for training rows against strangers."""
    sure = np.concatenate([model.predict_proba(s.x).max(1) for s in (TRAIN, FRESH)])
    return metrics.auroc(sure, np.repeat([True, False], 400))


@pytest.fixture(scope="module")
def guarded():
    return {d: MemGuard(d).wrap(Leaky(), TRAIN, VAL) for d in (0.02, 0.2, 2.0)}


def test_blinds_an_attack_on_answers_the_more_the_further_it_may_bend_them(guarded):
    seen = [leak(Leaky()), *(leak(guarded[d]) for d in (0.02, 0.2, 2.0))]
    assert seen[0] > 0.99 and seen[1] > 0.95
    assert seen[3] < 0.75 and seen[2] < seen[1]


@pytest.mark.parametrize("distortion", [0.02, 0.2, 2.0])
def test_no_label_changes_and_no_answer_is_bent_further_than_said(distortion, guarded):
    for s in (TRAIN, FRESH):
        told, full = guarded[distortion].predict_proba(s.x), Leaky().predict_proba(s.x)
        assert (told.argmax(1) == full.argmax(1)).all()
        assert np.abs(told - full).sum(1).max() <= distortion + 1e-4
        np.testing.assert_allclose(told.sum(1), 1, atol=1e-6)


def test_the_same_rows_get_the_same_answers_whatever_they_are_asked_with(guarded):
    model = guarded[0.2]
    np.testing.assert_allclose(model.predict_proba(FRESH.x[:5]), model.predict_proba(FRESH.x)[:5], atol=1e-12)


def test_the_defenders_attack_is_one_that_scikit_learn_confirms(guarded):
    """An attack of the same kind, fitted anew to what is told, does no better than the guard lets it."""
    told = np.concatenate([guarded[2.0].predict_proba(s.x)[:, 1:] for s in (TRAIN, VAL)])
    seen = np.repeat([1, 0], 400)
    plain = np.concatenate([Leaky().predict_proba(s.x) for s in (TRAIN, VAL)]).max(1, keepdims=True)
    before = LogisticRegression().fit(plain, seen).score(plain, seen)
    sure = np.maximum(told, 1 - told)
    assert before > 0.9 and LogisticRegression().fit(sure, seen).score(sure, seen) < before - 0.1
