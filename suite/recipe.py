"""What to train (a recipe), and how to train it so that it withstands an attack (a defense)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from suite.bounds import Count, Decay, LearningRate, NonNegative
from suite.classifier import Classifier, TorchClassifier
from suite.data import Split
from suite.errors import NotApplicable
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
class TorchRecipe(Recipe):
    """A network and how long to train it (AdamW, class weights, early stopping on the validation loss)."""

    offers: ClassVar[tuple[str, ...]] = ("gradients",)

    epochs: Count = 100
    batch: Count = 64
    lr: LearningRate = 2e-3
    weight_decay: NonNegative = 1e-4
    patience: Count = 20
    early_stopping: bool = True
    """Return the epoch with the least validation loss, and end after `patience` epochs without a better one; else train
    to the last epoch and return that: such a network remembers its patients."""
    balanced: bool = True
    """Weight classes by the inverse of their frequency."""
    cosine: bool = False
    """Let the learning rate rise during the first epoch and fall to 0 along a cosine, rather than stay."""
    average: Decay = 0.0
    """Decay per step of a running average of the weights, which is what is validated and returned; 0 for none."""
    operating_point: Literal["argmax", "balanced"] = "argmax"
    """For two classes, what decides: the larger logit as trained, or the threshold with the best balanced accuracy on
    the validation split, which then is where the logits are equal (see `suite.operating`)."""

    def suited(self, train: Split) -> TorchRecipe:
        """This recipe with what it leaves to the data settled; training starts with it."""
        return self

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Other versions of (n, ...) training inputs in data units, on their device; the inputs themselves here."""
        return x

    @abstractmethod
    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        """An untrained module `(n, *inputs) standardised float32 -> (n, classes) logits`.

        Training puts a `suite.normalize.Normalize` before it, so that the whole takes data units.
        """

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> TorchClassifier:
        from suite.training import fit

        return fit(self, train, val, seed=seed, device=device)


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
class TorchDefense(Defense):
    """A defense that changes how a network is trained."""

    def check(self, recipe: Recipe) -> None:
        if not isinstance(recipe, TorchRecipe):
            raise NotApplicable(f"{type(self).__name__} trains networks only, and {type(recipe).__name__} is none")

    def rebuilt(self, recipe: TorchRecipe, bare: Callable[[TorchRecipe], TorchClassifier]) -> TorchClassifier:
        """A classifier shaped like those that this defense returns, for `suite.artifacts.load` to put weights in.

        Args:
            recipe: What was trained.
            bare: Gives a classifier shaped like those of plain training.
        """
        return bare(recipe)


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
