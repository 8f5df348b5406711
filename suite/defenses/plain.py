"""No defense: what every other defense is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.defense import Defense
from suite.core.recipe import Recipe


@dataclass(frozen=True)
class Plain(Defense):
    """Trains the recipe as it is."""

    info: ClassVar[Info] = Info("No defense", "none", cost="one training")

    def as_recipe(self, recipe: Recipe) -> Recipe:
        return recipe

    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        return recipe.fit(train, val, seed, device)
