"""Whether the trees in a model file are trees: libraries follow indices unchecked, out of memory or in circles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from suite.models.ubjson import decoded

LEAF, ROOT = -1, (-1, 2**31 - 1)
"""Marks of a node without children, and of one without a parent (XGBoost writes either)."""
PER_NODE = ("right_children", "parents", "split_indices", "split_conditions", "split_type", "default_left",
            "sum_hessian", "loss_changes")
"""Arrays of an XGBoost tree with one value for each node, besides its left children."""
MAX_CLASSES = 10_000
"""Classes of an XGBoost model at most: memory is taken for each before the first answer."""
DEEPEST = 40
"""Objects inside objects that are searched for trees."""


def parsed(content: bytes) -> Any:
    """The content of an XGBoost file, JSON or UBJSON.

    Raises:
        ValueError: It is neither.
    """
    # both begin with a brace; in UBJSON a type or a length follows it, in JSON a quote or white space
    text = content[1:2].strip() in (b"", b'"', b"}")
    return json.loads(content, object_pairs_hook=_once) if text else decoded(content)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values with one key, Python would take the last, and XGBoost may take the first."""
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a key is there twice in a JSON object")
    return out


def flaw_of_booster(model: Any) -> str:
    """Why an XGBoost model cannot be sound, in words; "" if nothing is wrong.

    Each tree must be one: every node has at most one parent, none is above itself, children, columns and categories
    are in range, arrays have one value for each node, thresholds and leaves are finite.

    Args:
        model: As `parsed`.
    """
    try:
        learner = model["learner"]
        booster, about = learner["gradient_booster"], learner["learner_model_param"]
        columns, classes = int(about["num_feature"]), max(1, int(about["num_class"]), int(about.get("num_target", 1)))
        if not 1 <= classes <= MAX_CLASSES or columns < 0:
            return f"it has {classes} classes and {columns} columns"
        base = about["base_score"]
        if not np.isfinite(np.array(json.loads(base) if base.startswith("[") else float(base), np.float64)).all():
            return f"its base score is {base}"
        if booster["name"] == "gblinear":
            weights = np.asarray(booster["model"]["weights"], np.float64)
            sound = len(weights) == (columns + 1) * classes and np.isfinite(weights).all()
            return "" if sound else f"it has {len(weights)} weights, or one of them is not finite"
        dropped = booster.get("weight_drop")
        forest = booster["gbtree"]["model"] if booster["name"] == "dart" else booster["model"]
        trees, groups = forest["trees"], np.asarray(forest["tree_info"], np.int64)
        if int(forest["gbtree_model_param"]["num_trees"]) != len(trees) or len(groups) != len(trees):
            return "it tells another number of trees than it has"
        if dropped is not None and (len(dropped) != len(trees) or not np.isfinite(np.array(dropped, float)).all()):
            return "a weight of its trees is missing or not finite"
        if len(groups) and (groups.min() < 0 or groups.max() >= classes):
            return f"a tree is of class {groups.max()}, and there are {classes}"
        if why := _flaw_of_rounds(forest.get("iteration_indptr"), learner.get("attributes", {}), len(trees)):
            return why
        return next((f"tree {n}: {why}" for n, tree in enumerate(trees)
                     if (why := _flaw_of_xgboost_tree(tree, columns, classes))), "")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError) as e:
        return f"it is no XGBoost model ({type(e).__name__}: {str(e)[:60]})"


def _flaw_of_rounds(ends: Any, attributes: dict[str, str], trees: int) -> str:
    """Of the positions at which the trees of each round begin, and of the best round."""
    if ends is None:
        return ""
    ends = np.asarray(ends, np.int64)
    if len(ends) < 1 or ends[0] != 0 or ends[-1] != trees or (np.diff(ends) < 0).any():
        return "its rounds do not cover its trees"
    best = int(attributes.get("best_iteration", 0))
    return "" if 0 <= best < max(len(ends) - 1, 1) else f"its best round is {best}, and there are {len(ends) - 1}"


def _flaw_of_xgboost_tree(tree: dict[str, Any], columns: int, classes: int) -> str:
    left = np.asarray(tree["left_children"], np.int64)
    nodes, size = len(left), max(1, int(tree["tree_param"]["size_leaf_vector"]))
    if int(tree["tree_param"]["num_nodes"]) != nodes or any(len(tree[name]) != nodes for name in PER_NODE):
        return "its arrays have different lengths"
    if int(tree["tree_param"]["num_feature"]) != columns or size not in (1, classes):
        return f"it is for {tree['tree_param']['num_feature']} columns and {size} values, not {columns} and {classes}"
    if len(tree["base_weights"]) not in (nodes, nodes * size):
        return "its arrays have different lengths"
    right, parents, column, kind = (np.asarray(tree[name], np.int64) for name in (*PER_NODE[:3], "split_type"))
    reached, why = _walk(left, right, leaves_point=size > 1)
    if why:
        return why
    inner = reached[left[reached] != LEAF]
    if parents[0] not in ROOT or (parents[left[inner]] != inner).any() or (parents[right[inner]] != inner).any():
        return "a node names another parent than the one whose child it is"
    # a leaf's too, as XGBoost takes a column out of range for the mark of a deleted node
    if len(strange := column[reached][(column[reached] < 0) | (column[reached] >= max(columns, 1))]):
        return f"it splits at column {strange[0]}, and there are {columns}"
    number = kind[inner] == 0
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite to XGBoost
        conditions = np.asarray(tree["split_conditions"], np.float64).astype(np.float32)
    leaves = np.setdiff1d(reached, inner)
    told = np.concatenate([conditions[inner[number]], conditions[leaves] if size == 1 else []])
    if not np.isfinite(told).all():
        return f"a threshold or leaf is {told[~np.isfinite(told)][0]:g}"
    if size > 1:
        values = np.asarray(tree["leaf_weights"], np.float32)
        if len(values) != len(leaves) * size or not np.isfinite(values).all():
            return "a leaf is missing or not finite"
        where = right[leaves]  # of its values among those of all leaves
        if len(where) and (where.min() < 0 or where.max() >= len(leaves)):
            return f"a leaf points at the values of leaf {where.max()}, and there are {len(leaves)}"
    return _flaw_of_categories(tree, inner[~number])


