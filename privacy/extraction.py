"""Model extraction: training a copy of a model from its answers to the thief's own patients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from suite.attacks.art.border import art_fence, estimator_over
from suite.base.bounds import Count, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.attack import ExtractionAttack
from suite.core.classifier import Classifier, EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.normalize import Normalize

Query = Callable[[np.ndarray], np.ndarray]

JITTER = 0.1
"""Greatest change of a feature, in units of scale, in rows made up because the budget exceeds the pool."""

POOL = ("asks the pool in random order; a budget beyond the pool is filled with possible inputs within "
         f"{JITTER:g} x scale of it")


@dataclass(frozen=True)
class _NetworkThief(ExtractionAttack):
    """Steals into a perceptron with one hidden layer.

    Attributes:
        hidden: Units of the hidden layer.
        epochs, batch, rate: Training of the thief (Adam).
    """

    hidden: Count = 64
    epochs: Count = 100
    batch: Count = 32
    rate: Positive = 5e-3

    def _student(self, x: np.ndarray, classes: int) -> tuple[nn.Module, Any]:
        """An untrained network for inputs like (n, ...) `x`, and ART's handle of it, which trains it."""
        from art.estimators.classification import PyTorchClassifier

        module = nn.Sequential(Normalize(x.shape[1:]).fit(x), nn.Flatten(), nn.Linear(x[0].size, self.hidden),
                               nn.ReLU(), nn.Linear(self.hidden, classes))
        return module, PyTorchClassifier(module, nn.CrossEntropyLoss(), x.shape[1:], classes, device_type="cpu",
                                         optimizer=torch.optim.Adam(module.parameters(), lr=self.rate))

    def _taught(self, x: np.ndarray, answers: np.ndarray, pool: Split) -> TorchClassifier:
        """A new network trained on (n, classes) answers, probabilities or one-hot labels, to (n, ...) inputs."""
        module, student = self._student(x, answers.shape[1])
        student.fit(x, answers.astype(np.float32), batch_size=self.batch, nb_epochs=self.epochs)
        return TorchClassifier(module, answers.shape[1], pool.space)

    def surrogate(self, x: np.ndarray, answers: np.ndarray, pool: Split, seed: int = 0) -> Classifier:
        with art_fence(seed):
            return self._taught(x, answers, pool)


@dataclass(frozen=True)
class _ArtThief(_NetworkThief):
    """Steals through ART."""

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        asked, classes = questions(pool, budget, seed), len(pool.classes)
        with art_fence(seed):
            module, student = self._student(asked, classes)
            # ART asks, and fits, one row at a time unless told otherwise
            sizes = {"nb_stolen": len(asked), "batch_size_fit": self.batch, "nb_epochs": self.epochs}
            self._art(estimator_over(query, asked.shape[1:], classes), sizes).extract(asked, thieved_classifier=student)
        return TorchClassifier(module, classes, pool.space)

    @abstractmethod
    def _art(self, victim: Any, sizes: dict[str, int]) -> Any:
        """The ART attack on a victim, with its `sizes`."""


@dataclass(frozen=True)
class KnockoffRandom(_ArtThief):
    """Knockoff Nets with random sampling: learns the victim's probabilities."""

    info: ClassVar[Info] = Info("Knockoff Nets (random)", "Orekondy, Schiele and Fritz 2019, arXiv 1812.02766", "score",
                                ("extraction",), "the budget in queries, one small training", POOL, strong=True,
                                strong_from=("epochs", 50))

    def _art(self, victim: Any, sizes: dict[str, int]) -> Any:
        from art.attacks.extraction import KnockoffNets

        return KnockoffNets(victim, use_probability=True, verbose=False, **sizes)


@dataclass(frozen=True)
class Copycat(_ArtThief):
    """Copycat: learns the victim's labels only."""

    info: ClassVar[Info] = Info("Copycat", "Correia-Silva et al. 2018, arXiv 1806.05476", "label-only", ("extraction",),
                                "the budget in queries, one small training", POOL)

    def _art(self, victim: Any, sizes: dict[str, int]) -> Any:
        from art.attacks.extraction import CopycatCNN

        return CopycatCNN(victim, **sizes)


