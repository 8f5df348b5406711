"""From cells to a dataset: labels, subgroups, imputation, the check against the schema, and the data card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from suite.base.errors import InputError
from suite.core.data import Dataset, Provenance, Split, patient_numbers
from suite.datasets import csv
from suite.datasets.positive import Labels, disease_last
from suite.datasets.split import PARTS, WORDS, all_single, not_a_patient, parts_of, shared, split, with_validation
from suite.datasets.subgroups import subgroup
from tabular.encode import encode
from tabular.schema import Schema

MOST_CLASSES = 50
"""A target with more different values is taken for a measurement or an identifier."""

TWO_FILES = "\0file"
"""The column that says from which of two files a row is; no file can have one of that name."""

USUAL_SUBGROUPS = ("age", "sex", "gender", "site", "hospital")
"""Columns of these names become subgroups by themselves."""


@dataclass(frozen=True)
class Source:
    """What is known of a table besides its cells; see `suite.core.data.Provenance`."""

    name: str
    owner: str
    licence: str
    sha256: str
    read_from: str
    synthetic: bool = False
    note: str = ""


def build(frame: pd.DataFrame, schema: Schema, y: np.ndarray, classes: tuple[str, ...], source: Source, *,
          subgroups: Sequence[str] = (), group: str | None = None, seed: int = 0, inferred: bool = False,
          disease: str = "", declared: str | None = None) -> Dataset:
    """Split, impute and check a table.

    Args:
        frame: Cells as text or numbers; columns that are neither in the schema nor named below are ignored.
        schema: The features, in order.
        y: (n,) int64 labels.
        classes: Names of the labels.
        source: For the provenance.
        subgroups, group, seed: See `tabular.data.from_csv`.
        inferred: The schema was read off these very cells.
        disease: For the data card: which class is the disease, and how that is known.
        declared: Column that says which split each row is in; drawn here where it is None.

    Raises:
        InputError: Naming the column, line and value that is wrong, or the patient who is in two splits.
    """
    values = encode(frame, schema)
    if group is not None and (nobody := csv.numbers(frame[group])[1]).any():
        raise InputError(f"column '{group}' {csv.place(frame, int(nobody.argmax()))}: no patient number")
    same = _keys(pd.DataFrame(values))
    patients = None if group is None else _keys(frame[[group]])
    together = [same] if patients is None else [same, patients]
    if declared is None:
        parts, named = split(y, together, classes, seed), ()
    else:
        parts, named = _declared(frame, declared, y, together, classes, seed)
        if group is not None and (twice := shared(csv.words(frame[group]), parts)[1]):
            raise InputError(f"column '{group}': {twice}, so that results would be those of patients the model has "
                             f"learned from; put all rows of a patient into one split ('{declared}')")
    missing = np.isnan(values)
    filled = _impute(values, parts[0], schema)
    _check_possible(frame, schema, filled, missing)
    x, space, rows = filled.astype(np.float32), schema.space(), np.arange(len(y))
    usual = [name for name in frame.columns if str(name).lower() in USUAL_SUBGROUPS]
    groups = {str(name).lower() if name in usual else str(name): subgroup(frame[name], schema.codes(name))
              for name in dict.fromkeys([*usual, *subgroups])}
    numbers = None if group is None else patient_numbers(csv.words(frame[group]))
    whole = Split(x, y, space, classes, rows, groups, numbers)
    train, val, test = (whole.take(index) for index in parts)

    lost = {name: int(n) for name, n in zip(schema.names, missing.sum(0), strict=True) if n}
    notes = [source.note, lost and f"{missing.sum()} missing values set to the training medians of their columns"]
    card = {
        "read from": source.read_from,
        "rows": f"{len(y)}: {len(train)} to train, {len(val)} to validate, {len(test)} to test",
        "split": _how(named, declared, group, seed),
        "classes": ", ".join(f"{name} {n} ({n / len(y):.1%})"
                             for name, n in zip(classes, np.bincount(y, minlength=len(classes)), strict=True)),
        "disease": disease,
        "missing values": ", ".join(f"{name} {n} ({n / len(y):.1%})" for name, n in lost.items()) or "none",
        "repeated rows": _repeated(same, parts, bool(named)),
    }
    cautions = []
    if group is not None:
        card["patients"] = f"{len(np.unique(patients))} by column '{group}', each in one split only"
        if all_single(patients):
            cautions.append(not_a_patient(group))
            card["patients"] += f"; {cautions[0]}"
    provenance = Provenance(source.name, source.owner, source.licence, source.sha256, len(y), source.synthetic,
                            "; ".join(note for note in notes if note))
    fitted = [inferred and "the range and scale of each column", lost and "the medians filled in for missing values"]
    return Dataset(source.name, train, val, test, provenance, schema.names,
                   {key: text for key, text in card.items() if text}, tuple(f for f in fitted if f), named,
                   tuple(cautions))


def _declared(frame: pd.DataFrame, column: str, y: np.ndarray, together: list[np.ndarray], classes: tuple[str, ...],
              seed: int) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[str, ...]]:
    """Row positions of the splits that a column names, and which of them it names."""
    given = parts_of(frame, column)
    named = tuple(part for i, part in enumerate(PARTS) if (given == i).any())
    part = with_validation(given, y, together, classes, seed)
    for i, word in enumerate(WORDS):
        for label in np.flatnonzero(np.bincount(y[part == i], minlength=len(classes)) == 0):
            raise InputError(f"column '{column}': class '{classes[label]}' has no {word} row")
    return tuple(np.flatnonzero(part == i) for i in range(3)), named


def _how(named: tuple[str, ...], declared: str | None, group: str | None, seed: int) -> str:
    """How rows came into their splits, for the data card."""
    by = "row" if group is None else "patient"
    if not named:
        return f"60, 20 and 20 % of each class, by {by} (seed {seed})"
    drawn = "" if "val" in named else f"; validation is 20 % of the training rows, by {by} (seed {seed})"
    return f"as {'the two files give it' if declared == TWO_FILES else f'column {declared!r} gives it'}{drawn}"


def _repeated(same: np.ndarray, parts: Sequence[np.ndarray], declared: bool) -> str:
    """How many rows are there more than once, and whether in several splits, for the data card."""
    repeated = len(same) - len(np.unique(same))
    if not repeated:
        return "none"
    if not declared:
        return f"{repeated}, each kept in the split of its twin"
    both = int(np.isin(same[parts[2]], np.concatenate([same[parts[0]], same[parts[1]]])).sum())
    return f"{repeated}; {both} of {len(parts[2])} test rows equal a training or validation row"


def labels(frame: pd.DataFrame, target: str, positive: str | None = None) -> Labels:
    """The labels and class names of the target column: in sorted order, but of two the disease is the second.

    Args:
        frame: The table.
        target: Text, or whole numbers.
        positive: For two classes, the one that is the disease; None leaves it to their names.

    Raises:
        InputError: A label is missing; the target is continuous, or has one class only, or more than 50; `positive` is
            none of its two classes, or is not given and the names of the two do not tell.
    """
    values, empty = csv.numbers(frame[target])
    if empty.any():
        raise InputError(f"target column '{target}' {csv.place(frame, int(empty.argmax()))} is empty")
    numeric = np.isfinite(values).all()
    if numeric and (values != np.round(values)).any():
        raise InputError(f"target column '{target}' is continuous; a classifier needs classes")
    found, y = np.unique(values if numeric else csv.words(frame[target]), return_inverse=True)
    classes = tuple(f"{v:g}" if numeric else str(v) for v in found)
    if len(classes) > MOST_CLASSES:
        raise InputError(f"target column '{target}' has {len(classes)} different values; there may be at most "
                         f"{MOST_CLASSES} classes")
    if len(classes) == 1:
        raise InputError(f"target column '{target}' has one class only: '{classes[0]}'")
    y = y.reshape(-1).astype(np.int64)
    return disease_last(y, classes, positive, f" of '{target}'")


def check_schema(frame: pd.DataFrame, schema: Schema, others: Sequence[str]) -> None:
    """`InputError` where schema and table differ in their columns, apart from `others`, which are no features."""
    for name in schema.names:
        if name in others[:1]:
            raise InputError(f"the target column '{name}' must not be in the schema")
        try:
            csv.check_column(frame, name)
        except InputError as e:
            raise InputError(f"the schema's column is not in the file: {e}") from None
    for name in frame.columns:
        if name not in schema.columns and name not in others:
            raise InputError(f"column '{name}' is not in the schema; add it there or leave it out (drop)")


def _keys(frame: pd.DataFrame) -> np.ndarray:
    """(n,) int64: equal for equal rows, where missing equals missing."""
    return frame.groupby(list(frame.columns), dropna=False, sort=False).ngroup().to_numpy(np.int64)


def _impute(values: np.ndarray, train: np.ndarray, schema: Schema) -> np.ndarray:
    """Fill NaN with the training rows' median; of whole numbers and codes the lower one, which is a real value."""
    filled = values.copy()
    for i, (name, column) in enumerate(schema.columns.items()):
        holes = np.isnan(values[:, i])
        if not holes.any():
            continue
        known = values[train, i][~holes[train]]
        if not len(known):
            raise InputError(f"column '{name}' has no value in any training row; leave it out (drop)")
        discrete = column.integer or column.values
        filled[holes, i] = np.quantile(known, 0.5, method="lower" if discrete else "linear")
    return filled


def _check_possible(frame: pd.DataFrame, schema: Schema, filled: np.ndarray, missing: np.ndarray) -> None:
    """Ranges and codes are checked cell by cell already; what is left is the relations."""
    possible = schema.space().possible(torch.from_numpy(filled.astype(np.float32))).numpy()
    if possible.all():
        return
    row = int((~possible).argmax())
    for relation in schema.relations:
        columns = [schema.names.index(name) for name in relation.terms]
        total = float(filled[row, columns] @ np.array(list(relation.terms.values())))
        if total > relation.max:
            imputed = [schema.names[i] for i in columns if missing[row, i]]
            raise InputError(f"{csv.place(frame, row)} breaks the relation '{relation.name}': {total:g} is above "
                             f"{relation.max:g}" + (f" ({csv.listed(imputed)} imputed)" if imputed else ""))
    raise InputError(f"{csv.place(frame, row)} does not fit the schema in float32")
