"""Splitting rows into train, validation and test: by class, or as the source says, never one patient in two splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from suite.base.errors import InputError
from suite.datasets import csv

PARTS = ("train", "val", "test")
WORDS = ("training", "validation", "test")
"""What messages call the splits."""
SPELLINGS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "tune": 1, "tuning": 1, "test": 2,
             "testing": 2, "holdout": 2, "hold-out": 2, "held-out": 2}
"""What a source may call them."""
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


def parts_of(frame: pd.DataFrame, column: str) -> np.ndarray:
    """(n,) int64: the split that a column of a table names for each row, 0 for training, 1 validation, 2 test.

    Raises:
        InputError: No such column, or a value that names no split.
    """
    csv.check_column(frame, column)
    names = np.char.lower(csv.words(frame[column])).tolist()
    part = np.array([SPELLINGS.get(name, -1) for name in names], np.int64)
    if (part < 0).any():
        row = int((part < 0).argmax())
        raise InputError(f"column '{column}' {csv.place(frame, row)}: '{names[row][:40]}' is none of train, val and "
                         "test")
    return part


def with_validation(part: np.ndarray, y: np.ndarray, together: list[np.ndarray], classes: tuple[str, ...],
                    seed: int = 0, noun: str = "row") -> np.ndarray:
    """A split that a source declares, in which a validation split that it lacks is drawn from the training rows.

    Args:
        part: (n,) int64, as of `parts_of`.
        y, together, classes, seed, noun: As for `split`.

    Returns:
        (n,) int64; test rows stay as they are.

    Raises:
        InputError: No training or no test rows; or a class has too few training rows to be in both.
    """
    for i in (0, 2):
        if not (part == i).any():
            raise InputError(f"the split has no {WORDS[i]} {noun}s; it has "
                             + ", ".join(f"{int((part == k).sum())} {WORDS[k]}" for k in range(3) if (part == k).any()))
    if (part == 1).any():
        return part
    learned = np.flatnonzero(part == 0)
    drawn = split(y[learned], [np.unique(key[learned], return_inverse=True)[1] for key in together], classes, seed,
                  f"training {noun}")
    out = part.copy()
    out[learned[drawn[1]]] = 1
    return out


def shared(names: np.ndarray, parts: Sequence[np.ndarray]) -> tuple[set[str], str]:
    """Who stands in more than one split, and the first of them with where, in words; empty where nobody does.

    Args:
        names: (n,) str, whose row each is.
        parts: Row positions of training, validation and test.
    """
    held = [set(names[index].tolist()) for index in parts]
    both = {(a, b): held[a] & held[b] for a, b in ((0, 2), (0, 1), (1, 2))}
    pair = next(((a, b, min(found)) for (a, b), found in both.items() if found), None)
    if pair is None:
        return set(), ""
    a, b, name = pair
    return set().union(*both.values()), f"patient '{name}' is in {WORDS[a]} and in {WORDS[b]}"


def all_single(names: np.ndarray) -> bool:
    """Whether no two rows are of one patient."""
    return len(np.unique(names)) == len(names)


def not_a_patient(column: str) -> str:
    """What to say of a column of patients in which no value occurs twice."""
    return f"every value of column '{column}' is unique: it does not look like a patient id"


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
