"""Several networks in one: of different seeds, or one network with different units left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from suite.base.bounds import Count, ProperShare, Several
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.classifier import TorchClassifier, frozen
from suite.core.data import Split
from suite.defenses.post_training.around import around
from suite.training.features import last_linear
from suite.training.loop import TorchDefense, TorchRecipe, fit
from suite.training.randomized import RandomizedClassifier, Together, drawing


@dataclass(frozen=True)
class Ensemble(TorchDefense):
    """The mean of the probabilities of several networks, which differ in their initialisation and order of the rows.

    It is one module, so that an attack sees all of them.

    Attributes:
        members: Number of networks, at least 2.
    """

    info: ClassVar[Info] = Info(
        "Ensemble", "Lakshminarayanan, Pritzel and Blundell 2017, arXiv 1612.01474", threats=("evasion",),
        cost="`members` trainings, `members` passes a prediction", departs="members see no adversarial inputs")
    members: Several = 3

    def __post_init__(self) -> None:
        if self.members < 2:
            raise InputError(f"Ensemble: members must be at least 2, got {self.members}")

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)
        return _joined([recipe.fit(train, val, seed * self.members + k, device) for k in range(self.members)])

    def rebuilt(self, recipe: TorchRecipe, bare: Callable[[TorchRecipe], TorchClassifier]) -> TorchClassifier:
        return _joined([bare(recipe) for _ in range(self.members)])


def _joined(members: list[TorchClassifier]) -> TorchClassifier:
    return around(members[0], Together([m.module for m in members]))


@dataclass(frozen=True)
class MCDropout(TorchDefense):
    """A network trained with dropout that keeps it on: its prediction is the mean over so many draws.

    Where the recipe has a field `dropout`, it is set to `rate`; otherwise a layer of dropout is put before the last
    linear layer. Batch normalisation uses its running statistics. How much its draws disagree is a detector
    (`suite.detectors.Uncertainty`).

    Attributes:
        draws: At each prediction.
        rate: Probability with which a unit is left out, in (0, 1).
    """

    info: ClassVar[Info] = Info(
        "Monte Carlo dropout", "Gal and Ghahramani 2016, arXiv 1506.02142", threats=("evasion",),
        cost="one training, `draws` passes a prediction",
        departs="predictions leave the same units out for all inputs, so that they can be repeated; attacks average "
                "over draws of their own (EOT)")
    draws: Count = 20
    rate: ProperShare = 0.3

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.rate < 1:
            raise InputError(f"MCDropout: draws must be at least 1 and rate in (0, 1), got {self.draws} and "
                             f"{self.rate}")

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)
        classifier = fit(self._with_dropout(recipe), train, val, seed=seed, device=device)
        classifier.recipe = recipe
        return self._drawn(classifier)

    def rebuilt(self, recipe: TorchRecipe, bare: Callable[[TorchRecipe], TorchClassifier]) -> TorchClassifier:
        classifier = bare(self._with_dropout(recipe))
        classifier.recipe = recipe
        return self._drawn(classifier)

    def _with_dropout(self, recipe: TorchRecipe) -> TorchRecipe:
        if any(f.name == "dropout" for f in fields(recipe)):
            return replace(recipe, dropout=self.rate)
        shared = {f.name: getattr(recipe, f.name) for f in fields(TorchRecipe)}
        return _DropoutBeforeLast(**shared, inner=recipe, rate=self.rate)

    def _drawn(self, classifier: TorchClassifier) -> TorchClassifier:
        return around(classifier, drawing(classifier.module, self.draws), RandomizedClassifier)


@dataclass(frozen=True)
class _DropoutBeforeLast(TorchRecipe):
    """A recipe whose network has no dropout, with a layer of it before the last linear one."""

    info: ClassVar[Info] = Info("With dropout", "none")
    inner: TorchRecipe = None
    rate: float = 0.3

    def suited(self, train: Split) -> TorchRecipe:
        return replace(self, inner=self.inner.suited(train))

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.inner.augment(x, generator)

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        network = self.inner.network(inputs, classes)
        with frozen(network):
            linear = last_linear(network, torch.zeros(1, *inputs))
        if not linear:
            raise NotApplicable(f"MCDropout: the network of {type(self.inner).__name__} has no linear layer to put "
                                "dropout before")
        network.set_submodule(linear, nn.Sequential(nn.Dropout(self.rate), network.get_submodule(linear)))
        return network