def _flaw_of_categories(tree: dict[str, Any], splits: np.ndarray) -> str:
    nodes, starts, sizes = (np.asarray(tree[f"categories_{name}"], np.int64) for name in ("nodes", "segments", "sizes"))
    values = np.asarray(tree["categories"], np.int64)
    if not len(nodes) == len(starts) == len(sizes) or not set(splits.tolist()) <= set(nodes.tolist()):
        return "a split by categories has none"
    if (starts < 0).any() or (sizes < 0).any() or (starts > len(values) - sizes).any():
        return "the categories of a split are out of range"
    return "" if ((values >= 0) & (values < 2**24)).all() else "a category is out of range"


def flaw_of_estimator(estimator: Any) -> str:
    """Why the trees of a scikit-learn estimator cannot be sound, in words; "" if nothing is wrong or it has none."""
    return next((f"tree {n}: {why}" for n, (tree, columns) in enumerate(_trees(estimator))
                 if (why := _flaw_of_sklearn_tree(tree, columns))), "")


def _trees(found: Any, columns: int | None = None, depth: int = 0, seen: set[int] | None = None) -> Iterator[tuple]:
    """Each `sklearn.tree._tree.Tree` inside an object, with the number of columns that its owner takes."""
    seen = set() if seen is None else seen
    if depth > DEEPEST or id(found) in seen or isinstance(found, str | bytes | int | float | type):
        return
    seen.add(id(found))
    if type(found).__module__ == "sklearn.tree._tree" and type(found).__name__ == "Tree":
        yield found, columns
        return
    if isinstance(found, np.ndarray):
        inside = found.ravel().tolist() if found.dtype == object else ()
    elif isinstance(found, dict):
        inside = tuple(found.values())
    elif isinstance(found, list | tuple | set):
        inside = tuple(found)
    else:
        inside = tuple(getattr(found, "__dict__", {}).values())
        columns = getattr(found, "n_features_in_", None)
    for part in inside:
        yield from _trees(part, columns, depth + 1, seen)


def _flaw_of_sklearn_tree(tree: Any, columns: int | None) -> str:
    left, right, column = (np.asarray(a, np.int64) for a in (tree.children_left, tree.children_right, tree.feature))
    if columns is not None and tree.n_features != columns:
        return f"it is for {tree.n_features} columns, and its owner takes {columns}"
    if tree.value.shape != (len(left), tree.n_outputs, tree.max_n_classes):
        return "its arrays have different lengths"
    reached, why = _walk(left, right)
    if why:
        return why
    inner = reached[left[reached] != LEAF]
    if len(strange := column[inner][(column[inner] < 0) | (column[inner] >= tree.n_features)]):
        return f"it splits at column {strange[0]}, and there are {tree.n_features}"
    told = np.concatenate([tree.threshold[inner], tree.value[reached].ravel()])
    return "" if np.isfinite(told).all() else f"a threshold or leaf is {told[~np.isfinite(told)][0]:g}"


def _walk(left: np.ndarray, right: np.ndarray, leaves_point: bool = False) -> tuple[np.ndarray, str]:
    """The nodes below node 0, level by level, and why they form no tree; "" if they do.

    Args:
        left, right: (n,) int64 children of each node, `LEAF` where there is none. Nodes that were deleted are under no
            node.
        leaves_point: Whether `right` means something else where `left` is `LEAF`.
    """
    seen, level, levels = np.zeros(len(left), bool), np.zeros(min(len(left), 1), np.int64), []
    if not len(level):
        return level, "it has no nodes"
    seen[0] = True
    while len(level):
        levels.append(level)
        inner = level[left[level] != LEAF]
        if not leaves_point and (right[level[left[level] == LEAF]] != LEAF).any():
            return level, "a node has one child only"
        children = np.concatenate([left[inner], right[inner]])
        if len(strange := children[(children < 0) | (children >= len(left))]):
            return level, f"a node has the child {strange[0]}, and there are {len(left)} nodes"
        if seen[children].any() or len(np.unique(children)) < len(children):
            return level, "a node is reached twice, so it is no tree"
        seen[children] = True
        level = children
    return np.concatenate(levels), ""
