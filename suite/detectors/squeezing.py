"""Feature squeezing: an input is suspicious when a coarser version of it is judged differently."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from suite.base.bounds import Bits
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.detectors._torch import TorchDetector
from suite.training.straight_through import straight_through

Squeezer = Callable[[Tensor], Tensor]
"""`(n, ...) inputs -> (n, ...)` coarser ones, with a gradient that leads somewhere: see
`suite.training.straight_through`."""


@dataclass
class Squeezing(TorchDetector):
    """Greatest L1 distance, over some squeezers, between the probabilities of an input and of its squeezed version.

    An attack that knows the detector follows the squeezers' gradient and, where they have none, goes straight through
    them, as if they did nothing (BPDA; Athalye et al. 2018, arXiv 1802.00420).
    """

    needs: ClassVar[Literal["gradients"]] = "gradients"

    @abstractmethod
    def squeezers(self, classifier: TorchClassifier, clean: np.ndarray) -> Sequence[Squeezer]:
        """What to compare with; `NotApplicable` where it makes no sense for these inputs."""

    def learn(self, clean: np.ndarray, y: np.ndarray | None, classifier: TorchClassifier | None) -> nn.Module:
        return _Squeezed(classifier.module, self.squeezers(classifier, clean), len(classifier.classes_))


class _Squeezed(nn.Module):
    def __init__(self, inner: nn.Module, squeezers: Sequence[Squeezer], classes: int) -> None:
        super().__init__()
        self.inner, self.squeezers, self.classes = inner, squeezers, classes

    def forward(self, x: Tensor) -> Tensor:
        proba = self._proba(x)
        return torch.stack([(proba - self._proba(squeeze(x))).abs().sum(1)
                            for squeeze in self.squeezers]).amax(0)

    def _proba(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, :self.classes].softmax(1)


@dataclass
class BitDepth(Squeezing):
    """Feature squeezing by fewer values alone, for any inputs: the range of each feature in 2^bits steps.

    Attributes:
        bits: At least 1.
    """

    info: ClassVar[Info] = Info(
        "Feature squeezing, bit depth only", "Xu, Evans and Qi 2018, arXiv 1704.01155",
        cost="2 forward passes an input",
        departs="the range of a column takes the place of that of a pixel, so that it works for tables")
    bits: Bits = 4

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise InputError(f"BitDepth: bits must be at least 1, got {self.bits}")

    def squeezers(self, classifier: TorchClassifier, clean: np.ndarray) -> Sequence[Squeezer]:
        low, width = classifier.space.lower, classifier.space.upper - classifier.space.lower
        if not bool(torch.isfinite(width).all()):
            raise NotApplicable("BitDepth: a feature without a least and a greatest value cannot be cut into steps")
        step = torch.where(width > 0, width, 1.0) / (2 ** self.bits - 1)
        return [lambda x: straight_through(x, low + ((x - low) / step).round() * step)]
