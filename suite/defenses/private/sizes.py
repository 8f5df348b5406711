"""What is publicly known of a number of rows or patients, from which a private training takes its steps and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

DECLARED, ROUNDED, AT_EDGE = "declared", "rounded", "rounded at an edge"
"""How a public number of rows or patients is known: given by the user; rounded down from the exact one; or so rounded
that one row or patient more or less would round to another number, so that epsilon does not hold there."""


class PublicSize(NamedTuple):
    """About how many rows or patients are publicly known to be there, and how: `DECLARED`, `ROUNDED` or `AT_EDGE`."""

    number: int
    source: str


def known_size(units: int, declared: int | None, used: Callable[[int], object] = int) -> PublicSize:
    """What is public of a number of rows or patients: as declared, else `public_size`.

    Below 10, and next to each number that is rounded to itself, one row or patient more or less changes what is
    rounded: rate, steps, delta and divisor of the two trainings differ, and no epsilon holds between them.

    Args:
        units: Exact number.
        declared: As the user declares it; None to round the exact one.
        used: What the mechanism takes from the public number, where that is not the number itself.

    >>> known_size(74, None).source, known_size(79, None).source, known_size(79, 80).source
    ('rounded', 'rounded at an edge', 'declared')
    """
    if declared is not None:
        return PublicSize(declared, DECLARED)
    near = {used(public_size(n)) for n in (max(units - 1, 0), units, units + 1)}
    return PublicSize(public_size(units), ROUNDED if len(near) == 1 else AT_EDGE)


def public_size(rows: int) -> int:
    """What is taken as publicly known of a number of rows or patients: the largest of 1, 1.5, 2, 3, 4 ... 9 times a
    power of ten that is not above it.

    Sampling rate, number of steps, delta, and what the noisy sum is divided by follow from this number and not from
    the exact one. A patient more or less would change all of these with the exact one, and the noise with them, so that
    the claim for data sets that differ by one patient would not hold (Opacus issue 819).

    >>> [public_size(n) for n in (7, 15, 74, 199, 460)]
    [7, 15, 70, 150, 400]
    """
    power = 10 ** (len(str(rows)) - 1)
    step = power // 2 if 10 <= rows < 2 * power else power
    return rows // step * step
