"""Lower bounds on epsilon: what a membership test has shown that no training with less leakage allows.

Every bound holds with its confidence: of trainings that are (epsilon, delta)-differentially private with respect to one
row, added or removed, at most a share `1 - confidence` get a bound above their epsilon, whatever the test was. Two
kinds of evidence are read: independent trials, in each of which one row was in or out (`from_counts`, `from_scores`),
and one training into which many canaries were put, each by a fair coin of its own (`guess` and what takes its answer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtrc, betainccinv, betaincinv, expit, log_ndtr, ndtr, ndtri

from suite.base.errors import InputError


def from_counts(true_positives: int, members: int, false_positives: int, others: int, delta: float,
                confidence: float = 0.95) -> float:
    """Epsilon that the hits and false alarms of one test, fixed beforehand, speak for.

    (epsilon, delta)-differential privacy allows no test with TPR > e^epsilon FPR + delta, nor one with
    TNR > e^epsilon FNR + delta (Kairouz, Oh and Viswanath 2015, arXiv 1311.0776). The rates are bounded by
    Clopper-Pearson (Jagielski, Ullman and Oprea 2020, arXiv 2006.07709; Nasr et al. 2021, arXiv 2101.04535): TPR from
    below and FPR from above, each at half the risk. Both inequalities need these two bounds only, so the larger epsilon
    of the two costs no confidence.

    Args:
        true_positives, members: How many of the trials with the row in the training were called so, and how many there
            were.
        false_positives, others: The same of the trials without it.
        delta: In [0, 1).
        confidence: In (0, 1).

    Returns:
        The bound; 0 where nothing was shown.

    Raises:
        InputError: Counts that are none, delta or confidence out of range.
    """
    risk = _risk(delta, confidence) / 2
    for hits, n in ((true_positives, members), (false_positives, others)):
        if not 0 <= hits <= n or n < 1:
            raise InputError(f"{hits} of {n} trials is no count")
    return _epsilon(_least(true_positives, members, risk), 1 - _least(others - false_positives, others, risk), delta)


def from_scores(inside: np.ndarray, outside: np.ndarray, delta: float, confidence: float = 0.95) -> float:
    """As `from_counts`, with the threshold chosen by the scores themselves.

    The candidates are the order statistics of ranks 1, 2, 4, ... up to half, of the scores without the row from above
    and of those with it from below, and the risk is shared among them. No score is set aside for it: the chance that
    another score exceeds the k-th largest of n is at most Beta(k, n - k + 1), whatever the distribution, and the scores
    of the other side know nothing of the threshold. A threshold chosen on one half of the trials leaves the other half
    for the bound: the least FPR that can be shown doubles, and so does the variance of the TPR. Sharing among the
    logarithm of n multiplies that FPR by 1.7 at 100 trials and 1.8 at 1000; sharing among all n thresholds, by 2.4 and
    3.1.

    Args:
        inside, outside: (n,) and (k,) scores, higher for "in", of independent trials with the row in the training, and
            without it: one model each. Scores of several rows under one model are not independent; `guess` is for them.
        delta, confidence: As for `from_counts`.

    Raises:
        InputError: NaN among the scores, no scores, delta or confidence out of range.
    """
    return _best_threshold(inside, outside, _risk(delta, confidence), lambda tpr, fpr: _epsilon(tpr, fpr, delta))


def from_scores_gdp(inside: np.ndarray, outside: np.ndarray, confidence: float = 0.95) -> float:
    """As `from_scores`, for trainings whose trade-off curve is Gaussian: a lower bound on their mu.

    mu-Gaussian differential privacy allows no test with Phi^-1(TPR) > Phi^-1(FPR) + mu (Dong, Roth and Su 2019, arXiv
    1905.02383); the bounds on the rates are the same (Nasr et al. 2023, arXiv 2302.07956).
    """
    return _best_threshold(inside, outside, _risk(0.0, confidence), lambda tpr, fpr: float(ndtri(tpr) - ndtri(fpr)))


def _best_threshold(inside: np.ndarray, outside: np.ndarray, risk: float,
                    bound: Callable[[float, float], float]) -> float:
    """The largest of 0 and `bound(least TPR, greatest FPR)` over the thresholds that `from_scores` tries."""
    inside, outside = _numbers(inside), _numbers(outside)
    sides = [(inside, outside), (-outside, -inside)]  # "not in" is a test too, with the roles exchanged
    risk /= 2 * sum(len(_ranks(rare)) for _, rare in sides)
    best = 0.0
    for common, rare in sides:
        for k in _ranks(rare):
            hits = int((common > np.sort(rare)[-k]).sum())
            alarms = float(betainccinv(k, len(rare) - k + 1, risk))
            best = max(best, bound(_least(hits, len(common), risk), alarms))
    return best


def _ranks(scores: np.ndarray) -> list[int]:
    return [2**i for i in range(max(len(scores).bit_length() - 1, 1))]


def _least(hits: int, n: int, risk: float) -> float:
    """The one-sided lower limit of Clopper and Pearson (1934, Biometrika 26:404) of a chance."""
    return float(betaincinv(hits, n - hits + 1, risk)) if hits else 0.0


def _epsilon(tpr: float, fpr: float, delta: float) -> float:
    """The larger of what the two inequalities ask for, with a TPR below 1 and an FPR above 0."""
    sides = ((tpr - delta, fpr), (1 - fpr - delta, 1 - tpr))
    return max([0.0, *(math.log(much / little) for much, little in sides if much > 0)])


class Guesses(NamedTuple):
    """What a test said of one training's canaries: how many there were, were judged at all, and judged rightly."""

    canaries: int
    made: int
    right: int


