"""Poisoning: flipped labels, and the part of a backdoor that does not depend on what the trigger looks like."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import logsumexp

from suite.base.bounds import Count, Label
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.attack import Poisoned, PoisoningAttack
from suite.core.data import Split


@dataclass(frozen=True)
class LabelFlip(PoisoningAttack):
    """Gives some training rows a wrong label; inputs stay as they are.

    `rate` counts rows of the whole training set. Where fewer rows than that can be flipped, all of them are, and the
    mask tells how many. The wrong label need not be that of another row: a hospital that holds one class of a
    federation's can flip it too. Only those that `compare` raise `InputError` for a training split of one class.
    """

    compare: ClassVar[bool] = False
    """Whether rows of one class are held against those of another."""

    def __call__(self, train: Split, seed: int = 0) -> Poisoned:
        if self.compare and len(np.unique(train.y)) < 2:
            raise InputError(f"{type(self).__name__} needs training rows of at least two classes")
        index, labels = self.flips(train, self.budget(train), np.random.default_rng(seed))
        y, mask = train.y.copy(), np.zeros(len(train), bool)
        y[index], mask[index] = labels, True
        return Poisoned(train.with_data(train.x, y), mask)

    @abstractmethod
    def flips(self, train: Split, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """At most `count` distinct positions, and the wrong label of each."""


@dataclass(frozen=True)
class RandomFlip(LabelFlip):
    """Flips rows drawn at random, each to another class drawn at random: careless or hostile annotators."""

    info: ClassVar[Info] = Info("Random label flipping", "Biggio, Nelson and Laskov 2012, arXiv 1206.6389", "data",
                                ("poisoning",), "one training")

    def flips(self, train: Split, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        index = rng.choice(len(train), count, replace=False)
        classes = len(train.classes)
        return index, (train.y[index] + rng.integers(1, classes, count)) % classes


@dataclass(frozen=True)
class TargetedFlip(LabelFlip):
    """Flips rows of one class to one other class, by default disease to healthy: the model learns to miss patients.

    Attributes:
        source, target: Class indices, different from each other.
    """

    info: ClassVar[Info] = Info(
        "Targeted label flipping", "Mozaffari-Kermani et al. 2015, IEEE J. Biomed. Health Inform. 19:1893", "data",
        ("poisoning",), "one training",
        departs="flips rows of the attacked class instead of adding rows drawn from its feature distribution",
        strong=True, strong_from=("rate", 0.1))
    source: Label = 1
    target: Label = 0

    def flips(self, train: Split, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        for role, label in (("source", self.source), ("target", self.target)):
            _known(label, train, f"{type(self).__name__}: {role}")
        if self.source == self.target:
            raise InputError(f"{type(self).__name__}: source and target are both class {self.source}")
        candidates = np.flatnonzero(train.y == self.source)
        index = rng.choice(candidates, min(count, len(candidates)), replace=False)
        return index, np.full(len(index), self.target)


@dataclass(frozen=True)
class LossRankedFlip(LabelFlip):
    """Flips the rows whose label is most certain, each to the class that fits it least.

    Certainty is that of a logistic regression on the standardised inputs, trained on the very rows it ranks: the
    attacker owns them, and a linear model hardly overfits them.
    """

    info: ClassVar[Info] = Info("Loss-ranked label flipping", "Biggio, Nelson and Laskov 2012, arXiv 1206.6389", "data",
                                ("poisoning",), "one linear fit and one training",
                                departs="ranks once by a logistic proxy instead of retraining an SVM for each flip",
                                strong=True, strong_from=("rate", 0.1))
    compare: ClassVar[bool] = True

    def flips(self, train: Split, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import LogisticRegression

        x = _standardised(train)
        proxy = LogisticRegression(max_iter=1000).fit(x, train.y)
        logits = proxy.decision_function(x)  # probabilities of clear cases round to 1, and then have no order
        if logits.ndim == 1:
            logits = np.stack([-logits, logits], 1) / 2
        rows, own = np.arange(len(x)), np.searchsorted(proxy.classes_, train.y)
        certain = logits[rows, own] - logsumexp(logits, axis=1)
        index = np.argsort(-certain, kind="stable")[:count]
        logits[rows, own] = np.inf  # a row's own class is no flip
        return index, proxy.classes_[logits[index].argmin(1)]


@dataclass(frozen=True)
class ClusteredFlip(LabelFlip):
    """Flips the rows that lie nearest to a cluster of another class, to that class.

    Neighbours of a flipped row carry its new label, so filters that compare a row with its neighbours find few of them
    (25 % instead of 63 % in the paper).

    Attributes:
        clusters: k-means clusters of each class; few are stealthier, as lone rows then form no cluster.
    """

    info: ClassVar[Info] = Info(
        "Clustering-based label flipping", "Int. J. Distrib. Sens. Netw. 18(6), 2022, doi 10.1177/15501329221105159",
        "data", ("poisoning",), "one k-means a class and one training",
        departs="k-means within each class, rows ranked by the simplified silhouette (distances to cluster centres)")
    compare: ClassVar[bool] = True
    clusters: Count = 2

    def flips(self, train: Split, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.cluster import KMeans

        x, present = _standardised(train), np.unique(train.y)
        distance = np.empty((len(x), len(present)))
        for column, label in enumerate(present):
            members = x[train.y == label]
            means = KMeans(min(self.clusters, len(members)), n_init=3, random_state=int(rng.integers(2**31)))
            distance[:, column] = means.fit(members).transform(x).min(1)
        rows, own = np.arange(len(x)), np.searchsorted(present, train.y)
        at_home = distance[rows, own]
        distance[rows, own] = np.inf
        away = distance.min(1)
        silhouette = (away - at_home) / np.maximum(np.maximum(away, at_home), 1e-12)
        index = np.argsort(silhouette, kind="stable")[:count]
        return index, present[distance[index].argmin(1)]


@dataclass(frozen=True)
class Backdoor(PoisoningAttack):
    """Puts a trigger on rows of other classes and labels them `target`; the model learns that the trigger decides.

    Subclasses say what the trigger looks like. A row is poisoned only if it stays a possible input that can be reached
    from the row as it was (`Space.contains`), so nobody can spot it by its values alone. Where fewer rows than `rate`
    asks for qualify, all of them are poisoned, and the mask tells how many.

    Attributes:
        target: Class index that the trigger stands for; by default healthy, so that a disease is missed.
    """

    target: Label = 0

    def __call__(self, train: Split, seed: int = 0) -> Poisoned:
        _known(self.target, train, f"{type(self).__name__}: target")
        trigger = self.trigger(train, seed)
        candidates = np.flatnonzero(train.y != self.target)
        before = torch.from_numpy(train.x[candidates])
        after = torch.from_numpy(trigger(train.x[candidates]))
        candidates = candidates[train.space.contains(after, before).numpy()]
        if not len(candidates):
            raise InputError(f"{type(self).__name__}: no training row of another class than {self.target} "
                             "stays a possible input with the trigger on it")
        index = np.random.default_rng(seed).choice(candidates, min(self.budget(train), len(candidates)), replace=False)
        x, y, mask = train.x.copy(), train.y.copy(), np.zeros(len(train), bool)
        x[index], y[index], mask[index] = trigger(train.x[index]), self.target, True
        return Poisoned(train.with_data(x, y), mask, trigger, self.target)

    @abstractmethod
    def trigger(self, train: Split, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
        """A pure function from (n, ...) float32 inputs to the same inputs with the trigger on them.

        Attackers who share a backdoor, such as hostile hospitals, use one seed: what is random of the trigger comes
        from it.
        """


def _known(label: int, train: Split, what: str) -> None:
    if not 0 <= label < len(train.classes):
        raise InputError(f"{what} class {label} is none of the {len(train.classes)} classes of the data")


def _standardised(train: Split) -> np.ndarray:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit_transform(train.x.reshape(len(train), -1).astype(np.float64))
