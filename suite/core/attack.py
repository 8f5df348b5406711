"""What an attack is. Its fields are its hyper-parameters, so a measurement records exactly what ran."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from suite.base.bounds import Positive, ProperShare
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.classifier import Classifier, TorchClassifier
from suite.core.data import Split
from suite.core.defense import Defense
from suite.core.odds import Shadows
from suite.core.recipe import Recipe
from suite.core.space import Kind, Norm


@dataclass(frozen=True)
class Attack(ABC):
    """Base of all attacks: a frozen dataclass with an `info`."""

    info: ClassVar[Info]
    needs: ClassVar[Literal["", "gradients", "trees", "one tree", "class means"]] = ""
    """What a model must offer (`suite.core.recipe.Recipe.offers`); nothing for an attack that only asks."""
    inputs: ClassVar[Kind] = ""
    """What it is made for; "" for any inputs."""
    retrains: ClassVar[bool] = False
    """Trains the model's recipe again, which a model that came fitted does not have."""

    @property
    def surrogates(self) -> bool:
        """Whether an attack that `retrains` can do with another recipe: see `suite.models.surrogate`."""
        return False

    def meets(self, recipe: Recipe) -> bool:
        """Whether the models of a recipe have what this attack needs."""
        return not self.needs or self.needs in recipe.offers

    def faces(self, defense: Defense) -> bool:
        """Whether this attack is one on what such a defense trains, or on how it does."""
        return True

    def caution(self, defense: Defense, train: Split) -> str:
        """What should be known before this attack meets a defense, in one line; empty for nothing."""
        return ""

    def check(self, classifier: Classifier) -> None:
        """Raise `NotApplicable` if this attack cannot be used on `classifier`."""
        if not classifier.space.suits(self.inputs):
            raise NotApplicable(f"{type(self).__name__} is for {self.inputs}s, and the inputs of this model are "
                                f"{classifier.space.kind}s")
        if classifier.labels_only and self.info.knowledge == "score":
            raise NotApplicable(f"{type(self).__name__} needs probabilities, and this model tells labels only")


@dataclass(frozen=True)
class EvasionAttack(Attack):
    """Turns inputs into similar possible inputs that the classifier gets wrong.

    Attributes:
        eps: Budget in the attack's norm, in units of the space's scale. An attack that looks for the smallest
            perturbation (`minimal`) treats it as a bound beyond which it need not look.
    """

    eps: Positive = 0.1

    unit: ClassVar[str] = ""
    """What `eps` counts where it is no norm, as in "largest angle, in degrees": then `norm` is "own", the attack is
    measured at its own `eps`, and keeps to it by itself."""
    minimal: ClassVar[bool] = False
    """Looks for the smallest perturbation, so that one run gives the whole robustness curve."""

    @property
    def norm(self) -> Norm:
        """The norm in which `eps` is meant."""
        return "own" if self.unit else "linf"

    @abstractmethod
    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        """Adversarial versions of `x`.

        Args:
            classifier: The model under attack.
            x: (n, ...) float32 possible inputs on the classifier's device.
            y: (n,) int64 true labels.
            seed: All randomness of the attack comes from it.

        Returns:
            (n, ...) float32 possible inputs within `eps` of `x`; a row equals `x` where nothing was found.
        """


@dataclass(frozen=True)
class GradientAttack(EvasionAttack):
    """An evasion attack that needs input gradients."""

    needs: ClassVar[Literal["gradients"]] = "gradients"

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        if not isinstance(classifier, TorchClassifier):
            raise NotApplicable(f"{type(self).__name__} needs gradients, which this model does not give; use an attack "
                                "that only asks (square, hopskipjump, zoo) or, for trees, exact-linf")


@dataclass(frozen=True)
class Certified:
    """What an exact search found out about each row, and is sure of.

    Attributes:
        x_adv: (n, ...) the nearest adversarial input found, replayed on the real model; the row itself where there is
            none within `eps`.
        lower: (n,) float64: nothing nearer than this fools the model, however clever. 0 for rows it gets wrong.
        upper: (n,) float64: distance of `x_adv`; infinite where none was found within `eps`.
        cut_by: (n,) the limit that cut the search of a row short, "nodes" or "clock"; "" where none did.
    """

    x_adv: Tensor
    lower: np.ndarray
    upper: np.ndarray
    cut_by: np.ndarray


@dataclass(frozen=True)
class CertifiedAttack(EvasionAttack):
    """An evasion attack that also proves how far no attack can come. Never misses: `minimal`."""

    minimal: ClassVar[bool] = True
    counted: ClassVar[Literal["linf", "l0"]] = "linf"
    """What the bounds count: distance in Linf, or features changed."""

    @abstractmethod
    def search(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Certified:
        """Bounds and witnesses of (n, ...) inputs, looking no further than `eps`."""

    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        return self.search(classifier, x, y, seed).x_adv


@dataclass(frozen=True)
class Poisoned:
    """A training set after poisoning.

    Attributes:
        train: The poisoned split, as the victim sees it.
        mask: (n,) bool: which rows the attacker touched.
        trigger: `inputs -> inputs with the trigger`, for backdoors.
        target: The label that the attacker wants, if there is one.
    """

    train: Split
    mask: np.ndarray
    trigger: Callable[[np.ndarray], np.ndarray] | None = None
    target: int | None = None


@dataclass(frozen=True)
class PoisoningAttack(Attack):
    """Changes training rows. Attributes: `rate`, the share of the whole training set that is touched, in (0, 1)."""

    rate: ProperShare = 0.1

    retrains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"{type(self).__name__}: rate must lie between 0 and 1, exclusive, got {self.rate!r}")

    def budget(self, train: Split) -> int:
        """How many rows `rate` asks for."""
        return round(self.rate * len(train))

    @abstractmethod
    def __call__(self, train: Split, seed: int = 0) -> Poisoned:
        """Poison a training split; rows are drawn without replacement."""


