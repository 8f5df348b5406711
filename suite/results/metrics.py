"""Metrics with 95 % intervals: Wilson for proportions, Tango for their differences, bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 1000


class Estimate(NamedTuple):
    """A value with its 95 % interval and the number of rows behind it. NaN where it is undefined."""

    value: float
    low: float
    high: float
    n: int


def proportion(hits: np.ndarray | int, n: int | None = None, z: float = Z95) -> Estimate:
    """A share with its Wilson score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Args:
        hits: (n,) bool, or a count together with `n`.
        z: Standard errors to either side; more than 1.96 for several shares together.
    """
    k, n = (int(np.sum(hits)), len(hits)) if n is None else (int(hits), n)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    p, z2 = k / n, z**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at 0 and n the interval ends exactly there; rounding must not say otherwise
    return Estimate(p, 0.0 if k == 0 else max(0.0, centre - half), 1.0 if k == n else min(1.0, centre + half), n)


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, seed: int = 0, strata: np.ndarray | None = None,
              resamples: int = RESAMPLES, *, least: float = 0.0) -> Estimate:
    """A statistic of rows with its percentile bootstrap interval (Efron 1979, Ann. Stat. 7:1).

    Where all resamples agree (nobody was found, everybody was), the interval is as wide as Wilson's of a share of which
    nothing was seen among the rows of the smallest stratum: to have seen no exception is no proof that there is none.

    Args:
        statistic: `row positions -> value` in [least, 1]; resamples on which it is NaN are left out.
        n: Number of rows.
        seed: Of the resampling.
        strata: (n,) labels; each resample keeps their counts, so that no class goes missing.
        resamples: Number of resamples.
        least: Least possible value; -1 for differences.
    """
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    draws, smallest = _draws(n, seed, strata, resamples)
    values = np.array([statistic(draw) for draw in draws])
    return _percentiles(values, float(statistic(np.arange(n))), n, smallest, least)


def weighted(statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int = 0, strata: np.ndarray | None = None,
             resamples: int = RESAMPLES) -> Estimate:
    """As `bootstrap`, of the same resamples, for a statistic that can be computed for many of them at once.

    Args:
        statistic: `(r, n) float64, how often each row was drawn -> (r,) values`.
        n, seed, strata, resamples: As for `bootstrap`.
    """
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    draws, smallest = _draws(n, seed, strata, resamples)
    values = [statistic(np.stack([np.bincount(draw, minlength=n) for draw in part]).astype(np.float64))
              for part in np.array_split(draws, -(-draws.size // _AT_ONCE))]
    return _percentiles(np.concatenate(values), float(statistic(np.ones((1, n)))[0]), n, smallest, 0.0)


_AT_ONCE = 2**18
"""Numbers of rows drawn, of all resamples together, that are worked on at once: few enough for the caches."""


def _draws(n: int, seed: int, strata: np.ndarray | None, resamples: int) -> tuple[np.ndarray, int]:
    """(resamples, n) row positions, and the size of the smallest stratum."""
    rng = np.random.default_rng(seed)
    groups = [np.arange(n)] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    draws = np.concatenate([g[rng.integers(0, len(g), (resamples, len(g)))] for g in groups], axis=1)
    return draws, min(map(len, groups))


def _percentiles(values: np.ndarray, value: float, n: int, smallest: int, least: float) -> Estimate:
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
    if low == high:
        room = proportion(0, smallest).high
        low, high = max(least, low - room), min(1.0, high + room)
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def paired(after: np.ndarray, before: np.ndarray) -> Estimate:
    """Difference of two shares of the same rows with its score interval (Tango 1998, Stat. Med. 17:891).

    A bootstrap would call it certain that nothing changes where no row happened to.

    Args:
        after, before: (n,) bool outcomes of the rows.

    Returns:
        `mean(after) - mean(before)`, in [-1, 1].
    """
    n, gained, lost = len(after), int((after & ~before).sum()), int((before & ~after).sum())
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)

    return Estimate((gained - lost) / n, _least_difference(gained, lost, n), -_least_difference(lost, gained, n), n)


def balanced_change(after: np.ndarray, before: np.ndarray, y: np.ndarray, seed: int = 0) -> Estimate:
    """Difference of two balanced accuracies of the same rows, with its paired bootstrap interval.

    Args:
        after, before: (n,) bool, which rows were classified correctly.
        y: (n,) labels.
        seed: Of the bootstrap.
    """
    def change(i: np.ndarray) -> float:
        return float(np.mean([after[i][y[i] == k].mean() - before[i][y[i] == k].mean() for k in np.unique(y)]))

    return bootstrap(change, len(y), seed, y, least=-1.0)


def _least_difference(gained: int, lost: int, n: int) -> float:
    """The least true difference that the data do not lie more than 1.96 standard errors above, by bisection."""
    low, high = -1.0, (gained - lost) / n
    for _ in range(40):
        d = (low + high) / 2
        b = (2 * n - gained + lost) * d - gained - lost
        # the likeliest share of rows that change for the worse if `d` is true, and the standard error that follows
        worse = (np.sqrt(max(b * b + 8 * n * lost * d * (1 - d), 0.0)) - b) / (4 * n)
        error = np.sqrt(max(n * (2 * worse + d * (1 - d)), 0.0))
        low, high = (d, high) if gained - lost - n * d > Z95 * error else (low, d)
    return high


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve (Mann-Whitney U, ties count half); NaN when a class is missing.

    Args:
        score: (n,) higher means more likely positive.
        positive: (n,) bool.
    """
    from scipy.stats import rankdata

    p, q = int(positive.sum()), int((~positive).sum())
    if p == 0 or q == 0:
        return float("nan")
    return float((rankdata(score)[positive].sum() - p * (p + 1) / 2) / (p * q))


