"""No defense: what every other defense is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.classifier import Classifier
from suite.data import Split
from suite.defense import Defense
from suite.info import Info
from suite.recipe import Recipe


@dataclass(frozen=True)
class Plain(Defense):
    """Trains the recipe as it is."""

    info: ClassVar[Info] = Info("No defense", "none", cost="one training")

    def as_recipe(self, recipe: Recipe) -> Recipe:
        return recipe

    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        return recipe.fit(train, val, seed, device)
