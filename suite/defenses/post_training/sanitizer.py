"""A transform of the inputs in front of any trained model, and seen by every gradient attack on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from suite.core.classifier import Classifier, TorchClassifier
from suite.defenses.post_training.around import Around, around

Transform = Callable[[Tensor], Tensor]
"""`(n, ...) -> (n, ...)`, each row by itself, without randomness; autograd through it gives gradients that are worth
following, so what has none (rounding) lets them pass straight through."""


def sanitized(classifier: Classifier, transform: Transform) -> Classifier:
    """A trained model that sees each input transformed; everything else about it stays as it was."""
    if isinstance(classifier, TorchClassifier):
        return around(classifier, Sanitized(classifier.module, transform))
    return SanitizedClassifier(classifier, transform)


class Sanitized(nn.Module):
    """A transform followed by a network.

    Args:
        inner: `(n, ...) -> (n, logits)`.
        transform: Of its inputs.
    """

    def __init__(self, inner: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.inner, self.transform = inner, transform

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.transform(x))


class SanitizedClassifier(Around):
    """Any model without gradients behind a transform."""

    def __init__(self, inner: Classifier, transform: Transform) -> None:
        super().__init__(inner)
        self.transform = transform

    def _proba(self, x: np.ndarray) -> np.ndarray:
        return self.inner.predict_proba(self.transform(torch.from_numpy(x)).numpy())
