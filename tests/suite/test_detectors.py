"""Outlier detectors: known distances, silence on clean data, and gradients."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.metrics import roc_auc_score

from suite.detectors import Mahalanobis, Neighbors, TorchDetector
from suite.errors import InputError
from tests.breast import breast

DETECTORS = (Mahalanobis, Neighbors)


def correlated(n: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = np.array([[1, 0.9, 0], [0, 0.4, 0], [0, 0, 30]])
    return (rng.normal(size=(n, 3)) @ mix + [0, 5, -100]).astype(np.float32)


def test_mahalanobis_is_the_distance_scipy_computes():
    clean, new = correlated(), correlated(20, seed=1) * np.float32(1.3)
    inverse = np.linalg.inv(np.cov(clean.astype(np.float64), rowvar=False))
    expected = [mahalanobis(row, clean.mean(0, dtype=np.float64), inverse) for row in new]
    assert np.allclose(Mahalanobis(ridge=0).fit(clean).score(new), expected, rtol=1e-4)


def test_mahalanobis_of_classes_is_the_distance_to_the_nearest_mean_under_the_pooled_covariance():
    clean, y = np.concatenate([correlated(), correlated(200, 1) + np.float32([9, 0, 0])]), np.repeat([0, 1], [300, 200])
    new = correlated(20, seed=2) + np.float32([5, 0, 0])
    groups = [clean[y == c].astype(np.float64) for c in (0, 1)]
    pooled = sum(np.cov(g, rowvar=False) * (len(g) - 1) for g in groups) / (len(clean) - 2)
    expected = cdist(new, [g.mean(0) for g in groups], "mahalanobis", VI=np.linalg.inv(pooled)).min(1)
    assert np.allclose(Mahalanobis(ridge=0).fit(clean, y).score(new), expected, rtol=1e-4)


def test_mahalanobis_sees_what_single_columns_do_not():
    odd = np.array([[1.5, 5 - 1.5, -100]], np.float32)  # each value is ordinary, but the two rise together
    even = np.array([[1.5, 5 + 1.5, -100]], np.float32)
    detector = Mahalanobis().fit(correlated())
    assert detector.score(odd) > 3 * detector.score(even)


def test_mahalanobis_needs_a_ridge_for_columns_that_never_vary():
    clean = np.column_stack([correlated(), np.full(300, 7)]).astype(np.float32)
    with pytest.raises(InputError, match="ridge"):
        Mahalanobis(ridge=0).fit(clean)
    deviating = clean[:1] + np.float32([0, 0, 0, 1])
    detector = Mahalanobis().fit(clean)
    assert detector.score(deviating) > detector.score(clean).max()


def test_neighbors_is_the_kth_smallest_distance_in_standard_units():
    clean, new = correlated(), correlated(20, seed=1)
    std, mean = clean.std(0, dtype=np.float64), clean.mean(0, dtype=np.float64)
    expected = np.sort(cdist((new - mean) / std, (clean - mean) / std), axis=1)[:, 6]
    assert np.allclose(Neighbors(k=7).fit(clean).score(new), expected, rtol=1e-3)


def test_neighbors_sees_a_hole_that_an_ellipsoid_covers():
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 400)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    centre = np.zeros((1, 2), np.float32)
    assert Neighbors().fit(ring).score(centre) > Neighbors().fit(ring).threshold(0.01, ring)
    assert Mahalanobis().fit(ring).score(centre) < Mahalanobis().fit(ring).score(ring).min()


def test_neighbors_keeps_no_more_rows_than_asked_and_the_same_ones_each_time():
    clean = correlated()
    detector = Neighbors(most=50).fit(clean)
    assert len(detector.module.rows) == 50
    assert np.array_equal(detector.score(clean), Neighbors(most=50).fit(clean).score(clean))


@pytest.mark.parametrize("kind", DETECTORS)
def test_cannot_tell_clean_from_clean(kind: type[TorchDetector]):
    aucs = []
    for seed in range(4):
        train, val, test = breast(seed)
        detector = kind().fit(train.x)
        aucs.append(roc_auc_score(np.repeat([0, 1], [len(val), len(test)]),
                                  np.concatenate([detector.score(val.x), detector.score(test.x)])))
    assert abs(np.mean(aucs) - 0.5) < 0.06, aucs


@pytest.mark.parametrize("kind", DETECTORS)
def test_farther_away_is_more_suspicious(kind: type[TorchDetector]):
    clean = correlated()
    away = clean.mean(0) + np.arange(0, 20, 2, dtype=np.float32)[:, None] * clean.std(0)
    scores = kind().fit(clean).score(away)
    assert (np.diff(scores) > 0).all()
    assert scores.dtype == np.float64


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_threshold_is_exceeded_by_the_asked_share(kind: type[TorchDetector], fpr: float):
    held_out = correlated(1000, seed=3)
    detector = kind().fit(correlated())
    share = (detector.score(held_out) > detector.threshold(fpr, held_out)).mean()
    assert fpr - 0.002 <= share <= fpr


@pytest.mark.parametrize("kind", DETECTORS)
def test_gradient_of_the_score_is_right(kind: type[TorchDetector]):
    clean = correlated()
    module = kind().fit((clean - clean.mean(0)) / clean.std(0)).module.double()
    x = torch.tensor([[3.0, -2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)


@pytest.mark.parametrize("kind", DETECTORS)
def test_images_and_empty_batches_are_inputs_too(kind: type[TorchDetector]):
    images = np.random.default_rng(0).random((30, 1, 4, 4), np.float32)
    detector = kind().fit(images)
    assert detector.score(images).shape == (30,)
    assert detector.score(images[:0]).shape == (0,)
    assert detector.score(1 - 9 * images[:1]) > detector.score(images).max()


def test_bad_parameters_and_too_few_rows_are_named():
    with pytest.raises(InputError, match="k=10"):
        Neighbors().fit(correlated(9))
    with pytest.raises(InputError, match="at least two"):
        Mahalanobis().fit(correlated(1))
