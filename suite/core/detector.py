"""A detector: how suspicious an input is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import numpy as np

from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Kind


def exceeded(scores: np.ndarray, share: float) -> float:
    """The least of (n,) `scores` that at most so large a `share` of them exceeds."""
    return float(np.quantile(scores, 1 - share, method="higher"))


class Detector(ABC):
    """Scores how suspicious an input is."""

    info: ClassVar[Info]
    needs: ClassVar[Literal["", "gradients"]] = ""
    """As `suite.core.attack.Attack.needs`: "gradients" for one that looks inside a network."""
    inputs: ClassVar[Kind] = ""
    """What it is made for; "" for any inputs."""
    fitted_on: ClassVar[str] = ""
    """Registered name of the attack that it learned from, if any: what it does on that attack proves little."""

    @abstractmethod
    def fit(self, clean: np.ndarray, y: np.ndarray | None = None, classifier: Classifier | None = None) -> Self:
        """Learn what clean (n, ...) inputs with (n,) labels look like to a classifier; returns itself."""

    @abstractmethod
    def score(self, x: np.ndarray) -> np.ndarray:
        """(n,) float64 scores; higher is more suspicious."""

    def threshold(self, fpr: float, clean: np.ndarray) -> float:
        """The score that a share `fpr` of held-out `clean` inputs exceeds."""
        return exceeded(self.score(clean), fpr)
