"""Tables as data; the template decides how they look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from suite.report.show import NONE, bounds, brief, interval, number
from suite.results.measurement import Measurement

Tone = Literal["", "bad", "warn", "good", "muted"]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        num: Numbers are set in tabular figures and do not wrap.
        tone: Colour; never the only carrier of a meaning.
        bar: `(low, value, high)` in [0, 1] of a small interval drawn below the number.
        heat: Share in [0, 1] that the cell's background shows.
        beneath: A second line, small.
    """

    text: str
    num: bool = False
    tone: Tone = ""
    bar: tuple[float, float, float] | None = None
    heat: float | None = None
    beneath: str = ""


@dataclass
class Table:
    """Rows in groups, each group with a heading of its own (empty for none)."""

    caption: str
    head: list[str]
    groups: list[tuple[str, list[list[Cell]]]] = field(default_factory=list)
    note: str = ""

    def add(self, group: str, cells: list[Cell]) -> None:
        """Append a row; a new group starts when its name differs from the last."""
        if not self.groups or self.groups[-1][0] != group:
            self.groups.append((group, []))
        self.groups[-1][1].append(cells)

    def pruned(self) -> Table:
        """Without the columns that say nothing in any row."""
        rows = [cells for _, group in self.groups for cells in group]
        keep = [i for i in range(len(self.head)) if i == 0 or any(c[i].text not in ("", NONE) for c in rows)]
        groups = [(name, [[cells[i] for i in keep] for cells in group]) for name, group in self.groups]
        return Table(self.caption, [self.head[i] for i in keep], groups, self.note)

    def __bool__(self) -> bool:
        return bool(self.groups)


def words(text: str, tone: Tone = "") -> Cell:
    """A cell of text."""
    return Cell(text or NONE, tone=tone)


def est(row: Measurement | None, tone: Tone = "", bar: bool = False) -> Cell:
    """Value and interval; with `bar`, drawn as well."""
    whole = row is not None and None not in (row.value, row.ci_low, row.ci_high)
    drawn = (row.ci_low, row.value, row.ci_high) if bar and whole and row.ci_low >= 0 and row.ci_high <= 1 else None
    return Cell(interval(row), num=True, tone=tone, bar=drawn)


def amount(value: float | None, how: Callable[[float | None], str] = brief) -> Cell:
    """A bare number."""
    return Cell(how(value), num=True)


def bounded(row: Measurement | None, bound: bool, sign: str = "≤", bar: bool = False) -> Cell:
    """As `est`; where it is but a bound, with a sign that says so."""
    cell = est(row, bar=bar)
    return replace(cell, text=f"{sign} {cell.text}") if bound and row is not None else cell


def plain(row: Measurement | None, digits: int = 2, tone: Tone = "", beneath: bool = False) -> Cell:
    """A value without interval, or with it on a second line."""
    if row is None:
        return Cell(NONE, num=True)
    return Cell(number(row.value, digits), num=True, tone=tone, beneath=bounds(row, digits) if beneath else "")


def confusion(rows: dict[str, Measurement], classes: Iterable[str], caption: str) -> Table | None:
    """A confusion matrix from rows named `true->predicted`; heat is the share of the true class."""
    names = list(classes)
    if not rows:
        return None
    n = max(r.n for r in rows.values())  # attacks may have been tried on fewer patients than were judged without one
    table = Table(f"{caption}, n = {n}", ["true ↓ said →", *names])
    for true in names:
        counts = [rows[key].value if (key := f"{true}->{said}") in rows else 0.0 for said in names]
        total = sum(counts) or 1.0
        table.add("", [words(true), *[Cell(f"{c:.0f}", num=True, heat=c / total) for c in counts]])
    return table


def report_per_class(find: Callable[[str], Measurement | None], classes: Iterable[str], caption: str) -> Table:
    """A classification report; `find("precision[sick]")` gives the row."""
    table = Table(caption, ["class", "precision", "recall", "F1", "n"])
    for name in classes:
        three = [find(f"{metric}[{name}]") for metric in ("precision", "recall", "f1")]
        if any(three):
            n = three[1].n if three[1] else None
            table.add("", [words(name), *map(est, three), amount(n)])
    return table