@dataclass(frozen=True)
class KnockoffAdaptive(_NetworkThief):
    """Knockoff Nets with adaptive sampling: a gradient bandit learns which kinds of patients it pays to ask about.

    An action is a cluster of the thief's inputs. Its reward is high where the victim is sure ("cert"), says something
    else than before ("div") and is not yet imitated ("loss").

    Attributes:
        actions: Clusters (k-means of standardised inputs).
        step: Rows asked at once, between which the imitation is trained for `brief` epochs.
    """

    info: ClassVar[Info] = Info(
        "Knockoff Nets (adaptive)", "Orekondy, Schiele and Fritz 2019, arXiv 1812.02766", "score", ("extraction",),
        "the budget in queries, a short training every `step` of them and one small training",
        "actions are clusters, where the paper takes labels of the pool, which a thief of patients lacks; no row is "
        "asked twice; rewards are taken before the imitation learns from the answer, and scaled by the least and "
        f"greatest so far; chooses among the pool and possible inputs within {JITTER:g} x scale of it, twice the "
        "budget in all if the pool is smaller", strong=True, strong_from=("epochs", 50))
    actions: Count = 8
    step: Count = 10
    brief: Count = 5

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        from sklearn.cluster import KMeans

        # the whole pool and, where that is no choice, as many again: but of nothing, nothing
        offered = questions(pool, max(2 * budget, len(pool)) if budget > 0 else budget, seed)
        classes = len(pool.classes)
        flat = offered.reshape(len(offered), -1).astype(np.float64)
        flat = (flat - flat.mean(0)) / np.maximum(flat.std(0), 1e-12)
        cluster = KMeans(min(self.actions, len(flat)), n_init=3, random_state=seed).fit_predict(flat)
        rng, bandit = np.random.default_rng(seed), _Bandit(cluster.max() + 1)
        order = rng.permutation(len(flat))
        left = [order[cluster[order] == k].tolist() for k in range(cluster.max() + 1)]
        rows, answers = [], np.zeros((0, classes))
        with art_fence(seed):
            _, imitation = self._student(offered, classes)
            while len(rows) < budget:
                drawn = []
                for _ in range(min(self.step, budget - len(rows))):
                    drawn.append(bandit.draw(rng, [bool(some) for some in left]))
                    rows.append(left[drawn[-1]].pop())
                fresh = offered[rows[-len(drawn):]]
                told, guess = np.asarray(query(fresh), np.float64), _softmax(imitation.predict(fresh))
                top, mean = np.sort(told, 1), np.concatenate([answers, told]).mean(0)
                bandit.reward(drawn, np.stack([top[:, -1] - top[:, -2], np.maximum(told - mean, 0).sum(1),
                                               -(told * np.log(guess + 1e-12)).sum(1)], 1))
                answers = np.concatenate([answers, told])
                imitation.fit(offered[rows], answers.astype(np.float32), batch_size=self.batch, nb_epochs=self.brief)
            return self._taught(offered[rows], answers, pool)


class _Bandit:
    """A gradient bandit (Sutton and Barto 2018, sec. 2.8) with the step sizes of Knockoff Nets, 1 / draws."""

    def __init__(self, actions: int) -> None:
        self.taste, self.draws = np.zeros(actions), np.zeros(actions)
        self.low, self.high = np.full(3, np.inf), np.full(3, -np.inf)
        self.mean, self.seen = 0.0, 0

    def chances(self) -> np.ndarray:
        return _softmax(self.taste)

    def draw(self, rng: np.random.Generator, open_: list[bool]) -> int:
        """An action, of those that are open."""
        chances = self.chances() * open_
        if not chances.sum():  # underflow: all that the bandit likes is used up
            chances = np.asarray(open_, float)
        return int(rng.choice(len(chances), p=chances / chances.sum()))

    def reward(self, actions: list[int], rewards: np.ndarray) -> None:
        """Learn from (n, 3) rewards of n actions, in any units."""
        self.low, self.high = np.minimum(self.low, rewards.min(0)), np.maximum(self.high, rewards.max(0))
        scaled = ((rewards - self.low) / np.maximum(self.high - self.low, 1e-12)).mean(1)
        for action, reward in zip(actions, scaled, strict=True):
            self.seen += 1
            self.draws[action] += 1
            self.mean += (reward - self.mean) / self.seen
            push = (reward - self.mean) / self.draws[action]
            self.taste += push * ((np.arange(len(self.taste)) == action) - self.chances())


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


