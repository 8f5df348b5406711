"""From the cells of a table to the numbers that a schema describes; whatever is wrong is named by column and line."""

from __future__ import annotations

import numpy as np
import pandas as pd

from suite.base.errors import InputError
from suite.datasets.csv import listed, numbers, place, words
from tabular.schema import Column, Schema


def encode(frame: pd.DataFrame, schema: Schema) -> np.ndarray:
    """(rows, columns) float64 values of the schema's columns, NaN where a patient lacks one.

    Raises:
        InputError: Naming the column, the first line and the value: text where a number is due, an empty cell where
            none may be, a value out of range, not whole, or not among the codes.
    """
    return np.column_stack([_encode(frame[name], name, column) for name, column in schema.columns.items()])


def _encode(series: pd.Series, name: str, column: Column) -> np.ndarray:
    values, empty = numbers(series)
    if column.labels:
        text = words(series)
        for label, value in zip(column.labels, column.values, strict=True):
            values[text == label] = value
            empty &= text != label

    def refuse(wrong: np.ndarray, problem: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            cell = "" if empty[row] else f"'{str(series.iloc[row])[:40]}' "
            raise InputError(f"column '{name}' {place(series, row)}: {cell}{problem}")

    known = f"; it takes {listed(column.labels)}" if column.labels else ""
    refuse(~empty & ~np.isfinite(values), f"is not a number{known}")
    if not column.may_miss:
        refuse(empty, "is empty, and the schema does not say may_miss")
    values[np.isin(values, column.missing)] = np.nan
    there = ~np.isnan(values)
    if column.values:
        refuse(there & ~np.isin(values, column.values), f"is not among {listed([f'{v:g}' for v in column.values])}")
    refuse(there & ((values < column.min) | (values > column.max)),
           f"is outside the schema's range {column.min:g} to {column.max:g} {column.unit}".strip())
    if column.integer:
        refuse(there & (values != np.round(values)), "is not a whole number")
    return values
