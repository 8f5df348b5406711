"""A defense: how a recipe is trained, or what is put in front of its model, so that it withstands an attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.recipe import Recipe
from suite.core.space import Kind


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
