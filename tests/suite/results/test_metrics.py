"""Metrics against hand computation, closed forms, SciPy and scikit-learn."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from suite.results import metrics


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (1, 1), (3, 10), (50, 154), (999, 1000)])
def test_the_wilson_interval_is_scipys(k, n):
    found = metrics.proportion(k, n)
    theirs = binomtest(k, n).proportion_ci(0.95, "wilson")
    assert found.value == k / n and found.n == n
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_wilson_interval_of_five_in_ten_by_hand():
    z2 = 1.959963984540054**2  # for p = 1/2 the interval is 1/2 -+ z / (2 sqrt(n + z^2))
    half = math.sqrt(z2) / (2 * math.sqrt(10 + z2))
    assert metrics.proportion(np.arange(10) < 5)[:3] == pytest.approx((0.5, 0.5 - half, 0.5 + half))


@pytest.mark.parametrize("n", [1, 12, 154])
def test_none_and_all_end_exactly_at_the_ends(n):
    assert metrics.proportion(0, n).low == 0.0
    assert metrics.proportion(n, n).high == 1.0


def test_no_rows_give_nan_and_no_warning():
    for found in (metrics.proportion(np.zeros(0, bool)), metrics.bootstrap(lambda i: 1 / len(i), 0)):
        assert found.n == 0 and all(math.isnan(v) for v in found[:3])


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auroc_is_scikit_learns_with_and_without_ties(levels):
    rng = np.random.default_rng(levels)
    y = rng.random(200) < 0.3
    score = rng.integers(0, levels, 200) + 0.5 * y * levels * rng.random(200).round()
    assert metrics.auroc(score, y) == pytest.approx(roc_auc_score(y, score), abs=1e-12)


def test_auroc_by_hand():
    # pairs (positive, negative): 3>1, 3>2, 2>1, 2=2 -> 3.5 of 4
    assert metrics.auroc(np.array([3.0, 2.0, 1.0, 2.0]), np.array([True, True, False, False])) == 3.5 / 4
    assert math.isnan(metrics.auroc(np.ones(3), np.ones(3, bool)))


def test_macro_auroc_of_three_classes_is_the_mean_of_one_against_the_rest():
    rng = np.random.default_rng(0)
    proba, y = rng.dirichlet(np.ones(3), 120), rng.integers(0, 3, 120)
    theirs = roc_auc_score(y, proba, multi_class="ovr", average="macro")
    found = metrics.classification(y, proba.argmax(1), proba, ("a", "b", "c"))["auroc"]
    assert found.value == pytest.approx(theirs, abs=1e-12)
    assert found.low < found.value < found.high


def test_many_resamples_at_once_give_the_interval_of_one_after_the_other():
    rng = np.random.default_rng(0)
    score, y = rng.integers(0, 9, 150).astype(float), rng.random(150) < 0.4
    slow = metrics.bootstrap(lambda i: metrics.auroc(score[i], y[i]), 150, 3, y)
    assert metrics.weighted(metrics.resampled_auroc(score, y), 150, 3, y) == pytest.approx(slow, abs=1e-12)
    assert math.isnan(metrics.weighted(metrics.resampled_auroc(score, y), 0).value)


def test_tpr_at_fpr_by_hand():
    others, members = np.arange(1.0, 11.0), np.array([0.5, 9.5, 10.0, 11.0])
    score, member = np.r_[others, members], np.repeat([False, True], [10, 4])
    # no false alarm: above 10 -> one of four; one in ten: above 9 -> three; two in ten: above 8 -> three
    assert metrics.tpr_at_fpr(score, member, 0.0) == 0.25
    assert metrics.tpr_at_fpr(score, member, 0.0999) == 0.25
    assert metrics.tpr_at_fpr(score, member, 0.1) == 0.75
    assert metrics.tpr_at_fpr(score, member, 0.2) == 0.75
    assert metrics.tpr_at_fpr(score, member, 1.0) == 1.0


def test_tpr_at_fpr_takes_ties_together():
    score, member = np.ones(20), np.arange(20) < 10
    assert metrics.tpr_at_fpr(score, member, 0.5) == 0.0  # a threshold below 1 would accuse everyone


def test_f1_and_balanced_accuracy_are_scikit_learns():
    rng = np.random.default_rng(3)
    y, pred = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    assert [metrics.f1(pred, y, k) for k in range(3)] == pytest.approx(f1_score(y, pred, average=None))
    assert metrics.balanced_accuracy(pred, y) == pytest.approx(balanced_accuracy_score(y, pred))
    assert metrics.f1(np.zeros(4, int), np.zeros(4, int), 2) == 0.0


def test_calibration_error_by_hand():
    # bin 0.6: confidence .65, right half the time -> .15 of 2 rows; bin 0.9: confidence .9 and 1, both right -> .05
    proba = np.array([[0.65, 0.35], [0.35, 0.65], [0.9, 0.1], [0.0, 1.0]])
    found = metrics.calibration_error(proba, np.array([0, 0, 0, 1]))
    assert found == pytest.approx((2 * 0.15 + 2 * 0.05) / 4)
    assert metrics.calibration_error(np.eye(2), np.array([0, 1])) == 0.0


def test_the_bootstrap_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        x = rng.normal(0, 1, 60)
        found = metrics.bootstrap(lambda i, x=x: float(x[i].mean()), 60, trial, resamples=300)
        covered += found.low <= 0 <= found.high
    assert 180 <= covered <= 199  # binomial(200, .95) lies in here with probability 0.999


def test_the_bootstrap_is_its_seeds_and_keeps_classes():
    y = np.repeat([0, 1], [97, 3])
    seen = []

    def share(i):
        seen.append(int(y[i].sum()))
        return float(i.mean())

    first, again = (metrics.bootstrap(share, 100, 5, y) for _ in range(2))
    assert first == again != metrics.bootstrap(share, 100, 6, y)
    assert set(seen) == {3}


def test_classification_of_two_classes_by_hand():
    y, pred = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1])
    proba = np.stack([1 - pred, pred], 1) * 0.8 + 0.1
    out = metrics.classification(y, pred, proba, ("well", "ill"))
    value = {k: v.value for k, v in out.items()}
    assert value["accuracy"] == 0.6 and value["sensitivity"] == 2 / 3 == value["recall[ill]"]
    assert value["specificity"] == 0.5 and value["precision[ill]"] == 2 / 3 and value["precision[well]"] == 0.5
    assert [value[f"confusion[{a}->{b}]"] for a in ("well", "ill") for b in ("well", "ill")] == [1, 1, 1, 2]
    assert out["sensitivity"].n == 3 and out["precision[well]"].n == 2 and "refused" not in out
    assert all(v.low <= v.value <= v.high for k, v in out.items() if not k.startswith("confusion"))


def test_a_refused_row_is_wrong_and_counted():
    y, pred = np.array([1, 1, 0, 0]), np.array([1, -1, 0, -1])
    out = metrics.classification(y, pred, None, ("well", "ill"))
    assert out["accuracy"].value == 0.5 and out["refused"].value == 0.5 and out["sensitivity"].value == 0.5
    assert "auroc" not in out


def test_a_model_that_says_the_same_of_everyone_has_collapsed():
    y = np.repeat([0, 1], [90, 10])
    assert metrics.collapsed(np.zeros(100, int), y)
    assert metrics.collapsed(np.r_[np.zeros(99, int), 1], y)
    assert metrics.collapsed(np.arange(100) % 2, y)  # a coin
    assert not metrics.collapsed(y, y)
    assert not metrics.collapsed(np.zeros(0, int), np.zeros(0, int))


def test_collapse_is_judged_against_the_chance_of_so_many_classes():
    y = np.arange(500) % 5
    pred = np.where(np.arange(500) % 2 == 0, y, (y + 1) % 5)  # right half the time, where chance is a fifth
    assert metrics.balanced_accuracy(pred, y) == 0.5
    assert not metrics.collapsed(pred, y)


def changes(same, gained, lost):
    """Outcomes after and before of rows that stay right, become right, become wrong."""
    return np.repeat([True, True, False], [same, gained, lost]), np.repeat([True, False, True], [same, gained, lost])


@pytest.mark.parametrize("n", [1, 8, 154])
def test_no_change_among_n_rows_is_not_certain(n):
    # with nothing seen to change, Tango's interval ends at -+ z^2 / (n + z^2)
    end = 1.959963984540054**2 / (n + 1.959963984540054**2)
    assert metrics.paired(*changes(n, 0, 0))[:3] == pytest.approx((0, -end, end), abs=1e-9)


@pytest.mark.parametrize(("same", "gained", "lost"), [(36, 12, 2), (43, 0, 1), (75, 4, 0), (20, 7, 7), (0, 5, 3)])
def test_the_paired_interval_ends_where_the_score_test_does(same, gained, lost):
    """Against a search for the likeliest table under each end, which the closed form is not told of."""
    found, n = metrics.paired(*changes(same, gained, lost)), same + gained + lost
    assert found.value == pytest.approx((gained - lost) / n) and found.n == n
    for end in (found.low, found.high):
        worse = np.linspace(max(0.0, -end), (1 - end) / 2, 200_001)[1:-1]
        likelihood = gained * np.log(worse + end) + lost * np.log(worse) + same * np.log1p(-end - 2 * worse)
        q = worse[np.nanargmax(np.where((worse + end > 0), likelihood, -np.inf))]
        z = (gained - lost - n * end) / math.sqrt(n * (2 * q + end - end**2))
        assert abs(z) == pytest.approx(1.959963984540054, rel=2e-3)


def test_the_paired_interval_covers_what_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        stays, gained, lost = rng.multinomial(100, [0.87, 0.1, 0.03])
        found = metrics.paired(*changes(stays, gained, lost))
        held += found.low <= 0.07 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_resamples_that_all_agree_are_no_certainty():
    label = np.repeat([0, 1], [100, 20])
    none, everyone = (metrics.bootstrap(lambda i, v=v: v, 120, 0, label) for v in (0.0, 1.0))
    room = metrics.proportion(0, 20).high
    assert none[:3] == pytest.approx((0.0, 0.0, room)) and everyone[:3] == pytest.approx((1.0, 1 - room, 1.0))
    assert metrics.bootstrap(lambda _: 0.0, 120, 0, label, least=-1.0)[:3] == pytest.approx((0.0, -room, room))


def test_the_roc_by_hand_takes_ties_as_one_step():
    fpr, tpr = metrics.roc_curve(np.array([3.0, 2.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False, True]))
    assert fpr.tolist() == [0, 0, 0.5, 1, 1]
    assert tpr.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("n", "fpr", "shift"), [(154, 0.05, 1.0), (154, 0.1, 2.5), (400, 0.01, 1.5)])
def test_the_interval_of_a_tpr_covers_the_rate_at_the_true_threshold(n, fpr, shift):
    """A bootstrap of 154 members at 1 % covers 0.90: the threshold is one of the two highest non-members."""
    from scipy.stats import norm

    member, truth = np.repeat([True, False], n), norm.sf(norm.isf(fpr) - shift)
    found = [metrics.tpr_at(np.random.default_rng(seed).normal(size=2 * n) + shift * member, member, fpr)
             for seed in range(600)]
    # of 600 at 95 %, four standard errors below: what covers 0.90 does not reach it
    assert np.mean([e.low <= truth <= e.high for e in found]) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 600)
    assert all(e.low <= e.value <= e.high for e in found) and np.mean([e.high - e.low for e in found]) < 0.5


def test_a_false_positive_rate_that_so_few_cannot_resolve_has_no_lower_end():
    assert metrics.least_fpr(154) == pytest.approx(0.0251, abs=1e-4) and metrics.least_fpr(400) < 0.01
    score, member = np.r_[np.ones(154), np.zeros(154)], np.repeat([True, False], 154)
    assert metrics.tpr_at(score, member, 0.01)[:3] == (1.0, 0.0, 1.0)
    low = metrics.tpr_at(score, member, 0.05).low  # nobody missed among 154, and the threshold is 0 either way
    assert low == pytest.approx(0.005 ** (1 / 154))
    assert metrics.tpr_at(np.zeros(308), member, 0.05)[:2] == (0.0, 0.0)  # nobody lies above a tie
