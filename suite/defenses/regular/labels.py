"""Label sanitizing: find training labels that look wrong, before a model learns from them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from suite.base.bounds import Count, ProperShare, Several
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.defense import Defense
from suite.core.recipe import Recipe


@dataclass(frozen=True)
class LabelSanitizing(Defense):
    """Drops or relabels suspicious training rows, then trains the recipe on the rest.

    Attributes:
        action: What happens to a suspicious row.
        most: No class loses more than this share of its rows, in (0, 1), the most suspicious first: a rare disease
            amid healthy patients always looks wrong.
    """

    against_poisoning: ClassVar[bool] = True
    action: Literal["relabel", "drop"] = "drop"
    most: ProperShare = 0.5

    def __post_init__(self) -> None:
        if self.action not in ("relabel", "drop"):
            raise InputError(f"{type(self).__name__}: action must be 'relabel' or 'drop', got {self.action!r}")
        if not 0 < self.most < 1:
            raise InputError(f"{type(self).__name__}: most must lie between 0 and 1, exclusive, got {self.most!r}")

    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        return recipe.fit(self.clean(recipe, train, val, seed, device), val, seed=seed, device=device)

    def clean(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Split:
        """The training split without its suspicious labels."""
        labels = self.relabel(recipe, train, val, seed, device)
        return train.take(labels == train.y) if self.action == "drop" else train.with_data(train.x, labels)

    def relabel(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> np.ndarray:
        """(n,) int64 labels that the rows should have; a row is suspicious where this is not `train.y`."""
        believed, suspicion = self.believe(recipe, train, val, seed, device)
        labels = train.y.copy()
        for label in np.unique(train.y):
            rows = np.flatnonzero((train.y == label) & (believed != label))
            rows = rows[np.argsort(-suspicion[rows], kind="stable")][:int(self.most * (train.y == label).sum())]
            labels[rows] = believed[rows]
        return labels

    @abstractmethod
    def believe(self, recipe: Recipe, train: Split, val: Split, seed: int,
                device: str) -> tuple[np.ndarray, np.ndarray]:
        """(n,) labels this defense believes in (`train.y` where it has no objection), and (n,) how strongly."""


@dataclass(frozen=True)
class NeighborLabels(LabelSanitizing):
    """A row is suspicious if most of its nearest neighbors, in standardised inputs, share another label.

    Attributes:
        k: Neighbors asked, the row itself not among them.
        agreement: A label is believed if it gets more than this share of the votes, in [0.5, 1).
    """

    info: ClassVar[Info] = Info("k-NN label sanitizing", "Paudice, Munoz-Gonzalez and Lupu 2018, arXiv 1803.00992",
                                cost="distances between training rows",
                                departs="drops rather than relabels, a vote weighs the less the more common its class "
                                        "is, and no class loses more than `most`: rare diseases survive")
    k: Count = 20
    agreement: ProperShare = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1 or not 0.5 <= self.agreement < 1:
            raise InputError(f"NeighborLabels: needs k >= 1 and 0.5 <= agreement < 1, got {self.k}, {self.agreement}")

    def believe(self, recipe: Recipe, train: Split, val: Split, seed: int,
                device: str) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import StandardScaler

        x = StandardScaler().fit_transform(train.x.reshape(len(train), -1))
        near = NearestNeighbors(n_neighbors=min(self.k, len(train) - 1)).fit(x).kneighbors(return_distance=False)
        votes = (train.y[near][:, :, None] == np.arange(len(train.classes))).sum(1)
        votes = votes / np.maximum(np.bincount(train.y, minlength=len(train.classes)), 1)
        votes /= votes.sum(1, keepdims=True)
        believed = np.where(votes.max(1) > self.agreement, votes.argmax(1), train.y)
        return believed, votes.max(1)


@dataclass(frozen=True)
class ConfidentLearning(LabelSanitizing):
    """A row is suspicious if models that never saw it are confident that it has another label.

    The recipe itself is trained on all folds but one and judges that one, so a recipe that learns noise by heart is
    helped less. It is confident of a class if its probability reaches the mean probability of that class over the rows
    that carry its label, which allows for class imbalance.

    Attributes:
        folds: Trainings on parts of the data, >= 2.
    """

    info: ClassVar[Info] = Info("Confident learning", "Northcutt, Jiang and Chuang 2021, arXiv 1911.00068",
                                cost="folds + 1 trainings",
                                departs="no class loses more than `most` of its rows, so that rare diseases survive")
    folds: Several = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 2:
            raise InputError(f"ConfidentLearning: needs at least 2 folds, got {self.folds}")

    def believe(self, recipe: Recipe, train: Split, val: Split, seed: int,
                device: str) -> tuple[np.ndarray, np.ndarray]:
        classes = len(train.classes)
        proba = np.eye(classes)[train.y]
        # each class is dealt over the folds, so that none is missing from a training; a class of one row stays in all
        order = np.random.default_rng(seed).permutation(len(train))
        order = order[np.bincount(train.y)[train.y[order]] > 1]
        order = order[np.argsort(train.y[order], kind="stable")]
        for start in range(self.folds):
            held = np.zeros(len(train), bool)
            held[order[start::self.folds]] = True
            proba[held] = recipe.fit(train.take(~held), val, seed=seed, device=device).predict_proba(train.x[held])
        own = proba[np.arange(len(train)), train.y]
        usual = np.array([own[train.y == c].mean() if (train.y == c).any() else np.inf for c in range(classes)])
        confident = np.where(proba >= usual, proba, -np.inf)
        believed = np.where(np.isfinite(confident).any(1), confident.argmax(1), train.y)
        return believed, confident.max(1) - own
