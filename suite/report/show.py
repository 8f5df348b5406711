"""Numbers as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from suite.defenses.private.sizes import AT_EDGE, DECLARED
from suite.results.measurement import Measurement

MINUS = "−"
NONE = "–"


@dataclass(frozen=True)
class Voice:
    """The words of a report: what one input, one of its features and a budget are called.

    Attributes:
        case: One input: "patient" or "image".
        feature: One of its values: "column" or "pixel".
        scale: What a budget is a share of.
    """

    case: str = "patient"
    feature: str = "column"
    scale: str = "each column's scale"

    def budget(self, eps: float | None, norm: str = "linf") -> str:
        """"5%" for tables, "4/255" for images; "L2 0.5" and the like in other norms."""
        if eps is None:
            return NONE
        if norm == "l0":
            return plural(int(eps), self.feature)
        if norm != "linf" and (norm != "l2" or self.feature == "pixel"):
            return f"{'L2 ' if norm == 'l2' else ''}{eps:g}"
        levels = 255 * eps
        return f"{levels:.3g}/255" if self.feature == "pixel" else f"{100 * eps:g}%"

    def within(self, eps: float | None) -> str:
        """"5% of each column's scale"."""
        return f"{self.budget(eps)} of {self.scale}"


VOICES = {"patient": Voice(), "image": Voice("image", "pixel", "the range of intensities")}
"""By what the data call one input."""


def protects(row: Measurement | None) -> str:
    """Whom an epsilon is about and how neighbours differ, as "one row, added or removed"; empty where that is not
    said."""
    unit, relation = (row.attack_params.get(name) if row else None for name in ("unit", "neighbors"))
    return f"one {unit}, {relation}" if unit and relation else ""


def taken_public(row: Measurement | None) -> str:
    """How many rows (patients) an epsilon takes to be public, and how that is known, as "70 rows, declared"; empty
    where that is not said."""
    of = row.attack_params if row else {}
    if not (source := of.get("public_rows_from")):
        return ""
    number, unit = of.get("public_rows"), of.get("unit", "row")
    size = plural(int(number), unit) if number else f"number of {unit}s"
    if source == DECLARED:
        return f"{size}, declared"
    return f"{size}, rounded down" + (f"; one {unit} more or less changes it" if source == AT_EDGE else "")


def number(value: float | None, digits: int = 2) -> str:
    """A plain number with a true minus sign."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.removeprefix("-")).replace("-", MINUS)


def brief(value: float | None) -> str:
    """As few digits as say it: counts, seconds, perturbations."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", MINUS)


def interval(row: Measurement | None, digits: int = 2) -> str:
    """"0.71 (0.63–0.78)"."""
    if row is None or row.value is None:
        return NONE
    value, within = number(row.value, digits), bounds(row, digits)
    return f"{value} ({within})" if within else value


def bounds(row: Measurement, digits: int = 2) -> str:
    """"0.63–0.78"; empty where there is no interval."""
    if row.ci_low is None or row.ci_high is None:
        return ""
    dash = " to " if row.ci_low < 0 else "–"
    return f"{number(row.ci_low, digits)}{dash}{number(row.ci_high, digits)}"


def percent(row: Measurement | None) -> str:
    """"71% (63–78%)"."""
    if row is None or row.value is None:
        return NONE
    value = share(row.value)
    if row.ci_low is None or row.ci_high is None:
        return value
    low = number(100 * row.ci_low, _places(row.ci_low))
    return f"{value} ({low}–{share(row.ci_high)})"


def share(value: float | None) -> str:
    """"71%"; one decimal where it would otherwise look like 0 or 100."""
    return NONE if value is None else f"{number(100 * value, _places(value))}%"


def points(row: Measurement | None) -> str:
    """"−24 points (−37 to −11)", a difference of shares."""
    if row is None or row.value is None:
        return NONE
    size = number(100 * row.value, 0)
    text = f"{size} point{'' if size in ('1', MINUS + '1') else 's'}"
    if row.ci_low is None or row.ci_high is None:
        return text
    return f"{text} ({number(100 * row.ci_low, 0)} to {number(100 * row.ci_high, 0)})"


def _places(value: float) -> int:
    return 1 if 0 < value < 0.005 or 0.995 < value < 1 else 0


def join(names: list[str]) -> str:
    """"a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(count: int, noun: str) -> str:
    """"1 cell", "2 cells"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
