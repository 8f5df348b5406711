"""Membership inference by shadow models: how sure the model is of a row, against how sure it would be either way."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import log_expit, logsumexp

from suite.base.bounds import Even, Fraction
from suite.base.errors import NotApplicable
from suite.base.info import Info
from suite.core.attack import Leaked, MembershipAttack
from suite.core.classifier import Classifier
from suite.core.odds import Shadows, log_odds

FEW = 64
"""Shadow models below which the spread of a row's odds is taken from all rows together (Carlini et al., sec. IV-C)."""
NARROW = 1e-3
"""Least standard deviation of log odds: those of a model without randomness do not spread at all."""

_COST = "`shadows` trainings for all shadow attacks together, then one query a row"
_TERMS = "one query of each row, without augmented copies; the attacker knows the rest of the training data"


@dataclass(frozen=True)
class ShadowAttack(MembershipAttack):
    """Base of the attacks that compare the model with shadow models of its own recipe and defense.

    Attributes:
        shadows: Shadow models, an even number; each row is known to half of them.

    Those that look only at models that do not know a row (`offline`) can do with another recipe: of such rows models of
    one kind are sure alike.
    """

    shadows: Even = 64

    retrains: ClassVar[bool] = True

    @property
    def surrogates(self) -> bool:
        return self.offline

    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        if known.shadows is None:
            raise NotApplicable(f"{type(self).__name__} needs shadow models, and this model cannot be trained again")
        return self.score(log_odds(classifier, x, y), known.shadows(self.shadows))

    @abstractmethod
    def score(self, odds: np.ndarray, shadows: Shadows) -> np.ndarray:
        """(n,) scores of rows of whose labels the model is sure by (n,) log odds."""


@dataclass(frozen=True)
class LiRA(ShadowAttack):
    """Likelihood ratio attack: are these odds likelier of a model that knows the row, or of one that does not?

    Attributes:
        offline: Look only at models that do not know the row: by how many standard deviations the odds exceed theirs.
        spread: Of a row's odds: "row", of its own; "pooled", the root of the mean variance of all rows; "auto", pooled
            with fewer than 64 shadow models.
    """

    info: ClassVar[Info] = Info(
        "LiRA", "Carlini, Chien, Nasr, Song, Terzis and Tramer 2022, arXiv 2112.03570", "score", ("membership",),
        _COST, _TERMS, strong=True, strong_from=("shadows", 16))
    offline: bool = False
    spread: Literal["auto", "row", "pooled"] = "auto"

    def score(self, odds: np.ndarray, shadows: Shadows) -> np.ndarray:
        out, far = self._known(shadows, False)
        if self.offline:
            return (odds - out) / far
        inside, near = self._known(shadows, True)
        return ((odds - out) / far) ** 2 / 2 - ((odds - inside) / near) ** 2 / 2 + np.log(far / near)

    def _known(self, shadows: Shadows, inside: bool) -> tuple[np.ndarray, np.ndarray]:
        """(n,) mean and standard deviation of each row's odds, of the models that know it or of those that do not."""
        odds = np.where(shadows.inside == inside, shadows.odds, np.nan)
        count = len(odds) // 2
        variance = np.nanvar(odds, 0, ddof=1) if count > 1 else np.nanvar(shadows.odds, 0, ddof=1)
        if self.spread == "pooled" or (self.spread == "auto" and len(odds) < FEW):
            variance = np.full_like(variance, variance.mean())
        return np.nanmean(odds, 0), np.sqrt(np.maximum(variance, NARROW**2))


OFFLINE = LiRA(offline=True)
"""LiRA with models that do not know the row, only."""


@dataclass(frozen=True)
class RMIA(ShadowAttack):
    """Robust membership inference: how much likelier the label is than to the average model.

    Attributes:
        offline: Average only models that do not know the row, and guess from them what the others would say.
        a: How: `(1 + a) / 2` of their mean probability plus `(1 - a) / 2`.
    """

    info: ClassVar[Info] = Info(
        "RMIA", "Zarifzadeh, Liu and Shokri 2024, arXiv 2312.03262", "score", ("membership",),
        _COST, "the paper's score is the share of population rows whose ratio this row's exceeds; as that share rises "
        "with the ratio, the ratio itself is returned: the same ROC, with fewer ties; " + _TERMS,
        strong=True, strong_from=("shadows", 4))
    shadows: Even = 16
    offline: bool = False
    a: Fraction = 0.3

    def score(self, odds: np.ndarray, shadows: Shadows) -> np.ndarray:
        mean = _average(shadows.odds, ~shadows.inside if self.offline else np.ones_like(shadows.inside))
        if self.offline:
            mean = np.log((1 + self.a) / 2 * np.exp(mean) + (1 - self.a) / 2)
        return log_expit(odds) - mean


POPULATION = RMIA(offline=True)
"""RMIA with models that do not know the row, only."""


@dataclass(frozen=True)
class CalibratedLoss(ShadowAttack):
    """Difficulty calibration: the loss of the true label, less its mean among models that do not know the row."""

    info: ClassVar[Info] = Info(
        "Calibrated loss", "Watson, Guo, Cormode and Sablayrolles 2022, arXiv 2111.08440", "score", ("membership",),
        _COST, _TERMS)
    shadows: Even = 16

    offline: ClassVar[bool] = True

    def score(self, odds: np.ndarray, shadows: Shadows) -> np.ndarray:
        losses = np.where(shadows.inside, np.nan, log_expit(shadows.odds))
        return log_expit(odds) - np.nanmean(losses, 0)


def _average(odds: np.ndarray, which: np.ndarray) -> np.ndarray:
    """(n,) logarithm of the mean probability of each row's label, over the models `which` (k, n) says."""
    return logsumexp(log_expit(odds), axis=0, b=which) - np.log(which.sum(0))
