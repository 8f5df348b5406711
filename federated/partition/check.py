"""Whether the data of hospitals fit together, before they train one model."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from federated.core.site import Site
from suite.base.errors import InputError
from suite.datasets.csv import listed

FAR = 4.0
"""A hospital's median is suspicious when it lies more standard deviations than this from the others': cholesterol in
mmol/L and in mg/dL, or zeros for what was not measured, lie further, and real hospitals do not."""

CODES = 10
"""A column of at most this many different values holds codes or small counts, which have no unit to be wrong."""


def check_sites(sites: Sequence[Site]) -> list[str]:
    """Refuse hospitals that cannot train together, and say what is suspicious about those that can.

    Returns:
        Lines for: hospitals with one class only, or without validation or test rows; columns of a table whose median
        (of the training rows) at a hospital is no possible value, or lies far from that of the others, which may be
        another unit or a code for missing, or which have one value only there; inputs that several hospitals hold, as
        they would of one patient who was at both, in whatever split.

    Raises:
        InputError: No hospital, two of one name, one without training rows; or one whose inputs have another shape,
            other columns, units or bounds, or which lists other classes than the first.
    """
    if not sites:
        raise InputError("a federation needs at least one hospital")
    seen: set[str] = set()
    for site in sites:
        if site.name in seen:
            raise InputError(f"two hospitals are named '{site.name}'")
        seen.add(site.name)
        if not len(site.train):
            raise InputError(f"hospital '{site.name}' has no training rows")
        if difference := _difference(site, sites[0]):
            raise InputError(f"hospital '{site.name}' has {difference}, unlike '{sites[0].name}'")
    return _gaps(sites) + _odd_columns(sites) + _held_twice(sites)


def _difference(site: Site, first: Site) -> str:
    """What keeps two hospitals from training together, as of the first of them; empty if nothing does."""
    a, b = site.train, first.train
    if a.classes != b.classes:
        return f"the classes {', '.join(a.classes)} instead of {', '.join(b.classes)}"
    if site.features != first.features:
        lacking, more = ([f for f in one if f not in other] for one, other in
                         ((first.features, site.features), (site.features, first.features)))
        parts = [f"no column {', '.join(lacking)}"] * bool(lacking) + [f"a column {', '.join(more)}"] * bool(more)
        return " and ".join(parts) or f"its columns in another order, {', '.join(site.features)}"
    if a.x.shape[1:] != b.x.shape[1:]:
        return f"inputs of shape {a.x.shape[1:]} instead of {b.x.shape[1:]}"
    if type(a.space) is not type(b.space):
        return f"inputs of {type(a.space).__name__} instead of {type(b.space).__name__}"
    schema, other = (getattr(split.space, "schema", None) for split in (a, b))
    if schema != other:
        for name, column in schema.columns.items():
            for key, value in column:
                if value != (wanted := getattr(other.columns[name], key)):
                    return f"column '{name}' with {key} {value!r} instead of {wanted!r}"
        return "other relations between its columns"
    for what in ("lower", "upper", "scale"):
        here, there = (np.broadcast_to(getattr(split.space, what), a.x.shape[1:]) for split in (a, b))
        if (here != there).any():
            at = tuple(np.argwhere(here != there)[0].tolist())
            return f"{_column(site, at)} with {what} {here[at]:g} instead of {there[at]:g}"
    return ""


def _column(site: Site, at: tuple[int, ...]) -> str:
    return f"column '{site.features[at[0]]}'" if site.features else f"input {', '.join(map(str, at))}"


def _gaps(sites: Sequence[Site]) -> list[str]:
    lines = []
    for site in sites:
        present = np.unique(site.train.y)
        if len(present) == 1:
            lines.append(f"hospital '{site.name}': all {len(site.train)} training rows are of class "
                         f"'{site.train.classes[present[0]]}'")
    for noun, part in (("validation", "val"), ("test", "test")):
        if empty := [site.name for site in sites if not len(getattr(site, part))]:
            lines.append(f"no {noun} rows at {listed(empty)}")
    return lines


def _odd_columns(sites: Sequence[Site]) -> list[str]:
    """Columns that may be in another unit, or were not measured. Each hospital is held against the other half of them
    that is nearest to it, so that the few odd ones do not make the others look odd; work is linear in the rows."""
    if sites[0].train.x.ndim != 2:
        return []
    lower, upper = (np.broadcast_to(bound, sites[0].train.x.shape[1:])
                    for bound in (sites[0].train.space.lower, sites[0].train.space.upper))
    medians = np.stack([np.median(site.train.x, 0) for site in sites])
    spreads = np.stack([site.train.x.std(0, dtype=np.float64) for site in sites])
    measured = [len(np.unique(column)) > CODES for column in np.concatenate([site.train.x for site in sites]).T]
    lines = []
    for k, site in enumerate(sites):
        rest = np.arange(len(sites)) != k if len(sites) > 1 else [k]
        theirs, their_spreads = np.median(medians[rest], 0), np.median(spreads[rest], 0)
        away = np.quantile(abs(medians[rest] - medians[k]), 0.5, axis=0, method="lower")
        for j in range(len(lower)):
            here, where = medians[k, j], f"hospital '{site.name}': {_column(site, (j,))} has"
            # the smaller spread, as a unit of larger numbers spreads more; unless all were filled in alike
            small, large = sorted((spreads[k, j], their_spreads[j]))
            if not lower[j] <= here <= upper[j]:
                lines.append(f"{where} the median {here:g}, outside its bounds {lower[j]:g} to {upper[j]:g}; is it in "
                             "another unit?")
            # of two, each is far from the other, and one line is enough
            elif measured[j] and away[j] > FAR * (small or large) and not (len(sites) == 2 and k):
                lines.append(f"{where} the median {here:g}, the other hospitals' is {theirs[j]:g}; is it in another "
                             "unit?")
            elif measured[j] and spreads[k, j] == 0:
                lines.append(f"{where} the value {here:g} in all training rows; was it not measured there?")
    return lines


def _held_twice(sites: Sequence[Site]) -> list[str]:
    holders: dict[bytes, dict[str, int]] = {}
    for site in sites:
        for split in (site.train, site.val, site.test):
            for x, row in zip(split.x, split.rows.tolist(), strict=True):
                holders.setdefault(blake2b(x.tobytes(), digest_size=16).digest(), {}).setdefault(site.name, row)
    shared = [where for where in holders.values() if len(where) > 1]
    if not shared:
        return []
    (a, row), (b, other) = list(shared[0].items())[:2]
    return [f"{len(shared)} different inputs are held by more than one hospital, as of one patient who was at both; "
            f"the first is row {row} of '{a}' and row {other} of '{b}'"]
