"""Finding datasets, readers, models, attacks, defenses, detectors and parts of federations by name, by entry points.

A package offers its own in its `pyproject.toml`::

    [project.entry-points."medsec.attacks"]
    my-attack = "my_package.attacks:MyAttack"

and `path/to/file.py:Object` works wherever a name does. An entry is a frozen dataclass (attacks, models, defenses), an
instance of one (a variant with other defaults), or for datasets a function `(path=None, seed=0) -> Dataset`. A reader
opens files of the user's own, `(path) -> Dataset`; its name is their suffix, or "folder". Datasets and readers are also
given the plan's `table` and `images`, where they have parameters of these names. A partition deals a dataset's rows out
to hospitals, and an aggregation joins what they send: see `federated.partition.sites` and
    `federated.aggregation.aggregate`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from suite.base.errors import InputError

Kind = Literal["presets", "datasets", "readers", "partitions", "models", "attacks", "defenses", "detectors",
               "aggregations"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {e.name: e for e in sorted(entry_points(group=f"medsec.{kind}"), key=lambda e: e.name)}


def names(kind: Kind) -> list[str]:
    """All registered names of a kind, without importing anything."""
    return list(_entries(kind))


def package(kind: Kind, name: str) -> str:
    """The top package of what a name stands for, without importing it; empty for an unknown name."""
    entry = _entries(kind).get(name)
    return entry.module.partition(".")[0] if entry else ""


def distribution(kind: Kind, name: str) -> str:
    """The installed distribution that offers a name; empty for an unknown one."""
    entry = _entries(kind).get(name)
    return entry.dist.name if entry and entry.dist else ""


def is_file(name: str) -> bool:
    """Whether a name is of the form `path/to/file.py:Object`."""
    return ".py:" in name


@cache
def load(kind: Kind, name: str) -> Any:
    """The object behind a name.

    Raises:
        InputError: Unknown name (the nearest one is suggested), or a file or object that is not there.
    """
    if is_file(name):
        return _from_file(kind, name)
    if entry := _entries(kind).get(name):
        try:
            return entry.load()
        except (ImportError, AttributeError) as e:
            raise InputError(f"{kind[:-1]} '{name}' cannot be loaded from {entry.value}: {e}") from e
    near = difflib.get_close_matches(name, _entries(kind), 1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(f"unknown {kind[:-1]} '{name}'{hint} (`medsec list {kind}` shows all)")


def make(kind: Kind, name: str, params: dict[str, Any] | None = None) -> Any:
    """The attack, model, defense or detector of a name, with these hyper-parameters instead of its defaults.

    Raises:
        InputError: As `load`; or a hyper-parameter that does not exist or has the wrong type, which the message names.
    """
    found, params = load(kind, name), dict(params or {})
    if not dataclasses.is_dataclass(found):
        raise InputError(f"{kind[:-1]} '{name}' is not a dataclass")
    if not isinstance(found, type):  # a ready-made instance: its values are the defaults
        params = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.init} | params
        found = type(found)
    known = [f.name for f in dataclasses.fields(found) if f.init]
    for key in params:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise InputError(f"{kind[:-1]} '{name}' has no parameter '{key}'"
                             + (f"; did you mean '{near[0]}'?" if near else f" (it has: {', '.join(known)})"))
    try:
        return TypeAdapter(found).validate_python(params)
    except ValidationError as e:
        first = e.errors()[0]
        where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        got = f", got {first['input']!r:.40}" if first["loc"] else ""
        raise InputError(f"{kind[:-1]} '{name}': {where}{first['msg'].removeprefix('Value error, ')}{got}") from None


def _from_file(kind: Kind, name: str) -> Any:
    path, _, attribute = name.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{kind[:-1]} '{name}': no file {path}")
    # files of one stem in two folders are two modules
    place = hashlib.sha256(str(file.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"medsec_user_{file.stem}_{place}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:
        raise InputError(f"{kind[:-1]} '{name}': {path} fails on import: {type(e).__name__}: {e}") from e
    if not hasattr(module, attribute):
        raise InputError(f"{kind[:-1]} '{name}': {path} defines no {attribute}")
    return getattr(module, attribute)
