"""How sure models are of labels, and what many of them answer about the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from suite.core.classifier import Classifier, TorchClassifier

SURE = 1e-6
"""Where only probabilities are known, they are kept this far from 0: a forest's may be 0 or 1 exactly."""


@dataclass(frozen=True)
class Shadows:
    """What shadow models answer about n rows.

    Attributes:
        inside: (k, n) bool: which rows each of k models has learned from.
        odds: (k, n) float64: how sure each model is of each row's label, as `log_odds`.
        further: (k, f) float64: the same of the other rows of the patients whom the n rows are of; None for none.
        owner: (f,) int64: which of the n rows is of the same patient, and known to the same models; None for none.
    """

    inside: np.ndarray
    odds: np.ndarray
    further: np.ndarray | None = None
    owner: np.ndarray | None = None

    @property
    def by_row(self) -> Shadows:
        """All n + f rows alike."""
        if self.further is None:
            return self
        return Shadows(np.hstack([self.inside, self.inside[:, self.owner]]), np.hstack([self.odds, self.further]))


def log_odds(classifier: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) float64 `ln p - ln (1 - p)` of the probability p of each row's label.

    Of networks from their logits, as a probability near 1 has no digits left to tell rows apart.
    """
    if isinstance(classifier, TorchClassifier):
        logits = classifier.scores(torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(classifier.device)).double()
        label = torch.from_numpy(y).to(logits.device)[:, None]
        others = logits.scatter(1, label, -torch.inf).logsumexp(1)
        return (logits.gather(1, label)[:, 0] - others).cpu().numpy()
    proba = classifier.predict_proba(x)
    own = proba[np.arange(len(y)), y]
    return np.log(np.maximum(own, SURE)) - np.log(np.maximum(proba.sum(1) - own, SURE))
