"""Telling less: a trained model that answers with rounded or clipped probabilities, or with its label alone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from suite.base.info import Info
from suite.core.classifier import Classifier, TorchClassifier
from suite.core.data import Split
from suite.core.defense import Front
from suite.core.odds import SURE
from suite.defenses.post_training.around import Around, around
from suite.training.straight_through import straight_through


@dataclass(frozen=True)
class Discretion(Front):
    """Base: what is told is a function of the probabilities that keeps the most probable label.

    Whoever holds a network sees through it, so white-box attacks do: its gradients are those of the full answer.
    """

    @abstractmethod
    def told(self, proba: Tensor) -> Tensor:
        """(n, k) what is told of (n, k) probabilities, at least 0; it is normalised afterwards."""

    def wrap(self, classifier: Classifier, train: Split, val: Split) -> Classifier:
        if isinstance(classifier, TorchClassifier):
            return around(classifier, _DiscreetModule(classifier.module, self))
        return _DiscreetClassifier(classifier, self)

    def answer(self, proba: Tensor) -> Tensor:
        """(n, k) probabilities as told: none is 0, and the label stays the most probable one."""
        told = self.told(proba).clamp(min=SURE)
        told = told.scatter_add(1, proba.argmax(1, keepdim=True), torch.full_like(told[:, :1], SURE))
        return told / told.sum(1, keepdim=True)


@dataclass(frozen=True)
class RoundedAnswers(Discretion):
    """Tells probabilities to so many decimals.

    Attributes:
        decimals: From 0 to 5. Rounded probabilities are told as shares of their sum.
    """

    info: ClassVar[Info] = Info(
        "Rounded answers", "Fredrikson, Jha and Ristenpart 2015, doi 10.1145/2810103.2813677; Tramer, Zhang, Juels, "
        "Reiter and Ristenpart 2016, arXiv 1609.02943", cost="nothing but digits",
        departs="of equal rounded probabilities that of the label is told a millionth higher, so that no label changes")
    decimals: Annotated[int, Field(strict=True, ge=0, le=5)] = 1

    def told(self, proba: Tensor) -> Tensor:
        return proba.round(decimals=self.decimals)


@dataclass(frozen=True)
class ClippedAnswers(Discretion):
    """Tells no probability above a ceiling; what is cut off is spread evenly over the other classes.

    Attributes:
        ceiling: In (0.5, 1), so that the label stays the most probable one.
    """

    info: ClassVar[Info] = Info(
        "Clipped answers", "after Shokri, Stronati, Song and Shmatikov 2017, arXiv 1610.05820, sec. VIII",
        cost="how sure the model is where it is sure",
        departs="clips probabilities, where the paper tells only some classes, rounds, or raises the temperature")
    ceiling: Annotated[float, Field(strict=True, gt=0.5, lt=1)] = 0.9

    def told(self, proba: Tensor) -> Tensor:
        over = (proba - self.ceiling).clamp(min=0)
        spread = over.sum(1, keepdim=True) * (over == 0) / (over == 0).sum(1, keepdim=True).clamp(min=1)
        return proba - over + spread


@dataclass(frozen=True)
class TopAnswer(Discretion):
    """Tells the probability of the label alone; the rest is told in equal parts of the other classes."""

    info: ClassVar[Info] = Info(
        "Top answer only", "Orekondy, Schiele and Fritz 2019, arXiv 1812.02766",
        cost="the order of all classes but the first; of two classes nothing, since it tells both",
        departs="the paper leaves the other probabilities out; a distribution keeps its sum")

    def told(self, proba: Tensor) -> Tensor:
        top, label = proba.max(1, keepdim=True)
        rest = (1 - top) / max(proba.shape[1] - 1, 1)
        return rest.expand_as(proba).scatter(1, label, top)


@dataclass(frozen=True)
class LabelAnswers(Discretion):
    """Tells the label and no probability."""

    info: ClassVar[Info] = Info(
        "Label-only answers", "Tramer, Zhang, Juels, Reiter and Ristenpart 2016, arXiv 1609.02943",
        cost="all probabilities: no ranking of patients, no threshold but the model's own")

    def told(self, proba: Tensor) -> Tensor:
        return torch.zeros_like(proba).scatter_(1, proba.argmax(1, keepdim=True), 1.0)


class _DiscreetModule(nn.Module):
    """A network whose logits are the logarithms of what is told, with the gradient of its full answer."""

    def __init__(self, inner: nn.Module, defense: Discretion) -> None:
        super().__init__()
        self.inner, self.defense = inner, defense

    def forward(self, x: Tensor) -> Tensor:
        full = self.inner(x).log_softmax(1)
        return straight_through(full, self.defense.answer(full.detach().exp()).log())


class _DiscreetClassifier(Around):
    """Any model whose probabilities are those that are told."""

    def __init__(self, inner: Classifier, defense: Discretion) -> None:
        super().__init__(inner)
        self.defense = defense

    def _proba(self, x: np.ndarray) -> np.ndarray:
        return self.defense.answer(torch.from_numpy(self.inner.predict_proba(x))).numpy()
