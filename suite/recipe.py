"""What to train (a recipe), and how to train it so that it withstands an attack (a defense)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from suite.classifier import Classifier
from suite.data import Split
from suite.info import Info
from suite.space import Kind


@dataclass(frozen=True)
class Recipe(ABC):
    """A kind of model and its hyper-parameters: what a defense trains."""

    info: ClassVar[Info]
    offers: ClassVar[tuple[str, ...]] = ()
    """What attacks can make use of: "gradients", "trees"."""
    inputs: ClassVar[Kind] = ""
    """What it is made for; "" for any inputs."""

    @abstractmethod
    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        """Train on `train`; `val` serves early stopping and, where the recipe asks for one, the operating point."""

    def asked(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        """As `fit`, for those who only ask for answers: the same, but perhaps sooner."""
        return self.fit(train, val, seed, device)


@dataclass(frozen=True)
class Defense(ABC):
    """A way to train (or to wrap) a recipe. All defenses are of this one shape, so each composes with each attack."""

    info: ClassVar[Info]
    against_poisoning: ClassVar[bool] = False
    """Made for poisoned training data: an audit runs it with poisoning attacks, and with those only."""
    inputs: ClassVar[Kind] = ""
    """What it is made for; "" for any inputs."""

    def check(self, recipe: Recipe) -> None:
        """Raise `NotApplicable` if this defense cannot train `recipe`, or cannot stand in front of its models."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise `NotApplicable` if this defense cannot be used with inputs of this shape."""

    def check_data(self, train: Split) -> None:
        """Raise `InputError` if this defense wants of the training split what it does not have."""

    def as_recipe(self, recipe: Recipe) -> Recipe | None:
        """What to train plainly to get what this defense trains; None where it trains in a way of its own."""
        return None

    @abstractmethod
    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        """A trained, defended classifier. It never sees a test row."""


@dataclass(frozen=True)
class Front(Defense):
    """A defense that stands in front of a trained model and leaves its training alone."""

    def as_recipe(self, recipe: Recipe) -> Recipe:
        return recipe

    @abstractmethod
    def wrap(self, classifier: Classifier, train: Split, val: Split) -> Classifier:
        """The defended model; the same inputs give the same result, so it is made again rather than stored."""

    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        self.check_shape(train.x.shape[1:])
        return self.wrap(recipe.fit(train, val, seed, device), train, val)


def exceeded(scores: np.ndarray, share: float) -> float:
    """The least of (n,) `scores` that at most so large a `share` of them exceeds."""
    return float(np.quantile(scores, 1 - share, method="higher"))


class Detector(ABC):
    """Scores how suspicious an input is."""

    info: ClassVar[Info]
    needs: ClassVar[Literal["", "gradients"]] = ""
    """As `suite.attack.Attack.needs`: "gradients" for one that looks inside a network."""
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
