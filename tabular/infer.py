"""A first schema from the data alone, for people to edit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from suite.base.errors import InputError
from suite.datasets.csv import numbers, place, words
from tabular.schema import Column, Schema

MOST_CATEGORIES = 20
"""Text columns with more different values are taken for identifiers or free text."""

FEW_WHOLE_NUMBERS = 10
"""Whole numbers that span no more than this are taken as grades, whose range is not widened, and is their scale."""

CENTRAL = (0.05, 0.95)
"""Quantiles between which a column's scale lies: an outlier widens what is possible, but not what a budget is worth."""

UNCHANGEABLE = ("age", "sex", "gender", "race", "ethnic", "pregnan", "pedigree", "family", "birth", "dob", "id")
"""Words in a column's name that make it immutable. Only what no attacker can change; whoever knows more edits it."""


def infer(frame: pd.DataFrame, target: str | None = None, drop: Sequence[str] = ()) -> Schema:
    """Ranges, whole numbers, categories and immutable columns, as far as values and names tell.

    Ranges are those of the data, widened by 5 % and rounded outwards, but not below 0 where no value is: every patient
    of the data is possible. Scales, of which a budget is a share, are the distance between the 5 % and the 95 %
    quantile, so that a few outliers do not make it large. Text and booleans become codes 0, 1, ... of the sorted
    categories. Units, one-way columns, numbers that stand for "missing" and relations cannot be seen in the data: add
    them by hand.

    Args:
        frame: The table, as read by `suite.datasets.csv.read` or by pandas.
        target, drop: Columns that are no features.

    Raises:
        InputError: A column is empty, mixes numbers and text, or holds text like an identifier.
    """
    names = [name for name in frame.columns if name != target and name not in drop]
    if not names:
        raise InputError("no column is left besides the target")
    return Schema(columns={str(name): _column(frame[name], str(name)) for name in names})


def _column(series: pd.Series, name: str) -> Column:
    values, empty = numbers(series)
    if empty.all():
        raise InputError(f"column '{name}' is empty; leave it out (drop)")
    shared = {"may_miss": bool(empty.any()), "change": "never" if _unchangeable(name) else "any"}
    text = ~empty & ~np.isfinite(values)
    if not text.any():
        values = values[~empty]
        whole = bool((values == np.round(values)).all())
        least, most = float(values.min()), float(values.max())
        low, high = _widened(least, most, whole)
        grades = whole and most - least <= FEW_WHOLE_NUMBERS
        return Column(min=low, max=high, scale=None if grades else _scale(values), integer=whole, **shared)
    if text.sum() < 0.5 * (~empty).sum():
        row = int(text.argmax())
        raise InputError(f"column '{name}' {place(series, row)}: '{str(series.iloc[row])[:40]}' is not a number")
    categories = sorted(set(words(series)[~empty].tolist()))
    if len(categories) > MOST_CATEGORIES:
        raise InputError(f"column '{name}' holds text with {len(categories)} different values, like an identifier; "
                         "leave it out (drop)")
    codes = tuple(float(i) for i in range(len(categories)))
    return Column(min=0, max=max(codes[-1], 1), values=codes, labels=tuple(categories), **shared)


def _unchangeable(name: str) -> bool:
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    # short words must match in full: "id" is no part of "lipid", and "age" none of "dosage"
    return any(part == word or (len(word) > 4 and part.startswith(word)) for part in parts for word in UNCHANGEABLE)


def _scale(values: np.ndarray) -> float | None:
    """The distance between the outer quantiles; where most patients share one value, as with a dose that few are given,
    that of the others. None where there is no such distance."""
    found, counts = np.unique(values, return_counts=True)
    for part in (values, values[values != found[counts.argmax()]]):
        if len(part) and (low_high := np.quantile(part, CENTRAL))[1] > low_high[0]:
            return float(f"{low_high[1] - low_high[0]:.3g}")
    return None


def _widened(low: float, high: float, whole: bool) -> tuple[float, float]:
    if whole and high - low <= FEW_WHOLE_NUMBERS:
        return low, max(high, low + 1)
    pad = 0.05 * (high - low) or 0.05 * max(abs(low), 1)
    step = 10.0 ** math.floor(math.log10(pad))
    if whole:
        step = max(step, 1.0)
    least, most = math.floor((low - pad) / step) * step, math.ceil((high + pad) / step) * step
    if low >= 0:
        least = max(least, 0.0)
    return float(f"{least:.12g}"), float(f"{most:.12g}")
