"""A lower bound on epsilon from many trainings, half of them with one canary among the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from privacy.canaries import check_possible, mislabeled, redrawn, strangers
from privacy.lower_bounds import from_scores, from_scores_gdp, gaussian_epsilon, guess
from suite.base.bounds import ProperShare
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.progress import advance
from suite.core.attack import Audited, PrivacyAudit
from suite.core.classifier import Classifier
from suite.core.data import Split, joined
from suite.core.odds import log_odds
from suite.defenses.private.accounting import usual_delta


@dataclass(frozen=True)
class ManyRunsAudit(PrivacyAudit):
    """A lower bound on epsilon from many trainings, in half of which one mislabeled row is added.

    The canary is, of the held-out rows with the label that the model without canaries finds least likely of the wrong
    ones, the one whose label it finds least likely of all. The score of a training is the log odds of that label: the
    likelihood ratio of LiRA rises with it, where both spreads are alike. Trainings differ in their seed, so scores are
    independent, and Clopper-Pearson bounds the rates of the test "the score is high" and of its opposite, at
    thresholds that the scores choose, at a price that is paid (`privacy.lower_bounds.from_scores`).

    Of what it returns, `score` and `inside` are of trainings. The better half of the scores is judged to be "in", so
    that each error comes with another one, and `made` and `right` count pairs.

    What limits it is how many trainings there are: with n on each side, an epsilon of about
    ln n - 1.9 at most can be shown, which is 1.6 of 64 trainings in all.
    `privacy.canaries.OneRunAudit` costs one training and needs many canaries.

    Attributes:
        runs: Trainings, an even number.
        source: As of `privacy.canaries.OneRunAudit`.
        confidence: Of each bound, in (0, 1).
    """

    info: ClassVar[Info] = Info(
        "Many-runs audit", "Jagielski, Ullman and Oprea 2020, arXiv 2006.07709; Nasr et al. 2021, arXiv 2101.04535",
        "training", ("membership",), "`runs` trainings",
        "one canary from the data or by chance, not crafted; thresholds are chosen by the scores, corrected for")
    trials: ClassVar[str] = "trainings"
    runs: Annotated[int, Field(strict=True, ge=4, le=100_000, multiple_of=2)] = 64
    source: Literal["held-out", "random"] = "held-out"
    confidence: ProperShare = 0.95

    def __call__(self, retrain: Callable[[Split, int], Classifier], reference: Classifier, train: Split, fresh: Split,
                 seed: int = 0) -> Audited:
        self._check(train, fresh)
        canary = self._canary(reference, fresh, np.random.default_rng([seed, 6]))
        splits = train, joined(train, strangers(canary, train))
        inside = np.arange(self.runs) % 2 == 1
        score = np.empty(self.runs)
        for k, own in enumerate(np.random.SeedSequence([seed, 6]).generate_state(self.runs) % 2**31):
            model = retrain(splits[int(inside[k])], int(own))  # the last one has the canary
            score[k] = log_odds(model, canary.x, canary.y)[0]
            advance("audited trainings", k + 1, self.runs)

        delta = model.notes.get("delta", usual_delta(len(train)))
        epsilon = from_scores(score[inside], score[~inside], delta, self.confidence)
        mu = from_scores_gdp(score[inside], score[~inside], self.confidence)
        # as many are called "in" as are, so that each error comes with another: pairs are what is counted
        _, made, right = guess(score, inside, self.runs // 2, self.runs // 2)
        return Audited(model, score, inside, delta, epsilon, gaussian_epsilon(mu, delta), made // 2, right // 2)

    def _canary(self, reference: Classifier, fresh: Split, rng: np.random.Generator) -> Split:
        """The one row."""
        rows = mislabeled(reference, redrawn(fresh, rng) if self.source == "random" else fresh)
        return rows.take([int(log_odds(reference, rows.x, rows.y).argmin())])

    def _check(self, train: Split, fresh: Split) -> None:
        name, half = type(self).__name__, self.runs // 2
        if not len(fresh):
            raise InputError(f"{name}: there is no held-out row to make a canary of")
        check_possible(name, train, fresh)
        if not from_scores(np.ones(half), np.zeros(half), 0.0, self.confidence):
            raise InputError(f"{name}: {self.runs} runs are too few to show anything, even if all are told apart")
