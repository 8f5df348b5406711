"""Reading a table from a CSV file: its cells as text or numbers; whatever is wrong is named by column and line."""

from __future__ import annotations

import csv
import difflib
import io
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from suite.base.errors import InputError

MAX_LINE, MAX_BYTES = 8 * 2**20, 2**30
"""Bytes of one line, and of a whole file."""
MAX_COLUMNS, MAX_CELLS = 20_000, 50_000_000
MAX_NAME = 200
"""Characters of a column's name."""

EMPTY = ("", "na", "n/a", "nan", "null", "?")
"""Cells that hold no value, in lower case."""


def read(path: Path) -> pd.DataFrame:
    """The cells of a comma-separated file with a header, as stripped text; the index is the line in the file.

    Raises:
        InputError: The file is missing, no regular file, empty, binary, too large, has one column only, ragged lines,
            no header, a column twice, or a column's name that holds control characters. The message does not repeat
            the file's name.
    """
    data = _bytes(path)
    if not data.strip():
        raise InputError("the file is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("not a CSV file (not UTF-8 text)") from None
    if "\0" in text:
        raise InputError("not a CSV file (binary)")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    lines, rows, cells = [], [], 0
    try:
        for row in reader:
            cells += len(row)
            if len(row) > MAX_COLUMNS or cells > MAX_CELLS:
                raise InputError(f"line {reader.line_num}: more than " + (
                    f"{MAX_COLUMNS:,} columns" if len(row) > MAX_COLUMNS else f"{MAX_CELLS:,} cells")
                    + ", the most that is read; keep only the columns and rows that matter")
            if any(cell.strip() for cell in row):
                lines.append(reader.line_num)
                rows.append([cell.strip() for cell in row])
    except csv.Error as e:
        raise InputError(f"line {reader.line_num}: not CSV: {e}") from None
    header = rows.pop(0)
    _check_header(header)
    if not rows:
        raise InputError("a header, but no rows")
    for line, row in zip(lines[1:], rows, strict=True):
        if len(row) != len(header):
            raise InputError(f"line {line}: {len(row)} cells, but the header has {len(header)}")
    return pd.DataFrame(rows, columns=header, index=pd.Index(lines[1:], name="line"), dtype=object)


def _bytes(path: Path) -> bytes:
    """What a file holds, read only as far as it can still be a table that is not too large."""
    try:
        if not stat.S_ISREG(mode := Path(path).stat().st_mode):
            raise InputError("is a directory" if stat.S_ISDIR(mode) else "is not a regular file")
        parts, total, line = [], 0, 0
        with Path(path).open("rb") as file:
            while part := file.read(2**20):
                first, last = part.find(b"\n"), part.rfind(b"\n")
                longest = line + (len(part) if first < 0 else first)
                line = longest if first < 0 else len(part) - last - 1
                parts.append(part)
                total += len(part)
                if longest > MAX_LINE:
                    raise InputError(f"a line is longer than {MAX_LINE:,} bytes, the most that is read; is it a CSV "
                                     "file?")
                if total > MAX_BYTES:
                    raise InputError(f"more than {MAX_BYTES:,} bytes, the most that is read; keep only the columns and "
                                     "rows that matter")
    except OSError as e:
        raise InputError((e.strerror or str(e)).lower()) from None
    return b"".join(parts)


def numbers(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64 values of cells of any type, NaN where they are not numbers; and (n,) bool: which are empty."""
    text = words(series)
    empty = series.isna().to_numpy() | np.isin(np.char.lower(text), EMPTY)
    values = pd.to_numeric(pd.Series(np.where(empty, "nan", text)), errors="coerce")
    return values.to_numpy(np.float64, copy=True), empty


def words(series: pd.Series) -> np.ndarray:
    """(n,) str: the cells as stripped text."""
    return np.char.strip(series.astype(object).to_numpy().astype(str))


def place(series: pd.Series | pd.DataFrame, row: int) -> str:
    """How to name a row in a message: "line 17" for a file, else "row 15"."""
    return f"{series.index.name or 'row'} {series.index[row]}"


def check_column(frame: pd.DataFrame, name: str) -> None:
    """`InputError` with the nearest name where the table has no such column."""
    if name not in frame.columns:
        names = [str(n) for n in frame.columns]
        near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], 1)
        hint = f"did you mean '{names[[n.lower() for n in names].index(near[0])]}'?" if near else listed(names)
        raise InputError(f"no column '{name}'; {hint if near else 'there are ' + hint}")


def _check_header(header: Sequence[str]) -> None:
    if len(header) == 1:
        others = {";": "semicolons", "\t": "tabs", "|": "bars"}
        found = next((name for sign, name in others.items() if sign in header[0]), "")
        raise InputError("one column only; cells are separated by commas" + (f", not by {found}" if found else ""))
    seen: set[str] = set()
    for i, name in enumerate(header):
        if not name:
            raise InputError(f"column {i + 1} has no name in the header")
        if len(name) > MAX_NAME or any(unicodedata.category(sign)[0] == "C" for sign in name):
            problem = f"is longer than {MAX_NAME} characters" if len(name) > MAX_NAME else "holds control characters"
            raise InputError(f"the name of column {i + 1}, {name[:40]!a}, {problem}; rename it in the header")
        if name in seen:
            raise InputError(f"column '{name}' appears twice")
        seen.add(name)
    if not np.isnan(numbers(pd.Series(list(header)))[0]).any():
        raise InputError("the first line holds numbers, not column names")


def listed(items: Sequence[str], most: int = 8) -> str:
    """The first items, for a message."""
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")
