"""Regularization: the same training with less room to remember single rows."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from suite.base.bounds import Count, Positive, ProperShare
from suite.base.errors import NotApplicable
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.core.recipe import Recipe
from suite.training.loop import TorchDefense, TorchRecipe


@dataclass(frozen=True)
class Regularization(TorchDefense):
    """Base: plain training of another recipe."""

    @abstractmethod
    def as_recipe(self, recipe: TorchRecipe) -> TorchRecipe:
        """What is trained in place of a recipe."""

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)
        return self.as_recipe(recipe).fit(train, val, seed, device)


@dataclass(frozen=True)
class WeightDecay(Regularization):
    """Weights shrink a little at each step (AdamW).

    Attributes:
        strength: Weight decay; that of the recipes is 1e-4 (tables) or 5e-2 (images).
    """

    info: ClassVar[Info] = Info("Weight decay", "Loshchilov and Hutter 2019, arXiv 1711.05101",
                                threats=("membership",), cost="one training")
    strength: Positive = 1.0

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if type(recipe).fit is not TorchRecipe.fit:
            raise NotApplicable(f"{type(recipe).__name__} has a solver of its own, which knows no weight decay")

    def as_recipe(self, recipe: TorchRecipe) -> TorchRecipe:
        return replace(recipe, weight_decay=self.strength)


@dataclass(frozen=True)
class Dropout(Regularization):
    """Hidden units are left out at random while training.

    Attributes:
        rate: Share of them, in (0, 1).
    """

    info: ClassVar[Info] = Info("Dropout", "Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "
                                "J. Mach. Learn. Res. 15:1929", threats=("membership",), cost="one training")
    rate: ProperShare = 0.5

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if "dropout" not in {f.name for f in fields(recipe)}:
            raise NotApplicable(f"{type(recipe).__name__} has no dropout")

    def as_recipe(self, recipe: TorchRecipe) -> TorchRecipe:
        return replace(recipe, dropout=self.rate)


@dataclass(frozen=True)
class EarlyStopping(Regularization):
    """Training ends when the validation loss falls no more, and the epoch with the least is returned.

    Attributes:
        patience: Epochs without a better one after which it ends.
    """

    info: ClassVar[Info] = Info("Early stopping", "Prechelt 1998, doi 10.1007/3-540-49430-8_3; against membership "
                                "inference Song and Mittal 2021, arXiv 2003.10595", threats=("membership",),
                                cost="less than one training")
    patience: Count = 5

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if type(recipe).fit is not TorchRecipe.fit:
            raise NotApplicable(f"{type(recipe).__name__} has a solver of its own, which knows no epochs")

    def as_recipe(self, recipe: TorchRecipe) -> TorchRecipe:
        return replace(recipe, early_stopping=True, patience=self.patience)
