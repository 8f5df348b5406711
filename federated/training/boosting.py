"""Trees that hospitals boost together, and which of them may be let in. Knows nothing of Flower."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xgboost

from suite.core.classifier import EstimatorClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.training.loop import class_weights
from tabular.models import XGBoost

INTEGERS = ("left_children", "right_children", "parents", "split_indices", "split_type", "default_left")
NUMBERS = ("split_conditions", "base_weights", "loss_changes", "sum_hessian")
CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
"""What XGBoost's JSON tells of a tree; the last, of splits by categories, is empty here."""
ROOT = 2**31 - 1
"""The parent of the root."""
HEAD, NODE = 2**16, 2**10
"""Bytes that a reply, and each node of its trees, may take. XGBoost's own take about 600, and 100 to 600."""


@dataclass(frozen=True)
class Boosting:
    """A model of trees that all hospitals know the kind of, and how each adds trees to it for its own rows.

    The model before the first tree gives each class the same margin: XGBoost would estimate it from somebody's
    patients. Nothing here is random.

    Attributes:
        recipe: Greatest depth, learning rate and class balancing, which a hospital does by its own rows. Its number of
            trees is not used.
        columns, classes: How many there are, the same at every hospital.
        trees: Times that a hospital boosts in a round. Each time gives one tree, or one of each of more than two
            classes.
        share: Of the recipe's learning rate, what a hospital learns at.
    """

    recipe: XGBoost
    columns: int
    classes: int
    trees: int = 1
    share: float = 1.0

    @property
    def outputs(self) -> int:
        """Trees that boosting once gives."""
        return 1 if self.classes == 2 else self.classes

    @property
    def rate(self) -> float:
        """What a hospital learns at."""
        return self.share * self.recipe.rate

    @cached_property
    def empty(self) -> bytes:
        """The model without trees, as XGBoost's JSON, like all models here."""
        nobody = xgboost.DMatrix(np.zeros((1, self.columns), np.float32), [0.0])
        return bytes(xgboost.train(self._settings, nobody, 0).save_raw("json"))

    @property
    def _settings(self) -> dict[str, Any]:
        kind = ({"objective": "binary:logistic"} if self.classes == 2 else
                {"objective": "multi:softprob", "num_class": self.classes})
        return kind | {"max_depth": self.recipe.depth, "learning_rate": self.rate, "base_score": 0.5, "nthread": 1}

    def grow(self, model: bytes, rows: Split) -> bytes:
        """What a hospital adds to a model for its rows: a model of the new trees only."""
        weights = class_weights(torch.from_numpy(rows.y), self.classes, self.recipe.balanced).numpy()
        data = xgboost.DMatrix(rows.x, rows.y, weight=weights[rows.y], nthread=1)
        booster = xgboost.Booster(self._settings, model_file=bytearray(model))
        before = booster.num_boosted_rounds()
        for turn in range(self.trees):  # `xgboost.train` would read the whole model once more
            booster.update(data, before + turn)
        return bytes(booster[before:].save_raw("json"))

    def add(self, model: dict[str, Any], grown: bytes) -> None:
        """Add a hospital's trees, which `flaw` has found to be sound, to a parsed model."""
        forest = model["learner"]["gradient_booster"]["model"]
        for number, tree in enumerate(self._trees(grown)):
            forest["trees"].append(tree | {"id": len(forest["trees"])})
            forest["tree_info"].append(number % self.outputs)
        ends = range(forest["iteration_indptr"][-1], len(forest["trees"]), self.outputs)
        forest["iteration_indptr"] += [end + self.outputs for end in ends]
        forest["gbtree_model_param"]["num_trees"] = str(len(forest["trees"]))

    def flaw(self, grown: bytes, rows: int) -> str:
        """Why the trees of a hospital of so many rows cannot be used; empty for sound ones.

        All that `add` takes of them is checked here, and before XGBoost reads it, which reads foreign memory where a
        tree points outside itself. No sound tree is refused: n rows fall into at most n leaves, and the value of a leaf
        is at most n times the learning rate, as XGBoost divides a sum of n gradients of at most 1 by at least 1. A
        hospital can lie within these bounds.

        Raises:
            Exception: Of any kind, when it is nothing like a model.
        """
        nodes, wanted = 2 * rows - 1, self.trees * self.outputs
        if self.recipe.depth:  # 0 is for trees of any depth
            nodes = min(nodes, 2 ** (self.recipe.depth + 1) - 1)
        if len(grown) > (most := HEAD + NODE * nodes * wanted):
            return f"it is of {len(grown)} bytes, and at most {most} are let in"
        if (kind := _kind(grown)) != (own := _kind(self.empty)):
            return f"its model has {kind}, and {own} are wanted"
        trees = self._trees(grown)
        if len(trees) != wanted:
            return f"it holds {len(trees)} trees, and {wanted} are wanted"
        why = next((why for tree in trees if (why := self._broken(tree, nodes, rows * self.rate))), "")
        if not why:
            alone = json.loads(self.empty)
            self.add(alone, grown)
            xgboost.Booster(model_file=bytearray(json.dumps(alone).encode()))  # XGBoost has the last word
        return why

    def _trees(self, grown: bytes) -> list[dict[str, Any]]:
        """The trees of a model, of which nothing is taken over but numbers."""
        return [{name: [int(value) for value in tree[name]] for name in INTEGERS}
                | {name: [float(value) for value in tree[name]] for name in NUMBERS}
                | {name: [] for name in CATEGORIES}
                | {"tree_param": {"num_deleted": "0", "num_feature": str(self.columns), "size_leaf_vector": "1",
                                  "num_nodes": str(len(tree["left_children"]))}}
                for tree in json.loads(grown)["learner"]["gradient_booster"]["model"]["trees"]]

    def _broken(self, tree: dict[str, Any], most: int, leaf: float) -> str:
        """Why a tree of at most so many nodes, with leaves of at most this value, cannot be used."""
        nodes = len(tree["left_children"])
        if not 1 <= nodes <= most:
            return f"a tree has {nodes} nodes, and from 1 to {most} are let in"
        if any(len(tree[name]) != nodes for name in INTEGERS + NUMBERS):
            return "a tree tells some of its nodes by halves"
        left, right, parents, column, categorical, _ = (np.array(tree[name], np.int64) for name in INTEGERS)
        inner, number = left != -1, np.arange(nodes)
        children, of = np.concatenate([left[inner], right[inner]]), np.tile(number[inner], 2)
        # each node but the root is a child once, and numbered after its parent: so there is no circle
        if (sorted(children) != list(range(1, nodes)) or (children <= of).any() or (right[~inner] != -1).any()
                or parents[0] != ROOT or (parents[children] != of).any()):
            return "its nodes are no tree"
        if categorical.any() or not set(tree["default_left"]) <= {0, 1}:
            return "a tree splits otherwise than at a number"
        # a leaf's too, as one of its numbers says that the leaf is deleted
        if len(strange := column[(column < 0) | (column >= self.columns)]):
            return f"a tree splits at column {strange[0]}, and there are {self.columns}"
        # what float32 cannot hold is infinite to XGBoost
        if not all((np.abs(tree[name]) <= np.finfo(np.float32).max).all() for name in NUMBERS):
            return "a tree holds a value that is not finite"
        value = float(np.abs(np.array(tree["split_conditions"])[~inner]).max())
        return f"a leaf is {value:g}, and at most {leaf:g} is let in" if value > leaf * (1 + 1e-5) else ""

    def classifier(self, model: bytes, space: Space) -> EstimatorClassifier:
        """The model in the shape in which the recipe's own training gives it."""
        booster = xgboost.XGBClassifier(n_jobs=1)
        booster.load_model(bytearray(model))
        return EstimatorClassifier(booster, self.classes, space, recipe=self.recipe)


def _kind(model: bytes) -> str:
    """What trees of two models must share to be one."""
    about = json.loads(model)["learner"]["learner_model_param"]
    start = np.unique(json.loads(about["base_score"])).tolist()  # of all classes, or told once for all
    return f"{about['num_feature']} columns, {max(int(about['num_class']), 2)} classes and the base score {start}"
