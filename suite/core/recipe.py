"""A recipe: what to train, and with which hyper-parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.space import Kind


@dataclass(frozen=True)
class Recipe(ABC):
    """A kind of model and its hyper-parameters: what a defense trains."""

    info: ClassVar[Info]
    offers: ClassVar[tuple[str, ...]] = ()
    """What attacks can make use of: "gradients", "trees"."""
    inputs: ClassVar[Kind] = ""
    """What it is made for; "" for any inputs."""

    foreign: ClassVar[bool] = False
    """Its models are not of our making: they may write into what they are given."""

    @abstractmethod
    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        """Train on `train`; `val` serves early stopping and, where the recipe asks for one, the operating point."""

    def asked(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        """As `fit`, for those who only ask for answers: the same, but perhaps sooner."""
        return self.fit(train, val, seed, device)
