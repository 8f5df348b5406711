"""Splitting rows into train, validation and test: by class, and never one patient in two splits."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from suite.errors import InputError

SHARE = 0.2
"""Share of the rows in the validation split, and in the test split."""


def split(y: np.ndarray, together: list[np.ndarray], classes: tuple[str, ...],
          seed: int = 0, noun: str = "row") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row positions of train, validation and test: 60, 20 and 20 % of each class.

    Args:
        y: (n,) int64 labels.
        together: Keys of shape (n,) int64; rows that share a key of any of them (a patient, identical values) are
            kept in one split. A patient with rows of several classes counts as of the rarest of them.
        classes: Names, for messages.
        seed: Of the shuffling.
        noun: What a row is called in messages.

    Raises:
        InputError: A class has too few rows, or too few patients, to be in all three splits.
    """
    rng = np.random.default_rng(seed)
    group = _joined(together, len(y))
    holds = np.zeros((group.max() + 1, len(classes)), np.int64)
    np.add.at(holds, (group, y), 1)
    for name, rows, patients in zip(classes, holds.sum(0), (holds > 0).sum(0), strict=True):
        if patients < 3:
            raise InputError(f"class '{name}' has {rows} {noun}{'' if rows == 1 else 's'}"
                             + (f" of {patients} separate patients" if rows >= 3 else "")
                             + "; at least 3 are needed, one each for training, validation and test")
    stratum = np.where(holds > 0, holds.sum(0), len(y) + 1).argmin(1)
    size = holds.sum(1)
    part = np.zeros(len(size), np.int64)
    for label in range(len(classes)):
        members = rng.permutation(np.flatnonzero(stratum == label))
        if len(members) >= 3:
            part[members] = _parts(size[members])
    rows = tuple(np.flatnonzero(part[group] == i) for i in range(3))
    for name, index in zip(("training", "validation", "test"), rows, strict=True):
        for label in np.flatnonzero(np.bincount(y[index], minlength=len(classes)) == 0):
            raise InputError(f"class '{classes[label]}' has too few separate patients to be in the {name} split")
    return rows


def _parts(size: np.ndarray) -> np.ndarray:
    """Which split (0 train, 1 validation, 2 test) each group of these sizes goes to, in random order already."""
    total, held = int(size.sum()), max(1, round(SHARE * size.sum()))
    want = np.array([total - 2 * held, held, held])
    left = want.copy()
    part = np.empty(len(size), np.int64)
    # large groups first, each to the split that lacks most; single rows then fill up exactly
    several = np.flatnonzero(size > 1)
    for i in several[np.argsort(-size[several], kind="stable")]:
        part[i] = (left / want).argmax()
        left[part[i]] -= size[i]
    single = np.flatnonzero(size == 1)
    left = left.clip(0)
    test, val = single[: left[2]], single[left[2] : left[2] + left[1]]
    part[single], part[val], part[test] = 0, 1, 2
    return part


def _joined(keys: list[np.ndarray], n: int) -> np.ndarray:
    """(n,) group numbers: rows are connected when they share a key of any kind."""
    rows, nodes, start = [], [], n
    for key in keys:
        rows.append(np.arange(n))
        nodes.append(start + key)
        start += int(key.max()) + 1
    if not keys:
        return np.arange(n)
    row, node = np.concatenate(rows), np.concatenate(nodes)
    _, label = connected_components(coo_array((np.ones(len(row)), (row, node)), shape=(start, start)), directed=False)
    return np.unique(label[:n], return_inverse=True)[1]
