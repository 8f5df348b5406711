"""Outlier detectors: known distances, silence on clean data, and gradients."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, mahalanobis
from scipy.special import expit
from scipy.stats import chi2, kstest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity as SklearnDensity
from torch import nn

from suite.attacks.gradient import FGSM
from suite.base.errors import InputError, NotApplicable
from suite.base.seeding import seeded
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from suite.detectors import LID, BitDepth, KernelDensity, Mahalanobis, Neighbors, TorchDetector
from suite.detectors.density import cross_validated
from suite.detectors.lid import dimensionality
from tests.support import models as _models
from tests.support.breast import breast

DETECTORS = (Mahalanobis, Neighbors, KernelDensity)


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


@pytest.mark.parametrize("detector", [Neighbors(k=1), KernelDensity()])
def test_the_score_of_an_input_close_to_few_clean_ones_hangs_on_no_other_input(detector):
    """PyTorch has two ways to compute distances, and by default chooses by the number of inputs."""
    clean = correlated(20)
    detector.fit(clean)
    near = np.tile(clean, (2, 1)) + np.float32(1e-4)
    assert np.allclose(detector.score(near), np.concatenate([detector.score(p) for p in np.split(near, 5)]), atol=1e-6)


def test_a_network_without_parameters_can_be_squeezed():
    class Sum(nn.Module):
        def forward(self, x):
            return torch.stack([-x.sum(1), x.sum(1)], 1)

    clean = np.random.default_rng(0).random((10, 3), np.float32)
    scores = BitDepth().fit(clean, classifier=TorchClassifier(Sum(), 2, Space(0.0, 1.0))).score(clean)
    assert scores.shape == (10,) and (scores > 0).any()


def test_mahalanobis_of_one_input_a_class_has_no_covariance():
    with pytest.raises(InputError, match="2 clean inputs of 2 classes have no spread"):
        Mahalanobis().fit(np.eye(2, dtype=np.float32), np.arange(2))


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


def network(inputs: int = 3, width: int = 8) -> TorchClassifier:
    with seeded(0):
        module = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, 2))
    return TorchClassifier(module, 2, Space(-200.0, 200.0, 20.0))


def features(classifier: TorchClassifier, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return classifier.module[:2](torch.from_numpy(x)).double().numpy()


class TestOnFeatures:
    def test_distances_on_gaussian_data_are_those_of_chi_square(self):
        rng = np.random.default_rng(0)
        mix = rng.normal(size=(5, 5))
        clean, new = (rng.normal(size=(n, 5)).astype(np.float32) @ mix.astype(np.float32) for n in (4000, 2000))
        scores = Mahalanobis(ridge=0).fit(clean).score(new)
        assert kstest(scores ** 2, chi2(5).cdf).pvalue > 0.01

    def test_mahalanobis_of_a_network_is_that_of_its_features(self):
        rng = np.random.default_rng(0)
        clean, new = (rng.normal(size=(n, 3)).astype(np.float32) for n in (400, 30))
        y, classifier = (clean[:, 0] > 0).astype(np.int64), network(width=4)
        inside, seen = features(classifier, clean), features(classifier, new)
        groups = [inside[y == c] for c in (0, 1)]
        pooled = sum(np.cov(g, rowvar=False) * (len(g) - 1) for g in groups) / (len(clean) - 2)
        expected = cdist(seen, [g.mean(0) for g in groups], "mahalanobis", VI=np.linalg.inv(pooled)).min(1)
        assert np.allclose(Mahalanobis(ridge=0).fit(clean, y, classifier).score(new), expected, rtol=1e-3)

    def test_a_model_without_gradients_leaves_them_the_inputs(self):
        clean = correlated()
        forest = EstimatorClassifier(DummyClassifier().fit(clean, [0, 1] * 150), 2, Space(-200.0, 200.0))
        assert np.array_equal(Neighbors().fit(clean, None, forest).score(clean), Neighbors().fit(clean).score(clean))
        with pytest.raises(NotApplicable, match="looks inside a network"):
            LID().fit(clean, None, forest)

    def test_too_many_features_for_a_covariance_are_refused(self):
        with pytest.raises(NotApplicable, match="covariance of 10000 features"):
            Mahalanobis().fit(np.zeros((3, 1, 100, 100), np.float32))


class TestKernelDensity:
    def test_is_the_density_that_scikit_learn_computes_among_inputs_of_the_predicted_class(self):
        rng = np.random.default_rng(0)
        clean, new = (rng.normal(size=(n, 3)).astype(np.float32) for n in (300, 40))
        classifier = network()
        y = classifier.predict(clean)
        inside, seen = features(classifier, clean), features(classifier, new)
        mean, std = inside.mean(0), inside.std(0)
        inside, seen = (inside - mean) / std, (seen - mean) / std
        by_class = [SklearnDensity(bandwidth=0.3).fit(inside[y == c]).score_samples(seen) for c in (0, 1)]
        expected = -np.choose(classifier.predict(new), by_class)
        assert set(classifier.predict(new)) == {0, 1}
        assert np.allclose(KernelDensity(bandwidth=0.3).fit(clean, y, classifier).score(new), expected, atol=1e-2)
        # of inputs alone, the class in which it is greatest
        raw = (clean - clean.mean(0)) / clean.std(0), (new - clean.mean(0)) / clean.std(0)
        best = -np.max([SklearnDensity(bandwidth=0.3).fit(raw[0][y == c]).score_samples(raw[1]) for c in (0, 1)], 0)
        assert np.allclose(KernelDensity(bandwidth=0.3).fit(clean, y).score(new), best, atol=1e-2)

    def test_the_bandwidth_is_the_likeliest_by_leave_one_out(self):
        rows = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 2)))
        chosen = cross_validated(rows, torch.zeros(60, dtype=torch.int64))

        def likelihood(h):
            return np.mean([SklearnDensity(bandwidth=h).fit(np.delete(rows.numpy(), i, 0)).score(rows[i:i + 1].numpy())
                            for i in range(60)])

        assert all(likelihood(chosen) >= likelihood(chosen * factor) for factor in (10 ** -0.125, 10 ** 0.125))

    def test_copies_are_no_ground_for_a_width_of_nothing(self):
        assert cross_validated(torch.zeros(5, 2), torch.zeros(5)) == 1.0
        with pytest.raises(InputError, match="bandwidth"):
            KernelDensity(bandwidth=0.0)

    def test_far_inputs_still_differ(self):
        scores = KernelDensity().fit(correlated()).score(np.float32([[50, 5, -100], [500, 5, -100]]))
        assert np.isfinite(scores).all() and scores[1] > scores[0]


class TestLID:
    @pytest.mark.parametrize("d", [2, 5])
    def test_of_a_uniform_ball_is_its_dimension(self, d):
        rng = np.random.default_rng(d)
        ball = rng.normal(size=(4000, d))
        ball *= rng.random((4000, 1)) ** (1 / d) / np.linalg.norm(ball, axis=1, keepdims=True)
        # seen from the middle, also when the ball lies in a space of more dimensions
        queries = 0.1 * rng.normal(size=(200, d)) / d
        lifted = np.linalg.qr(rng.normal(size=(8, d)))[0].T
        distances = torch.from_numpy(np.sort(cdist(queries @ lifted, ball @ lifted), axis=1)[:, :100])
        assert float(dimensionality(distances).mean()) == pytest.approx(d, rel=0.07)

    def test_by_hand(self):
        assert float(dimensionality(torch.tensor([[1.0, 2.0, 4.0]]))[0]) == pytest.approx(1 / np.log(2))
        assert dimensionality(torch.zeros(1, 3)).isfinite().all()

    def test_finds_the_attack_it_was_fitted_on(self):
        classifier, x, y = _models.moons()
        with seeded(0):
            clean = (x.repeat(4, 1) + 0.01 * torch.randn(800, 2)).clamp(0, 1)
        detector = LID(eps=0.2).fit(clean[:600].numpy(), y.repeat(4)[:600].numpy(), classifier)
        test, label = clean[600:], y.repeat(4)[600:]
        attacked = FGSM(eps=0.2)(classifier, test, label)
        scores = [detector.score(a.numpy()) for a in (test, attacked)]
        assert roc_auc_score(np.repeat([0, 1], 200), np.concatenate(scores)) > 0.8

    def test_what_it_needs_is_named(self):
        with pytest.raises(InputError, match="k must be"):
            LID(k=100)
        with pytest.raises(InputError, match="at least 120"):
            LID().fit(correlated(110), None, network())


class TestBitDepth:
    def test_is_the_change_of_the_probabilities_by_hand(self):
        classifier = TorchClassifier(nn.Linear(1, 2), 2, Space(0.0, 3.0))
        with torch.no_grad():
            classifier.module.weight.copy_(torch.tensor([[0.0], [1.0]]))
            classifier.module.bias.zero_()
        # two bits of [0, 3] are the whole numbers
        detector = BitDepth(bits=2).fit(np.zeros((2, 1), np.float32), None, classifier)
        expected = [0, *(2 * abs(expit(a) - expit(b)) for a, b in ((1.4, 1), (2.6, 3)))]
        assert np.allclose(detector.score(np.float32([[2], [1.4], [2.6]])), expected, atol=1e-6)

    def test_the_gradient_goes_straight_through(self):
        classifier = network()
        module = BitDepth(bits=8).fit(correlated(), None, classifier).module
        x = torch.randn(5, 3, requires_grad=True)
        grad, = torch.autograd.grad(module(x).sum(), x)
        assert grad.abs().sum() > 0

    def test_makes_no_sense_without_bounds(self):
        unbounded = TorchClassifier(nn.Linear(3, 2), 2, Space(-np.inf, np.inf))
        with pytest.raises(NotApplicable, match="least and a greatest"):
            BitDepth().fit(correlated(), None, unbounded)
        with pytest.raises(InputError, match="bits"):
            BitDepth(bits=0)


@pytest.mark.parametrize("kind", [Mahalanobis, Neighbors, KernelDensity, LID, BitDepth])
def test_with_a_network_clean_cannot_be_told_from_clean_and_scores_repeat(kind):
    with seeded(0):
        x = torch.randn(900, 3).numpy()
    classifier = network()
    first, again = (kind().fit(x[:300], classifier.predict(x[:300]), classifier) for _ in range(2))
    scores = first.score(x[300:])
    assert abs(roc_auc_score(np.repeat([0, 1], 300), scores) - 0.5) < 0.06
    assert np.array_equal(scores, again.score(x[300:])) and scores.dtype == np.float64
    first.batch = 7
    assert np.allclose(first.score(x[300:]), scores, atol=1e-5)
    assert first.score(x[:0]).shape == (0,)
    state = torch.random.get_rng_state()
    kind().fit(x[:300], None, classifier)
    assert torch.equal(torch.random.get_rng_state(), state)
