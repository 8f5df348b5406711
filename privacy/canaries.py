"""Canaries: rows that an auditor puts into a training, each by a coin, to see how much the model tells of the coins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch

from privacy.lower_bounds import Guesses, gaussian_epsilon, guess, one_run, one_run_gdp, refutes, strongest
from suite.base.bounds import Count, ProperShare, Shares
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.attack import Audited, PrivacyAudit
from suite.core.classifier import Classifier
from suite.core.data import Split, joined
from suite.core.odds import log_odds
from suite.defenses.private.accounting import privacy_curve, usual_delta


@dataclass(frozen=True)
class OneRunAudit(PrivacyAudit):
    """A lower bound on epsilon from one training with mislabeled rows that only the auditor has.

    Each canary is a possible input with the label that the model without canaries finds least likely of the wrong ones,
    which nothing but the canary itself can teach; a fair coin decides whether it is added to the training rows.
    Canaries with a high score are guessed to be in, those with a low one out, and the more of these guesses are right,
    the larger epsilon must be.

    The score is the log odds of the canary's label under the model, less as much of those under the model without
    canaries as explains them (least squares over all canaries, which knows no coin).

    It is the training that is audited, and it has more rows now: what counts is the epsilon claimed for this model,
    with the noise, rate and steps that it was trained with. Its seed is another than the reference's. With the same
    noise in both, comparing them would take the noise out, and differential privacy promises nothing against who knows
    it. DP-SGD is held against its whole trade-off curve as well, which refutes more than the one epsilon of it that is
    claimed. Of a model for which nothing is claimed, the bounds tell how much it leaks at least.

    Attributes:
        canaries: How many at most; as many as there are held-out rows to make them of.
        source: "held-out" for the inputs of held-out rows, which are real patients; "random" for inputs drawn uniformly
            from what the schema allows (of an image, every pixel), which of images are the stronger canaries by far, as
            they do not resemble each other.
        confidence: Of each bound, in (0, 1).
        shares: Shares of the canaries that are guessed about, in (0, 1]: half of them "in", half "out". All are tried,
            and each bound is lowered for it (Bonferroni).
    """

    info: ClassVar[Info] = Info(
        "One-run audit", "Steinke, Nasr and Jagielski 2023, arXiv 2305.08846; Gaussian curve: Mahloujifar, Melis and "
        "Chaudhuri 2024, arXiv 2410.22235", "training", ("membership",), "one training",
        "sees the last model only, not its steps; several numbers of guesses, corrected for, in place of one fixed "
        "beforehand; a model without canaries as the reference")
    canaries: Count = 200
    source: Literal["held-out", "random"] = "held-out"
    confidence: ProperShare = 0.95
    shares: Shares = (1.0, 0.5, 0.25)

    def __call__(self, retrain: Callable[[Split, int], Classifier], reference: Classifier, train: Split, fresh: Split,
                 seed: int = 0) -> Audited:
        rng = np.random.default_rng([seed, 3])
        fresh = fresh.take(np.sort(rng.permutation(len(fresh))[:self.canaries]))
        self._check(train, fresh)
        if self.source == "random":
            fresh = redrawn(fresh, rng)
        canaries = strangers(mislabeled(reference, fresh), train)
        inside = rng.random(len(canaries)) < 0.5
        model = retrain(joined(train, canaries.take(inside)), int(rng.integers(1, 2**31)))
        score = unexplained(*(log_odds(m, canaries.x, canaries.y) for m in (model, reference)))

        counts = [guess(score, inside, k, k) for k in self._guesses(len(canaries))]
        delta = model.notes.get("delta", usual_delta(len(train)))
        epsilon, best = strongest(lambda g, c: one_run(g, delta, c), counts, self.confidence)
        mu, _ = strongest(one_run_gdp, counts, self.confidence)
        return Audited(model, score, inside, delta, epsilon, gaussian_epsilon(mu, delta), best.made, best.right,
                       self._refuted(model, counts))

    def _refuted(self, model: Classifier, counts: list[Guesses]) -> bool | None:
        """Whether any of the guesses refute the curve of DP-SGD with the noise, rate and steps that the model notes."""
        if not {"noise_multiplier", "sample_rate", "steps"} <= model.notes.keys():
            return None
        curve = privacy_curve(*(model.notes[name] for name in ("noise_multiplier", "sample_rate", "steps")))
        return any(refutes(guesses, *curve, 1 - (1 - self.confidence) / len(counts)) for guesses in counts)

    def _guesses(self, m: int) -> list[int]:
        """How many canaries are guessed to be in, and as many to be out, at each share."""
        return [max(int(share * m / 2), 1) for share in self.shares]

    def _check(self, train: Split, fresh: Split) -> None:
        m = len(fresh)
        check_possible(type(self).__name__, train, fresh)
        by_chance = 0.5 ** (2 * max(self._guesses(m)))
        if by_chance * len(self.shares) >= 1 - self.confidence:
            raise InputError(f"{type(self).__name__}: {m} held-out rows are too few: about so few canaries, all "
                             "guesses may be right by chance")


def check_possible(name: str, train: Split, fresh: Split) -> None:
    """Raise `InputError` if held-out rows make no canaries for an audit of this name."""
    if len(train.classes) < 2:
        raise InputError(f"{name}: with one class there is no wrong label")
    impossible = ~train.space.possible(torch.from_numpy(fresh.x).to(train.space.lower.device)).cpu().numpy()
    if impossible.any():
        raise InputError(f"{name}: row {fresh.rows[impossible][0]} is no possible input, so it makes no canary")


def mislabeled(model: Classifier, rows: Split) -> Split:
    """The rows, each with the wrong label that a model finds least likely; of two classes, with the other one."""
    n, classes = len(rows), len(rows.classes)
    odds = np.stack([log_odds(model, rows.x, np.full(n, k)) for k in range(classes)], 1)
    odds[np.arange(n), rows.y] = np.inf
    return rows.with_data(rows.x, odds.argmin(1))


def strangers(canaries: Split, train: Split) -> Split:
    """The canaries, each of a patient of its own: one coin adds or removes one patient, whatever epsilon is about."""
    if canaries.patients is None or train.patients is None:
        return canaries
    return replace(canaries, patients=int(train.patients.max()) + 1 + np.arange(len(canaries)))


def redrawn(rows: Split, rng: np.random.Generator) -> Split:
    """The rows, with each value that may change drawn anew, uniformly from those that are possible."""
    x = torch.from_numpy(rows.x)
    reach = rows.space.to("cpu").reach(x, float("inf"))
    z = torch.lerp(reach.lower, reach.upper, torch.from_numpy(rng.random(x.shape, np.float32)))
    return rows.with_data(reach.snap(z).numpy(), rows.y)


def unexplained(score: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(m,) what a line through the (m,) scores of a reference leaves of (m,) scores."""
    known = np.stack([reference, np.ones(len(score))], 1)
    return score - known @ np.linalg.lstsq(known, score, rcond=None)[0]