def guess(scores: np.ndarray, inside: np.ndarray, said_in: int, said_out: int) -> Guesses:
    """Call the canaries with the highest scores "in" and those with the lowest "out", and abstain from the others.

    Args:
        scores: (m,) of the canaries, higher for "in".
        inside: (m,) bool, which of them were in the training: each by a fair coin of its own.
        said_in, said_out: How many are called so; at most m together, and not chosen by how well that works.

    Raises:
        InputError: NaN among the scores, unequal lengths, no canaries, or more guesses than canaries.
    """
    scores, m = _numbers(scores), len(scores)
    if len(inside) != m or min(said_in, said_out) < 0 or said_in + said_out > m:
        raise InputError(f"{said_in} + {said_out} guesses about {m} scores and {len(inside)} canaries")
    inside = np.asarray(inside, bool)[np.argsort(scores, kind="stable")]
    right = int((~inside[:said_out]).sum() + inside[m - said_in:].sum())
    return Guesses(m, said_in + said_out, right)


def one_run(guesses: Guesses, delta: float, confidence: float = 0.95) -> float:
    """Epsilon that guesses about the canaries of a single training speak for.

    Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, corollary 5.4: of r guesses about m canaries that were put into
    an (epsilon, delta)-differentially private training by independent fair coins, at least v are right with probability
    at most

        P[W >= v] + 2 m delta max_{i >= 1} P[v > W >= v - i] / i,    W ~ Binomial(r, e^epsilon / (1 + e^epsilon)).

    The bound is the largest epsilon of which that is at most `1 - confidence`. It holds although it is searched for:
    where it lies above the true epsilon, the training has the larger one as well, and as many right guesses as these
    were unlikely under it.

    Args:
        guesses: Their number must not have been chosen by how many were right; see `strongest`.
        delta, confidence: As for `from_counts`.
    """
    m, r, v = _counted(guesses)
    risk, i = _risk(delta, confidence), np.arange(1, v + 1)

    def refuted(epsilon: float) -> bool:
        right = expit(epsilon)
        tail = bdtrc(v - 1, r, right)  # P[W > v - 1]
        spread = np.max((bdtrc(v - 1 - i, r, right) - tail) / i, initial=0.0)
        return tail + 2 * m * delta * spread <= risk

    return _largest(refuted)


