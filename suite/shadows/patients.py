"""Membership leakage of each patient: shadow models take turns as the target (Knolle et al., Nature 2026).

An average near chance level hides single patients who are found in almost every model. Of k shadow models half have
learned from a patient, so that an attack on each of them gives the patient an AUROC of its own, without new training.

All intervals follow from one inequality. Let A be a patient's true AUROC and F the one observed over m models with the
patient and m without. m F is below B ~ Binomial(m, A) in the convex order (Hoeffding 1963, J. Am. Stat. Assoc. 58:13,
sec. 5), so that, whatever the distribution of the scores (Bentkus 2004, Ann. Probab. 32:1650),

    P(F >= c) <= min over t < m c of E max(B - t, 0) / (m c - t), for c >= A,

and the same of 1 - F. For c = 1 it is A^m, which some distributions reach: with fewer than ln(error) / ln(A) models of
each kind no result tells a patient who is always found from one whose AUROC is A. Models count as independent, though
they share references and most of their training rows; what chance finds, by permutation, does not rely on that. That
all patients share the same models is looked after in `share_above`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta, binom, norm, rankdata, t

from suite.core.attack import ShadowScore
from suite.core.odds import Shadows
from suite.results import metrics
from suite.results.metrics import Estimate

ABOVE = 0.9
"""AUROC above which a patient counts as found."""
ERROR = 0.05
"""Of a 95 % interval; each end takes half of it."""
TIE = 1e-9
"""AUROCs closer than that are equal."""
NULLS = 1500
"""Patients with permuted membership, about, by which the share that chance alone puts above `ABOVE` is known."""


def scores_in_turn(attack: ShadowScore, shadows: Shadows) -> np.ndarray:
    """(k, n) scores of each row by an attack on each of k >= 4 models in turn, by all others but its partner.

    After each half of the rows the partner has the other half: without both, as many models know a row as do not.
    """
    models = np.arange(len(shadows.odds))
    out = np.empty(shadows.odds.shape)
    for turn in models:
        rest = models // 2 != turn // 2
        out[turn] = attack.score(shadows.odds[turn], Shadows(shadows.inside[rest], shadows.odds[rest]))
    return out


def patient_auroc(score: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(n,) AUROC of each patient over models: whether those that learned from the patient score higher.

    Args:
        score: (k, n), ties count half.
        inside: (k, n) bool, some of both in each column.
    """
    own = inside.sum(0)
    ranks = np.where(inside, rankdata(score, axis=0), 0).sum(0)
    return (ranks - own * (own + 1) / 2) / (own * (len(inside) - own))


