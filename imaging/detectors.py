"""Detectors that know images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from imaging.defenses.transforms import bit_depth, median
from suite.base.bounds import Bits, Count
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.space import Kind
from suite.detectors import Squeezing
from suite.detectors.squeezing import Squeezer


@dataclass
class FeatureSqueezing(Squeezing):
    """Feature squeezing by fewer grey levels and by a median filter, whichever changes the probabilities more.

    Attributes:
        bits: Bits of a grey level, at least 1.
        size: Side of the median's window in pixels, at least 2.
    """

    info: ClassVar[Info] = Info(
        "Feature squeezing", "Xu, Evans and Qi 2018, arXiv 1704.01155", cost="3 forward passes an input",
        departs="without non-local means, the third of the squeezers that the paper combines")
    inputs: ClassVar[Kind] = "image"
    bits: Bits = 4
    size: Count = 3

    def __post_init__(self) -> None:
        if self.bits < 1 or self.size < 2:
            raise InputError(f"FeatureSqueezing: bits must be at least 1 and size at least 2, got {self.bits} and "
                             f"{self.size}")

    def squeezers(self, classifier: TorchClassifier, clean: np.ndarray) -> Sequence[Squeezer]:
        if clean.ndim != 4:
            raise NotApplicable(f"FeatureSqueezing is for images (n, channels, height, width), not for inputs of shape "
                                f"{clean.shape[1:]}; use bit-depth for tables")
        return [partial(bit_depth, bits=self.bits), partial(median, size=self.size)]