def resampled_auroc(score: np.ndarray, positive: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """`auroc` as a statistic for `weighted`: the scores are sorted once for all resamples."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])  # of runs of equal scores

    def statistic(weights: np.ndarray) -> np.ndarray:
        sorted_ = weights[:, order]
        hits, misses = (np.add.reduceat(sorted_ * side, starts, axis=1) for side in (positive[order], ~positive[order]))
        below = np.cumsum(misses, 1) - misses / 2  # ties count half
        with np.errstate(invalid="ignore"):
            return (hits * below).sum(1) / (hits.sum(1) * misses.sum(1))

    return statistic


def roc_curve(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1); equal scores are one step."""
    order = np.argsort(-score, kind="stable")
    hits, ends = positive[order], np.r_[score[order][1:] != score[order][:-1], True]
    with np.errstate(invalid="ignore"):
        fpr, tpr = (np.cumsum(side)[ends] / side.sum() for side in (~hits, hits))
    return np.r_[0.0, fpr], np.r_[0.0, tpr]


def tpr_at_fpr(score: np.ndarray, member: np.ndarray, fpr: float) -> float:
    """True positive rate at the strictest threshold whose false positive rate is at most `fpr`."""
    negatives = np.sort(score[~member])[::-1]
    allowed = int(np.floor(fpr * len(negatives) + 1e-9))
    if allowed >= len(negatives):
        return 1.0
    return float((score[member] > negatives[allowed]).mean())


THRESHOLD_SHARE = 0.8
"""Of the error that each end of the interval of a TPR may make, the part that its threshold takes: it is the threshold,
fixed by few non-members in the tail, that is hard to know."""


def least_fpr(others: int) -> float:
    """The least false positive rate at which so many non-members bound a threshold from above with confidence: below
    it, nothing is known of the TPR but that it is 0 or more."""
    return float(1 - (0.025 * THRESHOLD_SHARE) ** (1 / others)) if others else 1.0


def tpr_at(score: np.ndarray, member: np.ndarray, fpr: float) -> Estimate:
    """`tpr_at_fpr` with an interval that holds for the rate at the threshold whose true false positive rate is `fpr`.

    That threshold lies between two order statistics of the non-members (binomial), and above each the share of members
    has an exact binomial bound (Clopper and Pearson 1934, doi 10.1093/biomet/26.4.404); each end errs with a
    probability of 2.5 % at most, both parts together. A bootstrap takes the threshold of the sample for the true one
    where few non-members lie above, and covers too rarely.

    Args:
        score: (n,) higher means more likely a member; ties are allowed.
        member: (n,) bool, some of both kinds.
        fpr: Not below `least_fpr` of the non-members, or the lower end is 0.
    """
    from scipy.stats import beta, binom

    found, others = np.sort(score[member]), np.sort(score[~member])[::-1]
    m, n, error = len(found), len(others), 0.025
    ranks = np.arange(n + 1)
    # counted from 0, the r-th largest is below the threshold only if r or fewer lie at or above that, and is above it
    # only if more than r lie above it
    above = int((binom.cdf(ranks[:n], n, fpr) <= THRESHOLD_SHARE * error).sum()) - 1
    below = int((binom.sf(ranks, n, fpr) > THRESHOLD_SHARE * error).sum())
    hits = [m - int(np.searchsorted(found, t, side="right")) for t in (
        others[above] if above >= 0 else np.inf, others[below] if below < n else -np.inf)]
    part = (1 - THRESHOLD_SHARE) * error
    low = float(beta.ppf(part, hits[0], m - hits[0] + 1)) if hits[0] else 0.0
    high = float(beta.isf(part, hits[1] + 1, m - hits[1])) if hits[1] < m else 1.0
    value = tpr_at_fpr(score, member, fpr)
    return Estimate(value, min(low, value), max(high, value), len(score))


def balanced_accuracy(pred: np.ndarray, y: np.ndarray) -> float:
    """Mean recall over the classes that occur in `y`."""
    return float(np.mean([(pred[y == k] == k).mean() for k in np.unique(y)])) if len(y) else float("nan")


def f1(pred: np.ndarray, y: np.ndarray, k: int) -> float:
    """F1 of class `k`; 0 when it is neither predicted nor present."""
    return float(_resampled_f1(pred, y, k)(np.ones((1, len(y))))[0])


def _resampled_f1(pred: np.ndarray, y: np.ndarray, k: int) -> Callable[[np.ndarray], np.ndarray]:
    hit, total = (pred == k) & (y == k), (pred == k).astype(float) + (y == k)
    return lambda weights: 2 * (weights @ hit) / np.maximum(weights @ total, 1)


def calibration_error(proba: np.ndarray, y: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the predicted class, equal-width bins (Guo et al. 2017, arXiv 1706.04599)."""
    return float(_resampled_calibration_error(proba, y, bins)(np.ones((1, len(y))))[0])


def _resampled_calibration_error(proba: np.ndarray, y: np.ndarray,
                                 bins: int = 10) -> Callable[[np.ndarray], np.ndarray]:
    confidence, correct = proba.max(1), proba.argmax(1) == y
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.zeros((len(y), bins))
    gaps[np.arange(len(y)), which] = correct - confidence
    return lambda weights: np.abs(weights @ gaps).sum(1) / np.maximum(weights.sum(1), 1)


def classification(y: np.ndarray, pred: np.ndarray, proba: np.ndarray | None, classes: tuple[str, ...],
                   seed: int = 0) -> dict[str, Estimate]:
    """Everything that is usually said of a classifier.

    Args:
        y, pred: (n,) labels; a refused row (-1) counts as wrong.
        proba: (n, classes), or None where only labels are known (AUROC and calibration are then left out).
        classes: Names; for two, class 1 is the disease, and sensitivity and specificity are given.
        seed: Of the bootstrap.

    Returns:
        Metric name -> estimate; per-class names end in `[class name]`, `confusion[a->b]` are counts.
    """
    n, present = len(y), np.unique(y)
    right, of = pred == y, [y == k for k in present]

    def balanced(weights: np.ndarray) -> np.ndarray:
        return np.mean([weights @ (right & own) / (weights @ own) for own in of], axis=0)

    out = {"accuracy": proportion(right), "balanced_accuracy": weighted(balanced, n, seed, y)}
    if len(classes) == 2:
        out["sensitivity"] = proportion(pred[y == 1] == 1)
        out["specificity"] = proportion(pred[y == 0] == 0)
    if proba is not None:
        curves = [resampled_auroc(proba[:, k], y == k) for k in ((1,) if len(classes) == 2 else present)]
        out["auroc"] = weighted(lambda w: np.mean([curve(w) for curve in curves], axis=0), n, seed, y)
        out["calibration_error"] = weighted(_resampled_calibration_error(proba, y), n, seed)
    for k, name in enumerate(classes):
        out[f"precision[{name}]"] = proportion(y[pred == k] == k)
        out[f"recall[{name}]"] = proportion(pred[y == k] == k)
        out[f"f1[{name}]"] = weighted(_resampled_f1(pred, y, k), n, seed, y)
        for j, other in enumerate(classes):
            count = float(((y == k) & (pred == j)).sum())
            out[f"confusion[{name}->{other}]"] = Estimate(count, np.nan, np.nan, n)
    if (pred < 0).any():
        out["refused"] = proportion(pred < 0)
    return out


def collapsed(pred: np.ndarray, y: np.ndarray) -> bool:
    """Whether a model says almost the same of everyone: at least 98 % one label, or hardly better than by chance, that
    is a balanced accuracy less than 0.05 above one over the number of classes."""
    if not len(y):
        return False
    _, counts = np.unique(pred, return_counts=True)
    return bool(counts.max() >= 0.98 * len(pred) or balanced_accuracy(pred, y) < 0.05 + 1 / len(np.unique(y)))
