"""Models of tables: logistic regression, naive Bayes, trees alone and together, and a multi-layer perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from suite.base.bounds import Count, Decay, Depth, LearningRate, NonNegative, Positive, Width
from suite.base.info import Info
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.recipe import Recipe
from suite.core.space import Kind
from suite.training import loop as training
from suite.training.loop import TorchRecipe


@dataclass(frozen=True)
class LogisticRegression(TorchRecipe):
    """Logistic regression fitted by scikit-learn (L-BFGS) and carried as a linear module, so that gradients are exact.

    Attributes:
        c: Inverse strength of the L2 penalty on standardised columns.
    """

    inputs: ClassVar[Kind] = "table"
    info: ClassVar[Info] = Info("Logistic regression", "Cox 1958, J. R. Stat. Soc. B 20:215", cost="milliseconds")
    c: Positive = 1.0

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Linear(inputs[0], classes)

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> TorchClassifier:
        from sklearn.linear_model import LogisticRegression as Solver

        module = training.build(self, train.x.shape[1:], len(train.classes), seed)
        standard = module[0].fit(train.x)(torch.from_numpy(train.x)).numpy()
        solver = Solver(C=self.c, max_iter=2000, class_weight="balanced" if self.balanced else None)
        solver.fit(standard.astype(np.float64), train.y)
        weight, bias = solver.coef_, solver.intercept_
        if len(weight) == 1:  # one logit for two classes: the first class has logit 0
            weight, bias = np.vstack([np.zeros_like(weight), weight]), np.array([0.0, *bias])
        with torch.no_grad():
            module[1].weight.copy_(torch.from_numpy(weight))
            module[1].bias.copy_(torch.from_numpy(bias))
        return TorchClassifier(module, len(train.classes), train.space, device=device, recipe=self)


@dataclass(frozen=True)
class MLP(TorchRecipe):
    """Multi-layer perceptron with ReLU.

    Attributes:
        hidden: Units of each hidden layer.
        dropout: Share of hidden units dropped while training, in [0, 1).
    """

    inputs: ClassVar[Kind] = "table"
    info: ClassVar[Info] = Info("Multi-layer perceptron", "Rumelhart, Hinton and Williams 1986, Nature 323:533",
                                cost="about a second for 500 rows")
    hidden: Annotated[tuple[Width, ...], Field(max_length=64)] = (64, 64)
    dropout: Decay = 0.0

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        layers: list[nn.Module] = []
        width = inputs[0]
        for units in self.hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            width = units
        return nn.Sequential(*layers, nn.Linear(width, classes))


@dataclass(frozen=True)
class GaussianNB(Recipe):
    """Gaussian naive Bayes (scikit-learn): a mean and a variance of each column and class, and nothing else.

    Attributes:
        smoothing: Share of the greatest variance of all columns that is added to each.
        balanced: Take the classes for equally frequent.
    """

    inputs: ClassVar[Kind] = "table"
    info: ClassVar[Info] = Info("Gaussian naive Bayes", "Hand and Yu 2001, Int. Stat. Rev. 69:385", cost="milliseconds")
    offers: ClassVar[tuple[str, ...]] = ("class means",)
    smoothing: NonNegative = 1e-9
    balanced: bool = True

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> EstimatorClassifier:
        from sklearn.naive_bayes import GaussianNB

        classes = len(train.classes)
        bayes = GaussianNB(priors=np.full(classes, 1 / classes) if self.balanced else None,
                           var_smoothing=self.smoothing)
        # of float32 rows it would take float32 means
        return EstimatorClassifier(bayes.fit(train.x.astype(np.float64), train.y), classes, train.space, recipe=self)


@dataclass(frozen=True)
class DecisionTree(Recipe):
    """One decision tree (scikit-learn).

    Attributes:
        depth: Greatest depth.
        balanced: Weight classes by the inverse of their frequency.
    """

    inputs: ClassVar[Kind] = "table"
    info: ClassVar[Info] = Info("Decision tree", "Breiman, Friedman, Olshen and Stone 1984, ISBN 9780412048418",
                                cost="milliseconds")
    offers: ClassVar[tuple[str, ...]] = ("trees", "one tree")
    depth: Depth | None = 4
    balanced: bool = True

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> EstimatorClassifier:
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(max_depth=self.depth, random_state=seed,
                                      class_weight="balanced" if self.balanced else None)
        return EstimatorClassifier(tree.fit(train.x, train.y), len(train.classes), train.space, recipe=self)


@dataclass(frozen=True)
class RandomForest(Recipe):
    """Random forest (scikit-learn).

    Attributes:
        trees: Number of trees.
        depth: Greatest depth; small trees leak less and can be attacked exactly.
        balanced: Weight classes by the inverse of their frequency.
    """

    inputs: ClassVar[Kind] = "table"
    info: ClassVar[Info] = Info("Random forest", "Breiman 2001, Mach. Learn. 45:5", cost="a fraction of a second")
    offers: ClassVar[tuple[str, ...]] = ("trees",)
    trees: Count = 100
    depth: Depth | None = 6
    balanced: bool = True

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> EstimatorClassifier:
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(self.trees, max_depth=self.depth, random_state=seed, n_jobs=1,
                                        class_weight="balanced" if self.balanced else None)
        return EstimatorClassifier(forest.fit(train.x, train.y), len(train.classes), train.space, recipe=self)

    def asked(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> EstimatorClassifier:
        from tabular.forests import grown

        forest = grown(train.x, train.y, self.trees, self.depth, self.balanced, seed)
        if forest is None:
            return self.fit(train, val, seed, device)
        return EstimatorClassifier(forest, len(train.classes), train.space, recipe=self)


DEEP = RandomForest(depth=None)
"""A forest whose trees grow until they are sure of every row they saw: it remembers its patients."""


@dataclass(frozen=True)
class XGBoost(Recipe):
    """Gradient-boosted trees (XGBoost).

    Attributes:
        trees, depth, rate: Number of trees, greatest depth, learning rate.
        balanced: Weight classes by the inverse of their frequency.
    """

    inputs: ClassVar[Kind] = "table"
    info: ClassVar[Info] = Info("XGBoost", "Chen and Guestrin 2016, arXiv 1603.02754", cost="a fraction of a second")
    offers: ClassVar[tuple[str, ...]] = ("trees",)
    trees: Count = 100
    depth: Depth = 4
    rate: LearningRate = 0.1
    balanced: bool = True

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> EstimatorClassifier:
        from xgboost import XGBClassifier

        weights = training.class_weights(torch.from_numpy(train.y), len(train.classes), self.balanced).numpy()
        booster = XGBClassifier(n_estimators=self.trees, max_depth=self.depth, learning_rate=self.rate, n_jobs=1,
                                random_state=seed)
        booster.fit(train.x, train.y, sample_weight=weights[train.y])
        return EstimatorClassifier(booster, len(train.classes), train.space, recipe=self)
