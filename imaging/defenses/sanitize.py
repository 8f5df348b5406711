"""Sanitizers: a transform of the image before a trained model, and an attacker who knows it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from imaging.defenses import transforms
from suite.base.bounds import Bits, Count, Positive
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.defense import Front
from suite.core.space import Kind
from suite.defenses.post_training.sanitizer import sanitized

_KNOWN = "measured against attacks that know it and differentiate through it"
_BPDA = _KNOWN + ", rounding taken for the identity (BPDA: Athalye, Carlini and Wagner 2018, arXiv 1802.00420)"


@dataclass(frozen=True)
class Sanitizer(Front):
    """A transform of images in front of a trained model.

    It is part of the module under attack, and differentiable, so that every gradient attack on the defended model is
    adaptive.
    """

    inputs: ClassVar[Kind] = "image"

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) images, as the model sees them."""

    def wrap(self, classifier: Classifier, train: Split, val: Split) -> Classifier:
        if train.x.ndim != 4:
            raise NotApplicable(f"{type(self).__name__} is for images, and these inputs are none: "
                                f"{train.x.ndim - 1} axes each")
        return sanitized(classifier, self.transform)


@dataclass(frozen=True)
class Jpeg(Sanitizer):
    """JPEG compression.

    Attributes:
        quality: 1 to 100.
    """

    info: ClassVar[Info] = Info(
        "JPEG compression", "Das et al. 2018, arXiv 1802.06816; Guo et al. 2018, arXiv 1711.00117",
        threats=("evasion",), cost="less than a small network's forward pass", departs=_BPDA)
    quality: Count = 75

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise InputError(f"Jpeg: quality must lie between 1 and 100, got {self.quality}")

    def transform(self, x: Tensor) -> Tensor:
        return transforms.jpeg(x, self.quality)


@dataclass(frozen=True)
class BitDepth(Sanitizer):
    """Fewer grey levels.

    Attributes:
        bits: Of each channel, 1 to 8.
    """

    info: ClassVar[Info] = Info("Bit depth reduction", "Xu, Evans and Qi 2018, arXiv 1704.01155", threats=("evasion",),
                                cost="none to speak of", departs=_BPDA)
    bits: Bits = 4

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise InputError(f"BitDepth: bits must lie between 1 and 8, got {self.bits}")

    def transform(self, x: Tensor) -> Tensor:
        return transforms.bit_depth(x, self.bits)


@dataclass(frozen=True)
class MedianFilter(Sanitizer):
    """Median smoothing.

    Attributes:
        size: Side of the square window, at least 2, as for `imaging.detectors.FeatureSqueezing`.
    """

    info: ClassVar[Info] = Info("Median filter", "Xu, Evans and Qi 2018, arXiv 1704.01155", threats=("evasion",),
                                cost="`size` ** 2 copies of the images in memory", departs=_KNOWN)
    size: Count = 3

    def __post_init__(self) -> None:
        if self.size < 2:
            raise InputError(f"MedianFilter: size must be at least 2, got {self.size}")

    def transform(self, x: Tensor) -> Tensor:
        return transforms.median(x, self.size)


@dataclass(frozen=True)
class TotalVariation(Sanitizer):
    """Total variation denoising.

    Attributes:
        weight: Of the total variation, in units of intensity, positive.
        steps: Of Chambolle's iteration, at least 1.
    """

    info: ClassVar[Info] = Info(
        "Total variation denoising", "Guo, Rana, Cisse and van der Maaten 2018, arXiv 1711.00117", threats=("evasion",),
        cost="`steps` passes over the pixels",
        departs="denoises all pixels instead of reconstructing from a random few; " + _KNOWN)
    weight: Positive = 0.05
    steps: Count = 30

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.steps < 1:
            raise InputError(f"TotalVariation: weight must be positive and steps at least 1, got {self.weight} and "
                             f"{self.steps}")

    def transform(self, x: Tensor) -> Tensor:
        return transforms.total_variation(x, self.weight, self.steps)


@dataclass(frozen=True)
class Wavelet(Sanitizer):
    """Wavelet denoising: Haar details below the noise are removed.

    Attributes:
        levels: Of the transform, at least 1.
    """

    info: ClassVar[Info] = Info(
        "Wavelet denoising", "Agarwal, Singh, Vatsa and Ratha 2021, IEEE TDSC 18(5); Donoho and Johnstone 1994",
        threats=("evasion",), cost="a few passes over the pixels", departs=_KNOWN)
    levels: Bits = 2

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise InputError(f"Wavelet: levels must be at least 1, got {self.levels}")

    def transform(self, x: Tensor) -> Tensor:
        return transforms.wavelet(x, self.levels)
