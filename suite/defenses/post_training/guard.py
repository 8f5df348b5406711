"""Input sanitising: a guard in front of a model that refuses to judge inputs no patient is likely to have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from suite.base.bounds import ProperShare
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import REJECTED, Classifier, TorchClassifier
from suite.core.data import Split
from suite.core.defense import Front
from suite.defenses.post_training.around import Around, around
from suite.detectors import Mahalanobis, Neighbors, TorchDetector
from suite.detectors.distance import check_width

DETECTORS: dict[str, type[TorchDetector]] = {"mahalanobis": Mahalanobis, "neighbors": Neighbors}


@dataclass(frozen=True)
class PlausibilityGuard(Front):
    """Refuses inputs that the schema forbids or that are unlike the training data, in front of a trained model.

    A guarded network has one more logit, "refused", which rises with the outlier score. It is differentiable, so
    gradient attacks see the guard and are adaptive without further ado (Carlini and Wagner 2017).

    Attributes:
        fpr: Share of clean validation inputs that are refused as outliers, in (0, 1): what the guard costs.
        detector: "mahalanobis" (one ellipsoid around each class) or "neighbors" (any shape).
    """

    info: ClassVar[Info] = Info(
        "Plausibility guard", "Li and Zhu 2020 (ISBI); refusal after Carlini and Wagner 2017, arXiv 1705.07263",
        cost="one detector fit; a share `fpr` of patients goes unjudged",
        departs="the detector looks at inputs, not at features of the network, so that it guards any model")
    fpr: ProperShare = 0.05
    detector: Literal["mahalanobis", "neighbors"] = "mahalanobis"

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise InputError(f"PlausibilityGuard: fpr must lie between 0 and 1, exclusive, got {self.fpr!r}")
        if self.detector not in DETECTORS:
            raise InputError(f"PlausibilityGuard: unknown detector '{self.detector}'; known: {', '.join(DETECTORS)}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if self.detector == "mahalanobis":
            check_width(math.prod(shape))

    def wrap(self, classifier: Classifier, train: Split, val: Split) -> Classifier:
        detector = DETECTORS[self.detector]().fit(train.x, train.y)
        threshold = detector.threshold(self.fpr, val.x)
        if isinstance(classifier, TorchClassifier):
            return around(classifier, GuardedModule(classifier.module, detector.module, threshold),
                          GuardedTorchClassifier, rejects=True)
        return GuardedClassifier(classifier, detector, threshold)


class GuardedModule(nn.Module):
    """A network followed by the logit "refused": the largest other logit plus the outlier score above the threshold.

    Args:
        inner: `(n, ...) -> (n, classes)` logits.
        outlier: `(n, ...) -> (n,)` scores.
        threshold: Scores above it are refused.
    """

    def __init__(self, inner: nn.Module, outlier: nn.Module, threshold: float) -> None:
        super().__init__()
        self.inner, self.outlier = inner, outlier
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        refused = logits.amax(1) + (self.outlier(x) - self.threshold)
        return torch.cat([logits, refused[:, None]], 1)


class GuardedTorchClassifier(TorchClassifier):
    """A guarded network that also refuses what the schema forbids.

    The schema rules on verdicts only (`judge`, `predict`), not on logits: an attack that walks between the whole
    numbers and rounds at the end must not find a wall without a slope in between.
    """

    def judge(self, x: Tensor) -> Tensor:
        # what is no number is refused here, and a network has no answer to it
        return super().judge(x.nan_to_num()).masked_fill(~self.space.possible(x), REJECTED)


class GuardedClassifier(Around):
    """Any classifier behind a guard; `predict` gives `REJECTED` where it refuses.

    Args:
        inner: The guarded model; `predict_proba` is its own.
        detector: Fitted.
        threshold: Scores above it are refused.
    """

    def __init__(self, inner: Classifier, detector: TorchDetector, threshold: float) -> None:
        super().__init__(inner)
        self.detector, self.threshold, self.rejects = detector, threshold, True

    def scores(self, x: Tensor) -> Tensor:
        refused = torch.from_numpy(self.predict(x.cpu().numpy()) == REJECTED).to(x)
        self.queries -= len(x)  # one question, though it is put twice here
        return torch.cat([super().scores(x), refused.log()[:, None]], 1)

    def predict(self, x: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(x, np.float32)
        implausible = ~self.space.possible(torch.from_numpy(x)).numpy() | (self.detector.score(x) > self.threshold)
        return np.where(implausible, REJECTED, super().predict(x))

    def _proba(self, x: np.ndarray) -> np.ndarray:
        return self.inner.predict_proba(x)