@dataclass(frozen=True)
class Leaked:
    """What the attacker has besides the model and the rows in question.

    Attributes:
        members, others: Rows whose membership is known, and from which an attack may learn: never scored.
        shadows: Trains so many shadow models on half of the rows in question each, and tells what they answer about
            all of these, in their order; None where nobody can train any.
    """

    members: Split
    others: Split
    shadows: Callable[[int], Shadows] | None = None


@dataclass(frozen=True)
class MembershipAttack(Attack):
    """Tells training patients from others."""

    @abstractmethod
    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        """(n,) float64 scores of the rows `x`, `y`: higher means more likely a training patient."""


@runtime_checkable
class ShadowScore(Protocol):
    """A membership attack that can be tried on shadow models, as each of them can be the target of the others."""

    shadows: int
    """Shadow models that it asks for."""

    def score(self, odds: np.ndarray, shadows: Shadows) -> np.ndarray:
        """(n,) scores of rows of whose labels a model is sure by (n,) log odds."""


@dataclass(frozen=True)
class Audited:
    """What a training gave away of the rows that an auditor put into it, each of many once, or one of them many times.

    Attributes:
        model: As trained with them. What is claimed of its privacy is in its notes.
        score: (m,) float64, one of each row, or of each training: higher means more likely that the row was in it.
        inside: (m,) bool, whether it was.
        delta: That of the bounds.
        epsilon: No training with a smaller epsilon gives that much away, at the audit's confidence; 0 where nothing was
            shown.
        epsilon_gdp: The same of trainings whose trade-off curve is that of Gaussian noise.
        made, right: How many rows were judged to be in or out where `epsilon` is from, and how many of them rightly.
        refuted: Whether the training gives away more than its own trade-off curve allows; None where that is not known.
    """

    model: Classifier
    score: np.ndarray
    inside: np.ndarray
    delta: float
    epsilon: float
    epsilon_gdp: float
    made: int
    right: int
    refuted: bool | None = None


@dataclass(frozen=True)
class PrivacyAudit(Attack):
    """Trains again with rows of the auditor's own, to see how much the training gives away of them."""

    retrains: ClassVar[bool] = True
    trials: ClassVar[str] = "canaries"
    """What `Audited.score` is of."""

    @abstractmethod
    def __call__(self, retrain: Callable[[Split, int], Classifier], reference: Classifier, train: Split, fresh: Split,
                 seed: int = 0) -> Audited:
        """Audit a training.

        Args:
            retrain: `(rows, seed) -> model`: the training, with its defense.
            reference: What it made of `train` alone.
            train: The rows it learns from.
            fresh: Rows that it has not seen, and that are no validation rows either.
            seed: All randomness of the audit comes from it, and that of the training.
        """


@dataclass(frozen=True)
class AttributeAttack(Attack):
    """Guesses a hidden column of a patient from the other columns and the model's answer."""

    @abstractmethod
    def __call__(self, classifier: Classifier, known: Split, victims: Split, column: int,
                 seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Guess whether `victims.x[:, column]` is above the median of `known.x[:, column]`.

        Returns:
            `(guesses, baseline)`, each (n,) int64 in {0, 1}: with the model's answer, and by an imputation that has
            the same learner, features and scaling but not the model's answer.
        """


@dataclass(frozen=True)
class InversionAttack(Attack):
    """Reconstructs a typical training input of each class from the model."""

    @abstractmethod
    def __call__(self, classifier: Classifier, start: np.ndarray, seed: int = 0) -> np.ndarray:
        """(classes, ...) float32 reconstructions. `start` is (...), where the search begins."""


@dataclass(frozen=True)
class ReconstructionAttack(Attack):
    """Rebuilds the one training row that the attacker lacks."""

    @abstractmethod
    def __call__(self, classifier: Classifier, known: Split, seed: int = 0) -> tuple[np.ndarray, int]:
        """Rebuild the row that `classifier` learned from besides all rows of `known`.

        Returns:
            `(x, y)`: (...) float32 in data units, and its label.
        """


@dataclass(frozen=True)
class ExtractionAttack(Attack):
    """Trains a copy of a model from its answers."""

    @abstractmethod
    def __call__(self, query: Callable[[np.ndarray], np.ndarray], pool: Split, budget: int, seed: int = 0) -> Any:
        """A surrogate with `predict_proba`.

        Args:
            query: The victim: `(n, ...) -> (n, classes)` probabilities.
            pool: Inputs the thief owns; its labels are not used.
            budget: Rows that may be asked in all.
        """

    @abstractmethod
    def surrogate(self, x: np.ndarray, answers: np.ndarray, pool: Split, seed: int = 0) -> Any:
        """The kind of model that this attack copies into, trained on given answers: what the thief could have without
        the victim, if `answers` are true labels.

        Args:
            x: (n, ...) inputs.
            answers: (n, classes) float64 probabilities, or one-hot labels.
            pool: As for a call.
            seed: Of the training.
        """
