"""What the detectors share: a score that is a module, and the features that it looks at."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from suite.base.errors import InputError, NotApplicable
from suite.base.seeding import torch_generator
from suite.core.batches import in_batches
from suite.core.classifier import Classifier, TorchClassifier
from suite.core.detector import Detector
from suite.core.normalize import Normalize
from suite.training.features import Penultimate


@dataclass
class TorchDetector(Detector):
    """A detector whose score is a module, so that a guard can use it in front of a network and attacks can follow it.

    Attributes:
        module: After `fit`, `(n, ...) float32 inputs -> (n,) scores`, differentiable; its state is in its buffers.
        batch: As that of a classifier.
    """

    def fit(self, clean: np.ndarray, y: np.ndarray | None = None, classifier: Classifier | None = None) -> Self:
        """Learn what clean inputs look like.

        Args:
            clean: (n, ...) inputs in data units, n >= 2.
            y: (n,) int64 labels, for detectors that look at each class by itself; others ignore them.
            classifier: The network whose features are looked at; without one, or where it is no network, the inputs
                are.

        Raises:
            InputError: Too few inputs.
            NotApplicable: This detector needs a network, or more of it than there is.
        """
        if len(clean) < 2:
            raise InputError(f"{type(self).__name__} needs at least two clean inputs, got {len(clean)}")
        network = classifier if isinstance(classifier, TorchClassifier) else None
        if network is None and self.needs:
            raise NotApplicable(f"{type(self).__name__} looks inside a network, and there is none; detectors of "
                                "inputs are mahalanobis, neighbors and kernel-density")
        self.batch: int | None = None
        self._device = torch.device("cpu") if network is None else network.device
        self.module = self.learn(np.ascontiguousarray(clean, np.float32), y, network).eval()
        if network is not None:
            self.module.to(self._device)
        return self

    @abstractmethod
    def learn(self, clean: np.ndarray, y: np.ndarray | None, classifier: TorchClassifier | None) -> nn.Module:
        """The scoring module."""

    @property
    def device(self) -> torch.device:
        """Where the module lives."""
        held = next(chain(self.module.buffers(), self.module.parameters()), None)
        return self._device if held is None else held.device

    def score(self, x: np.ndarray) -> np.ndarray:
        def score(part: Tensor) -> Tensor:
            return self.module(part.to(self.device)).double().cpu()

        with torch.no_grad():
            return in_batches(self, score, torch.from_numpy(np.ascontiguousarray(x, np.float32))).numpy()


class View(nn.Module):
    """`(n, ...) inputs -> (n, d)` standardised features: of a network, or the inputs themselves where there is none.

    Args:
        clean: (n, ...) inputs, which say what standard is.
        classifier: The network.

    Attributes:
        rows: (n, d) float32 view of `clean`, on the CPU; no buffer.
    """

    def __init__(self, clean: np.ndarray, classifier: TorchClassifier | None) -> None:
        super().__init__()
        x = torch.from_numpy(clean)
        if classifier is None:
            self.features = None
            self.normalize = Normalize(clean.shape[1:]).fit(clean)
            self.rows = self(x)
        else:
            self.features = Penultimate(classifier.module)
            with torch.no_grad():
                found = in_batches(classifier, lambda part: self.features(part.to(classifier.device)).cpu(), x)
            self.normalize = Normalize(found.shape[1:]).fit(found.numpy())
            self.rows = self.normalize(found)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The view and, of a network, its logits."""
        features, logits = (x, None) if self.features is None else self.features.both(x)
        return self.normalize(features).flatten(1), logits

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


def some(n: int, most: int) -> Tensor:
    """Positions of all of `n` rows, or of a random `most` of them, the same each time."""
    return torch.arange(n) if n <= most else torch.randperm(n, generator=torch_generator(0))[:most]


def labels(y: np.ndarray | None, n: int) -> Tensor:
    """(n,) labels as positions among those that occur; all 0 where there are none."""
    return torch.zeros(n, dtype=torch.int64) if y is None else torch.as_tensor(y).unique(return_inverse=True)[1]
