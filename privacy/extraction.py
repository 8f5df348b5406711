"""Model extraction: training a copy of a model from its answers to the thief's own patients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from suite.art import art_fence, estimator_over
from suite.attack import ExtractionAttack, Info
from suite.classifier import Classifier, EstimatorClassifier, TorchClassifier
from suite.data import Split
from suite.errors import InputError
from suite.training import Normalize

Query = Callable[[np.ndarray], np.ndarray]

JITTER = 0.1
"""Greatest change of a feature, in units of scale, in rows made up because the budget exceeds the pool."""

_POOL = ("asks the pool in random order; a budget beyond the pool is filled with possible inputs within "
         f"{JITTER:g} x scale of it")


@dataclass(frozen=True)
class _NetworkThief(ExtractionAttack):
    """Steals into a perceptron with one hidden layer through ART.

    Attributes:
        hidden: Units of the hidden layer.
        epochs, batch, rate: Training of the thief (Adam).
    """

    hidden: int = 64
    epochs: int = 100
    batch: int = 32
    rate: float = 5e-3

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        from art.estimators.classification import PyTorchClassifier

        asked, classes = questions(pool, budget, seed), len(pool.classes)
        inputs = asked.shape[1:]
        with art_fence(seed):
            module = nn.Sequential(Normalize(inputs).fit(asked), nn.Flatten(), nn.Linear(asked[0].size, self.hidden),
                                   nn.ReLU(), nn.Linear(self.hidden, classes))
            thief = PyTorchClassifier(module, nn.CrossEntropyLoss(), inputs, classes, device_type="cpu",
                                      optimizer=torch.optim.Adam(module.parameters(), lr=self.rate))
            # ART asks, and fits, one row at a time unless told otherwise
            sizes = {"nb_stolen": len(asked), "batch_size_fit": self.batch, "nb_epochs": self.epochs}
            self._art(estimator_over(query, inputs, classes), sizes).extract(asked, thieved_classifier=thief)
        return TorchClassifier(module, classes, pool.space)

    @abstractmethod
    def _art(self, victim: Any, sizes: dict[str, int]) -> Any:
        """The ART attack on a victim, with its `sizes`."""


@dataclass(frozen=True)
class KnockoffRandom(_NetworkThief):
    """Knockoff Nets with random sampling: learns the victim's probabilities."""

    info: ClassVar[Info] = Info("Knockoff Nets (random)", "Orekondy, Schiele and Fritz 2019, arXiv 1812.02766", "score",
                                ("extraction",), "the budget in queries, one small training", _POOL)

    def _art(self, victim: Any, sizes: dict[str, int]) -> Any:
        from art.attacks.extraction import KnockoffNets

        return KnockoffNets(victim, use_probability=True, verbose=False, **sizes)


@dataclass(frozen=True)
class Copycat(_NetworkThief):
    """Copycat: learns the victim's labels only."""

    info: ClassVar[Info] = Info("Copycat", "Correia-Silva et al. 2018, arXiv 1806.05476", "label-only", ("extraction",),
                                "the budget in queries, one small training", _POOL)

    def _art(self, victim: Any, sizes: dict[str, int]) -> Any:
        from art.attacks.extraction import CopycatCNN

        return CopycatCNN(victim, **sizes)


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
        "learns from answers like any other thief, in place of the paper's path finding; " + _POOL)
    trees: int = 100
    labels: bool = False

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        from sklearn.ensemble import RandomForestRegressor

        asked = questions(pool, budget, seed)
        answers = np.asarray(query(asked), np.float64)
        if self.labels:
            answers = np.eye(answers.shape[1])[answers.argmax(1)]
        forest = RandomForestRegressor(self.trees, random_state=seed, n_jobs=1)
        forest.fit(asked.reshape(len(asked), -1), answers)
        return EstimatorClassifier(_Regressed(forest), answers.shape[1], pool.space)


@dataclass(frozen=True)
class EquationSolving(ExtractionAttack):
    """Solves for the weights of a linear model: the log odds of its probabilities are linear in the row.

    One answer more than there are features is enough for an exact copy; of fewer the smallest weights that explain them
    are taken, and of more those of least squares. What is not linear is copied as well as a linear model can.
    """

    info: ClassVar[Info] = Info(
        "Equation solving", "Tramer, Zhang, Juels, Reiter and Ristenpart 2016, arXiv 1609.02943, sec. 4.1", "score",
        ("extraction",), "the budget in queries; features + 1 copy a linear model exactly", _POOL)

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        asked = questions(pool, budget, seed)
        flat = asked.reshape(len(asked), -1).astype(np.float64)
        odds = np.log(np.maximum(np.asarray(query(asked), np.float64), 1e-12))
        odds -= odds[:, :1]
        # in units in which the columns are alike, or the smallest weights would be those of the largest numbers
        mean, spread = flat.mean(0), np.maximum(flat.std(0), 1e-12)
        known = np.column_stack([(flat - mean) / spread, np.ones(len(flat))])
        solved = np.linalg.lstsq(known, odds, rcond=1e-10)[0]
        module = nn.Sequential(nn.Flatten(), nn.Linear(flat.shape[1], odds.shape[1]))
        weight = solved[:-1] / spread[:, None]
        with torch.no_grad():
            module[1].weight.copy_(torch.from_numpy(weight.T))
            module[1].bias.copy_(torch.from_numpy(solved[-1] - mean @ weight))
        return TorchClassifier(module, odds.shape[1], pool.space)


@dataclass(frozen=True)
class _Regressed:
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
