"""A tree model as what it is to an exact attack: boxes of cells, each box a leaf that adds to the score of classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from suite.base.errors import NotApplicable

DOUBLE, SINGLE = 2.0**-53, 2.0**-24
"""Unit roundoffs: the largest relative error of one addition."""


@dataclass(frozen=True)
class Tree:
    """One fitted tree: per node the children (-1 at a leaf), the column, the cut and the (classes,) scores.

    A row goes left where `x[column] <= cut`, with `cut` the greatest float32 that goes left in the real model.
    """

    left: np.ndarray
    right: np.ndarray
    column: np.ndarray
    cut: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Ensemble:
    """A sum of trees over cells. Column `f` is cut into cells `0 .. len(cuts[f])`; cell `k` holds the float32 values
    above `cuts[f][k - 1]` and up to `cuts[f][k]`, and within a cell the model cannot tell values apart.

    Attributes:
        cuts: Per column, the rising float32 cuts of all trees.
        low, high: (leaves, columns) int32, first and last cell of each leaf; leaves of a tree stand together.
        scores: (leaves, classes) float64, what a leaf adds to the score of each class; the greatest score wins.
        starts: (trees + 1,) int64, where the leaves of each tree begin.
        bias: (classes,) float64, scores before any tree.
        slack: Differences of scores up to this may be decided either way by the rounding of the real model.
    """

    cuts: tuple[np.ndarray, ...]
    low: np.ndarray
    high: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    bias: np.ndarray
    slack: float

    @classmethod
    def of(cls, estimator: Any) -> Ensemble:
        """The leaf boxes of a fitted model.

        Args:
            estimator: XGBoost's `XGBClassifier` (`binary:logistic`, `multi:softprob`, `multi:softmax`), or
                scikit-learn's `DecisionTreeClassifier`, `RandomForestClassifier`, `ExtraTreesClassifier` or
                `GradientBoostingClassifier`.

        Raises:
            NotApplicable: Any other model, or one that sums its trees in another way; the message says which.
        """
        kind = type(estimator).__name__
        if hasattr(estimator, "get_booster"):
            trees, bias, roundoff = _xgboost(estimator)
        elif hasattr(estimator, "tree_"):
            trees, bias, roundoff = _forest([estimator])
        elif kind in ("RandomForestClassifier", "ExtraTreesClassifier"):
            trees, bias, roundoff = _forest(estimator.estimators_)
        elif kind == "GradientBoostingClassifier":
            trees, bias, roundoff = _gradient_boosting(estimator)
        else:
            raise NotApplicable(f"exact tree attacks need XGBoost or a scikit-learn decision tree, random forest or "
                                f"gradient boosting classifier, not {kind}")
        return _verified(_boxes(trees, bias, roundoff, int(estimator.n_features_in_)), estimator)

    @property
    def columns(self) -> int:
        return len(self.cuts)

    @property
    def classes(self) -> int:
        return len(self.bias)

    def cells(self, x: np.ndarray) -> np.ndarray:
        """(n, columns) int32 cells of (n, columns) float32 rows."""
        x = np.asarray(x, np.float32)
        return np.stack([np.searchsorted(c, x[:, f]) for f, c in enumerate(self.cuts)], 1).astype(np.int32)

    def margin(self, x: np.ndarray) -> np.ndarray:
        """(n, classes) float64 scores of (n, columns) float32 rows, summed without rounding to float32."""
        cells = self.cells(x)
        out = np.tile(self.bias, (len(cells), 1))
        for row, cell in zip(out, cells, strict=True):
            row += self.scores[((self.low <= cell) & (cell <= self.high)).all(1)].sum(0)
        return out


def _boxes(trees: list[Tree], bias: np.ndarray, roundoff: float, columns: int) -> Ensemble:
    inner = [t.left >= 0 for t in trees]
    cuts = tuple(np.unique(np.concatenate([t.cut[i & (t.column == f)] for t, i in zip(trees, inner, strict=True)]))
                 for f in range(columns))
    low, high, scores, starts = [], [], [], [0]
    for t in trees:
        for node, first, last in _leaves(t, cuts):
            low.append(first), high.append(last), scores.append(t.scores[node])
        starts.append(len(low))
    scores = np.array(scores, np.float64)
    size = np.abs(bias).max() + sum(np.abs(scores[a:b]).max() for a, b in pairwise(starts))
    # The error of a sum in any order; doubled for a difference of two; the rest is for the link function.
    slack = 2 * (len(trees) + 2) * roundoff * size + 16 * roundoff
    return Ensemble(cuts, np.array(low, np.int32), np.array(high, np.int32), scores, np.array(starts), bias, slack)


def _leaves(tree: Tree, cuts: tuple[np.ndarray, ...]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each leaf that some row can reach, with its first and last cells."""
    stack = [(0, np.zeros(len(cuts), np.int32), np.array([len(c) for c in cuts], np.int32))]
    while stack:
        node, low, high = stack.pop()
        if tree.left[node] < 0:
            yield node, low, high
            continue
        f = tree.column[node]
        cell = np.searchsorted(cuts[f], tree.cut[node])
        left, right = high.copy(), low.copy()
        left[f], right[f] = min(high[f], cell), max(low[f], cell + 1)
        if right[f] <= high[f]:
            stack.append((tree.right[node], right, high))
        if low[f] <= left[f]:
            stack.append((tree.left[node], low, left))