@dataclass(frozen=True)
class JacobianAugmentation(_NetworkThief):
    """Asks about inputs that the copy itself makes up, in rounds: alternately towards its boundary and away from it.

    Attributes:
        start: Rows of the pool that are asked first; each round doubles what was asked, up to the budget.
        reach: Length of a step in each feature, in units of scale (the paper's lambda).
    """

    info: ClassVar[Info] = Info(
        "Jacobian-based augmentation", "Papernot, McDaniel, Goodfellow, Jha, Celik and Swami 2017, arXiv 1602.02697",
        "label-only", ("extraction", "transfer"), "the budget in queries, a small training every time they double",
        "steps turn around every round (the paper's tau = 1), climb the log odds of the label, whose gradient does not "
        "vanish where the copy is sure, and end at the nearest possible input; the last round steps from a random part "
        "of the rows, so that the budget is kept; every round trains anew")
    start: Count = 20
    reach: Positive = 0.1

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        x = questions(pool, min(self.start, budget), seed)
        rng, classes = np.random.default_rng(seed), len(pool.classes)

        def labels(asked: np.ndarray) -> np.ndarray:
            return np.eye(classes)[np.asarray(query(asked)).argmax(1)]

        with art_fence(seed):
            answers, step = labels(x), self.reach
            while len(x) < budget:
                step = -step
                copy = self._taught(x, answers, pool)
                few = rng.permutation(len(x))[:budget - len(x)]
                made = stepped(copy, x[few], answers[few], step)
                x, answers = np.concatenate([x, made]), np.concatenate([answers, labels(made)])
            return self._taught(x, answers, pool)


@dataclass(frozen=True)
class SurrogateForest(ExtractionAttack):
    """Steals into a random forest, which copies trees better than a network does.

    Attributes:
        trees: Number of trees.
        labels: Use the victim's labels only, not its probabilities.
    """

    info: ClassVar[Info] = Info(
        "Surrogate forest", "after Tramer, Zhang, Juels, Reiter and Ristenpart 2016, arXiv 1609.02943", "score",
        ("extraction",), "the budget in queries, one small training",
        "learns from answers like any other thief, in place of the paper's path finding; " + POOL, strong=True,
        strong_from=("trees", 50))
    trees: Count = 100
    labels: bool = False

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        asked = questions(pool, budget, seed)
        answers = np.asarray(query(asked), np.float64)
        if self.labels:
            answers = np.eye(answers.shape[1])[answers.argmax(1)]
        return self.surrogate(asked, answers, pool, seed)

    def surrogate(self, x: np.ndarray, answers: np.ndarray, pool: Split, seed: int = 0) -> Classifier:
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(self.trees, random_state=seed, n_jobs=1)
        forest.fit(x.reshape(len(x), -1), answers)
        return EstimatorClassifier(Regressed(forest), answers.shape[1], pool.space)


@dataclass(frozen=True)
class Regressed:
    """A regressor of probabilities as a classifier: averages of distributions are distributions."""

    regressor: Any

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return self.regressor.predict(x.reshape(len(x), -1))


def questions(pool: Split, budget: int, seed: int) -> np.ndarray:
    """Exactly `budget` rows to ask: the pool in random order, then possible inputs near rows of the pool.

    Raises:
        InputError: If the budget or the pool is empty.
    """
    if budget < 1 or not len(pool):
        raise InputError(f"an extraction needs rows to ask: budget {budget}, pool of {len(pool)}")
    rng = np.random.default_rng(seed)
    own = pool.x[rng.permutation(len(pool))[:budget]]
    more = budget - len(own)
    if not more:
        return own
    base = torch.from_numpy(pool.x[rng.integers(len(pool), size=more)])
    space = pool.space.to("cpu")
    noise = torch.from_numpy(rng.uniform(-JITTER, JITTER, base.shape).astype(np.float32)) * space.scale
    return np.concatenate([own, space.snap(base + noise, base).numpy()])


def stepped(copy: TorchClassifier, x: np.ndarray, answers: np.ndarray, step: float) -> np.ndarray:
    """The possible inputs one step away from (n, ...) `x`, in each feature.

    Args:
        copy: Tells in which direction a label becomes more probable.
        answers: (n, classes) one-hot labels, as the victim told them.
        step: In units of scale; below 0, towards other labels.
    """
    base, told = torch.from_numpy(x), torch.from_numpy(answers).bool()

    def odds(logits: torch.Tensor) -> torch.Tensor:
        return logits[told] - logits.masked_fill(told, -torch.inf).logsumexp(1)

    _, _, grad = copy.gradient(base, odds)
    return copy.space.snap(base + step * copy.space.scale * grad.sign(), base).numpy()