def aurocs_without(score: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(m, n) as `patient_auroc`, without each of the m >= 2 pairs of models in turn.

    Args:
        score, inside: (2 m, n), where after each half of the rows the partner has the other half.
    """
    pairs = len(score) // 2
    first = inside[::2]
    own, other = np.where(first, score[::2], score[1::2]), np.where(first, score[1::2], score[::2])
    ranks = rankdata(np.concatenate([own, other]), axis=0)
    beaten = ranks[:pairs] - rankdata(own, axis=0)  # models without the patient that score lower; ties count half
    above = pairs - (ranks[pairs:] - rankdata(other, axis=0))  # models with the patient that score higher
    both = (own > other) + (own == other) / 2
    return (beaten.sum(0) - beaten - above + both) / (pairs - 1) ** 2


def patient_tpr(score: np.ndarray, inside: np.ndarray, fpr: float) -> np.ndarray:
    """(n,) share of the models that learned from a patient in which the patient is found, by the one threshold for all
    patients and models at which so many are found in models that have not learned from them."""
    outside = np.sort(score[~inside])[::-1]
    threshold = outside[min(int(fpr * len(outside) + 1e-9), len(outside) - 1)]
    return ((score > threshold) & inside).sum(0) / inside.sum(0)


def by_person(score: np.ndarray, owner: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """"max" and "mean", each (k, n), over the rows of each patient.

    Args:
        score: (k, n + f), the first n of different patients.
        owner: (f,) which of these the others are of.
        n: The number of patients.
    """
    person = np.r_[np.arange(n), owner]
    order, counts = np.argsort(person, kind="stable"), np.bincount(person, minlength=n)
    starts = np.r_[0, np.cumsum(counts)[:-1]]
    return {"max": np.maximum.reduceat(score[:, order], starts, axis=1),
            "mean": np.add.reduceat(score[:, order], starts, axis=1) / counts}


def expected_by_chance(attack: ShadowScore, shadows: Shadows, seed: int = 0) -> Estimate:
    """The share of patients with an AUROC above `ABOVE` when membership is drawn anew, patient by patient and pair by
    pair, and nothing else is changed: so many are found by chance with so few models.

    Args:
        attack, shadows: As for `scores_in_turn`.
        seed: Of the permutations.
    """
    k, n = shadows.odds.shape
    draws, rng = -(-NULLS // n), np.random.default_rng([seed, 7])
    found = 0
    for _ in range(draws):
        inside = shadows.inside ^ np.repeat(rng.random((k // 2, n)) < 0.5, 2, axis=0)
        permuted = Shadows(inside, shadows.odds)
        found += int((patient_auroc(scores_in_turn(attack, permuted), inside) > ABOVE).sum())
    return metrics.proportion(found, draws * n)


def chance_of(found: np.ndarray, true: np.ndarray, pairs: int) -> np.ndarray:
    """(n,) upper bound of the probability that an AUROC of at least `found` is observed where it is `true`; 1 where
    `found` is not above `true`.

    Args:
        found, true: (n,) or scalars, in [0, 1].
        pairs: m.
    """
    counts = np.arange(pairs)
    tails = binom.sf(counts, pairs, np.asarray(true)[..., None])  # of at least 1, ..., m
    beyond = np.cumsum(tails[..., ::-1], -1)[..., ::-1]  # E max(B - t, 0) for t = 0, ..., m - 1
    gap = np.asarray(found)[..., None] * pairs - counts
    with np.errstate(divide="ignore"):
        return np.minimum(np.where(gap > 0, beyond / np.maximum(gap, 1e-12), np.inf).min(-1), 1.0)


def auroc_interval(auroc: np.ndarray, pairs: int, among: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % intervals of the AUROC of patients, jointly for all of `among` patients (Bonferroni).

    Args:
        auroc: (n,) observed over `pairs` models with and as many without the patient.
        pairs: m.
        among: To how many patients the 95 % apply together.

    Returns:
        Lower and upper ends, each (n,).
    """
    values, which = np.unique(auroc, return_inverse=True)
    error = ERROR / 2 / among
    return _least(values, pairs, error)[which], 1 - _least(1 - values, pairs, error)[which]


def _least(found: np.ndarray, pairs: int, error: float) -> np.ndarray:
    """(n,) the least true AUROC with which so much is observed with a probability above `error`, by bisection."""
    low, high = np.zeros_like(found), found.copy()
    for _ in range(40):
        middle = (low + high) / 2
        rare = chance_of(found, middle, pairs) <= error
        low, high = np.where(rare, middle, low), np.where(rare, high, middle)
    return low


def tpr_interval(tpr: np.ndarray, pairs: int, among: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """As `auroc_interval`, of shares of `pairs` models (Clopper and Pearson 1934)."""
    hits, error = np.round(tpr * pairs), ERROR / 2 / among
    return (np.where(hits > 0, beta.ppf(error, hits, pairs - hits + 1), 0.0),
            np.where(hits < pairs, beta.isf(error, hits + 1, pairs - hits), 1.0))


STRICT, LAX = np.array([0.94, 0.97, 1.0]), np.array([0.6, 0.75, 0.85])
"""Where `share_above` counts patients, for the lower end of its interval and for the upper one."""


def share_above(auroc: np.ndarray, pairs: int, without: np.ndarray | None = None) -> Estimate:
    """The share of patients above `ABOVE` as observed, and a 95 % interval of the share whose true AUROC is above it.

    Observed AUROCs scatter: some patients are observed above 0.9 who are not, and some below who are. So the interval
    takes the observation for a test of bounded error and corrects for it (Rogan and Gladen 1978, Am. J. Epidemiol.
    107:71). One with a true AUROC of at most 0.9 is observed at c or above with a probability of at most b, so the
    share is at least (share observed at c - b) / (1 - b); one above 0.9 is observed at d or below with a probability of
    at most b', so it is at most (share observed over d) / (1 - b'). The best of several c and d is taken, and the
    intervals of these shares are Wilson's, widened for their number.

    All patients are found by the same models, so that one that remembers everybody, or nobody, moves all of them. Where
    a jackknife over pairs of models (Efron and Stein 1981, Ann. Stat. 9:586) finds a share to vary more than one of n
    independent patients does, its interval is as many times as wide, by Student's t with m - 1 degrees of freedom.

    Args:
        auroc: (n,) observed, of the patients of a group.
        pairs: m.
        without: (m, n) as of `aurocs_without`; None where each patient has models of its own.
    """
    n, value = len(auroc), float((auroc > ABOVE).mean())
    false, missed = (chance_of(c, a, pairs) for c, a in ((STRICT, ABOVE), (1 - LAX, 1 - ABOVE)))
    z = float(norm.isf(ERROR / 2 / len(STRICT)))
    sure, open_ = ([_widened(metrics.proportion(auroc > c, z=z), without, c) for c in edges]
                   for edges in (STRICT - TIE, LAX + TIE))
    low = max([(e.low - b) / (1 - b) for e, b in zip(sure, false, strict=True) if b < 1], default=0.0)
    high = min([e.high / (1 - b) for e, b in zip(open_, missed, strict=True) if b < 1], default=1.0)
    return Estimate(value, float(min(max(low, 0.0), value)), float(max(min(high, 1.0), value)), n)


def _widened(share: Estimate, without: np.ndarray | None, edge: float) -> Estimate:
    """A share of patients above an edge, as wide as its variation between pairs of models makes it."""
    if without is None:
        return share
    each, pairs = (without > edge).mean(1), len(without)
    independent = each.mean() * (1 - each.mean()) / share.n
    if not independent:
        return share
    among = (pairs - 1) / pairs * ((each - each.mean()) ** 2).sum()
    error = ERROR / 2 / len(STRICT)
    times = max(1.0, math.sqrt(among / independent) * t.isf(error, pairs - 1) / norm.isf(error))
    return Estimate(share.value, max(0.0, share.value - times * (share.value - share.low)),
                    min(1.0, share.value + times * (share.high - share.value)), share.n)


def shadows_needed(patients: int | None = None) -> int:
    """Shadow models with which a patient who is found in every model can be shown to be above `ABOVE`: as one of a
    share (at 5 %), or, with the number of patients, by name and jointly for all (at 2.5 %).

    From `ABOVE ** m <= error`, for m pairs of models: with fewer, no result can show it.
    """
    error = ERROR if patients is None else ERROR / 2 / patients
    return 2 * math.ceil(math.log(error) / math.log(ABOVE))