def _xgboost(estimator: Any) -> tuple[list[Tree], np.ndarray, float]:
    booster = estimator.get_booster()
    model = json.loads(booster.save_raw("json"))["learner"]
    objective, kind = model["objective"]["name"], model["gradient_booster"]["name"]
    if objective not in ("binary:logistic", "multi:softprob", "multi:softmax") or kind != "gbtree":
        raise NotApplicable(f"exact tree attacks know XGBoost's gbtree with binary:logistic or multi:softprob, "
                            f"not {kind} with {objective}")
    if not np.isnan(estimator.missing):
        raise NotApplicable(f"exact tree attacks need missing=nan, this XGBoost model has missing={estimator.missing}")
    forest, learner = model["gradient_booster"]["model"], model["learner_model_param"]
    if any(int(t["tree_param"]["size_leaf_vector"]) > 1 for t in forest["trees"]):
        raise NotApplicable("exact tree attacks do not know XGBoost trees with vector leaves")
    if any(any(t["split_type"]) for t in forest["trees"]):
        raise NotApplicable("exact tree attacks do not know XGBoost's categorical splits")
    classes = max(int(learner["num_class"]), 2)
    base = np.array(json.loads(learner["base_score"]) if learner["base_score"].startswith("[")
                    else float(learner["base_score"]), np.float32).astype(np.float64)
    if objective == "binary:logistic":
        bias = np.array([0.0, np.log(base / (1 - base)).item()])
    else:
        bias = np.broadcast_to(base, classes).copy()
    used = len(forest["trees"])
    if "best_iteration" in model["attributes"]:  # early stopping: predict_proba leaves out the later trees
        used = forest["iteration_indptr"][int(model["attributes"]["best_iteration"]) + 1]
    trees = []
    for t, group in zip(forest["trees"][:used], forest["tree_info"], strict=False):
        values = np.array(t["split_conditions"], np.float32)
        scores = np.zeros((len(values), classes))
        scores[:, 1 if classes == 2 else group] = values
        # XGBoost goes left where x < t, so the greatest float32 that goes left is the one below t.
        cut = np.nextafter(values, np.float32(-np.inf))
        trees.append(Tree(np.array(t["left_children"]), np.array(t["right_children"]), np.array(t["split_indices"]),
                          cut, scores))
    return trees, bias, SINGLE


def _forest(estimators: list[Any]) -> tuple[list[Tree], np.ndarray, float]:
    trees = []
    for e in estimators:
        if e.tree_.n_outputs != 1:
            raise NotApplicable("exact tree attacks need a model with one output")
        share = e.tree_.value[:, 0] / e.tree_.value[:, 0].sum(1, keepdims=True)
        trees.append(_sklearn_tree(e.tree_, share / len(estimators)))
    return trees, np.zeros(trees[0].scores.shape[1]), DOUBLE


def _gradient_boosting(estimator: Any) -> tuple[list[Tree], np.ndarray, float]:
    if estimator.init_ != "zero" and type(estimator.init_).__name__ != "DummyClassifier":
        raise NotApplicable("exact tree attacks need a GradientBoostingClassifier whose init is a constant")
    if estimator.loss != "log_loss":
        raise NotApplicable(f"exact tree attacks know GradientBoostingClassifier with log_loss, not {estimator.loss}")
    start = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), np.float32))[0].astype(np.float64)
    classes = estimator.n_classes_
    trees = []
    for stage in estimator.estimators_:
        for k, e in enumerate(stage):
            scores = np.zeros((e.tree_.node_count, classes))
            scores[:, 1 if classes == 2 else k] = estimator.learning_rate * e.tree_.value[:, 0, 0]
            trees.append(_sklearn_tree(e.tree_, scores))
    return trees, np.array([0.0, start[0]]) if classes == 2 else start, DOUBLE


def _sklearn_tree(tree: Any, scores: np.ndarray) -> Tree:
    # scikit-learn compares a float32 value with a float64 threshold: the cut is the threshold rounded down.
    cut = tree.threshold.astype(np.float32)
    cut = np.where(cut > tree.threshold, np.nextafter(cut, np.float32(-np.inf)), cut)
    return Tree(tree.children_left, tree.children_right, tree.feature, cut, scores)


def _verified(ensemble: Ensemble, estimator: Any) -> Ensemble:
    """Refuse a model that our reading does not reproduce: a wrong bound is worse than none."""
    rng = np.random.default_rng(0)
    ends = [c if len(c) else np.zeros(1, np.float32) for c in ensemble.cuts]
    low = np.stack([rng.choice(c, 64) for c in ends], 1)
    x = np.concatenate([low, np.nextafter(low, np.float32(np.inf))])
    scores = ensemble.margin(x)
    proba = np.asarray(estimator.predict_proba(x), np.float64)
    label, order = proba.argmax(1), np.sort(scores, 1)
    sure = order[:, -1] - order[:, -2] > ensemble.slack
    if proba.shape != scores.shape or (label != scores.argmax(1))[sure].any():
        raise NotApplicable(f"this {type(estimator).__name__} does not sum its trees as exact tree attacks assume")
    return ensemble