def one_run_gdp(guesses: Guesses, confidence: float = 0.95) -> float:
    """As `one_run`, for trainings whose trade-off curve is Gaussian: a lower bound on their mu.

    Mahloujifar, Melis and Chaudhuri 2024, arXiv 2410.22235, for mu-Gaussian differential privacy (Dong, Roth and Su
    2019, arXiv 1905.02383), where no test has TPR > g(FPR), g(x) = Phi(Phi^-1(x) + mu). Of the r guesses about m
    canaries, let p_i be the chance that exactly i are right, and R_a = sum_{i >= a} i p_i / m and
    H_a = sum_{i >= a} (r - i) p_i / m. That canary j is called rightly (wrongly) while at least a of the others are
    called rightly has, averaged over j, the chance R_{a+1} (H_a), so R_{a+1} <= g(H_a), g being concave. Starting at
    a = v with all of a chance p of v or more right guesses at v itself, and with the least H that this allows at each
    a below, R_0 + H_0 comes out as small as it can; but it is r / m. So where it comes out larger, v or more right
    guesses have a chance below p.

    Args:
        guesses, confidence: As for `one_run`.

    Returns:
        mu; `gaussian_epsilon` says which epsilon that is at a delta.
    """
    _counted(guesses)
    risk = _risk(0.0, confidence)
    return _largest(lambda mu: _unlikely(guesses, lambda right: float(ndtr(ndtri(right) - mu)), risk))


def refutes(guesses: Guesses, epsilons: np.ndarray, deltas: np.ndarray, confidence: float = 0.95) -> bool:
    """Whether guesses refute that a training is (epsilon, delta)-differentially private for all these pairs at once.

    As `one_run_gdp`, with the curve that the pairs make: no test has TPR > e^epsilon FPR + delta, nor
    1 - FPR > e^epsilon (1 - TPR) + delta, for any of them. Many points of a training's own curve refute more than the
    one at which its epsilon is told; of a single pair with a delta of 0, `one_run` knows better.

    Args:
        guesses, confidence: As for `one_run`.
        epsilons, deltas: (k,) each.
    """
    _counted(guesses)
    rise = np.exp(epsilons)

    def least(right: float) -> float:
        return float(np.max([(right - deltas) / rise, 1 - deltas - rise * (1 - right)], initial=0.0))

    return _unlikely(guesses, least, _risk(0.0, confidence))


def _unlikely(guesses: Guesses, least: Callable[[float], float], risk: float) -> bool:
    """Whether so many right guesses have a chance below `risk`, as `one_run_gdp` says; `least` is the inverse of g."""
    m, r, v = guesses
    right, wrong = risk * v / m, risk * (r - v) / m
    for a in range(v - 1, -1, -1):
        if (low := least(right)) <= wrong:
            break  # nor will it change further down
        right, wrong = right + a / (r - a) * (low - wrong), low
        if right + wrong > r / m:
            return True
    return False


def strongest(bound: Callable[[Guesses, float], float], choices: Sequence[Guesses],
              confidence: float = 0.95) -> tuple[float, Guesses]:
    """The largest of several bounds, each with its share of the risk (Bonferroni), and the guesses it is from.

    Args:
        bound: `(guesses, confidence) -> bound`.
        choices: Of the same canaries with other numbers of guesses; which numbers, was fixed beforehand.
        confidence: Of the result.
    """
    share = 1 - (1 - confidence) / len(choices)
    return max(((bound(guesses, share), guesses) for guesses in choices), key=lambda found: found[0])


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon with which mu-Gaussian differential privacy is (epsilon, delta)-differential privacy.

    Solves delta = Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu) (Balle and Wang 2018, arXiv
    1805.06530, theorem 8).

    Args:
        mu: Not negative.
        delta: In (0, 1).
    """
    if not mu >= 0 or not 0 < delta < 1:
        raise InputError(f"needs mu >= 0 and delta in (0, 1), got {mu} and {delta}")
    if mu == 0:
        return 0.0

    def exceeded(epsilon: float) -> bool:
        much, little = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return math.exp(much) * -math.expm1(min(little - much, 0.0)) > delta

    return _largest(exceeded)


def _largest(holds: Callable[[float], bool]) -> float:
    """Where a property that is lost beyond some number from 0 up is lost, from below; 0 where 0 has it not."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1e-9 * max(high, 1.0):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _numbers(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64).ravel()
    if not len(scores) or np.isnan(scores).any():
        raise InputError("scores: one is not a number" if len(scores) else "scores: there are none")
    return scores


def _counted(guesses: Guesses) -> Guesses:
    if not 0 <= guesses.right <= guesses.made <= guesses.canaries or guesses.canaries < 1:
        raise InputError(f"{guesses.right} right of {guesses.made} guesses about {guesses.canaries} canaries is no "
                         "count")
    return guesses


def _risk(delta: float, confidence: float) -> float:
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise InputError(f"needs delta in [0, 1) and confidence in (0, 1), got {delta} and {confidence}")
    return 1 - confidence
