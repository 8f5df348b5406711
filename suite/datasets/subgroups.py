"""Subgroups of patients, by which results are broken down: ages in bands, everything else as it is written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from suite.base.errors import InputError
from suite.datasets.csv import numbers, words

MOST = 20
"""Subgroups of one column; more would say nothing about any of them."""

AGE_BANDS = {"<30": 30, "30-44": 45, "45-59": 60, "60+": np.inf}
"""Band -> age in years at which it ends."""


def subgroup(series: pd.Series, codes: Mapping[float, str] | None = None) -> np.ndarray:
    """(n,) str: the subgroup of each row by a column of cells; "unknown" where the cell is empty.

    Args:
        series: Text or numbers. A column named "age" that holds numbers becomes bands.
        codes: What numbers stand for, where they stand for something.

    Raises:
        InputError: More than 20 different values.
    """
    values, empty = numbers(series)
    if str(series.name).lower() == "age" and np.isfinite(values[~empty]).all():
        text = np.array(list(AGE_BANDS))[np.searchsorted(list(AGE_BANDS.values()), np.nan_to_num(values), side="right")]
    else:
        text = words(series).astype(object)
        numeric = np.isfinite(values)
        text[numeric] = [f"{v:g}" for v in values[numeric]]
        for code, label in (codes or {}).items():
            text[values == code] = label
    text = np.where(empty, "unknown", text).astype(str)
    if len(np.unique(text)) > MOST:
        raise InputError(f"subgroup column '{series.name}' has {len(np.unique(text))} different values; at most {MOST}")
    return text
