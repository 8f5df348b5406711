"""From what a user typed to a validated plan and an open dataset."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from suite import cache, registry
from suite.data import Dataset
from suite.errors import InputError
from suite.plan import Plan, read_toml

DEFAULT_PRESET = "tabular"


def make_plan(what: str | None, flags: dict[str, Any], quick: bool = False) -> Plan:
    """The plan of a preset or a TOML file, changed by flags.

    Args:
        what: A preset's name, a TOML file, or None for the default preset.
        flags: Keys of `suite.plan.Plan` that were given on the command line; None means not given. Lists of models,
            attacks and defenses replace the plan's.
        quick: Few rows, one budget.

    Raises:
        InputError: Unknown preset, no such file, or a key that is wrong, which the message names.
    """
    what = what or DEFAULT_PRESET
    path = Path(what) if what.endswith(".toml") or "/" in what else registry.load("presets", what)
    raw = read_toml(path)
    given = {k: v for k, v in flags.items() if v is not None}
    for kind in ("models", "attacks", "defenses"):
        if kind in given:
            known = {_name(item): item for item in raw.get(kind, [])}
            given[kind] = [known.get(name, name) for name in given[kind]]
    if "models" in given:
        for kind in ("attacks", "defenses"):
            raw[kind] = _only_for([_name(m) for m in given["models"]], given.pop(kind, raw.get(kind, [])))
    if "table" in given:
        given["table"] = raw.get("table", {}) | given["table"]
    plan = Plan.check(raw | given, "command line" if given else str(path))
    return plan.quick() if quick else plan


def _name(item: Any) -> str:
    return item.get("name", "") if isinstance(item, dict) else str(item)


def _only_for(models: list[str], items: list[Any]) -> list[Any]:
    """The items that can still be used with some models, and their restrictions without the others."""
    out = []
    for item in items:
        wanted = item.get("models") if isinstance(item, dict) else None
        if wanted is None:
            out.append(item)
        elif left := [m for m in wanted if m in models]:
            out.append(item | {"models": left})
    return out


def open_data(plan: Plan) -> tuple[Dataset, str]:
    """The first dataset of the plan that is available, and a line that says which it is and why.

    Raises:
        InputError: An unknown name, or data that is there and wrong.
    """
    return cache.first_available({name: partial(opened, name, plan) for name in plan.data})


def opened(name: str, plan: Plan) -> Dataset:
    """A registered dataset, `FILE.py:OBJECT`, or a file, which is read by the dataset registered for its suffix."""
    path = Path(name)
    if registry.is_file(name) or not path.suffix:
        return registry.load("datasets", name)()
    reader = path.suffix.removeprefix(".").lower()
    if reader not in registry.names("datasets"):
        known = ", ".join(n for n in registry.names("datasets") if n != "csv")
        raise InputError(f"data {name}: no reader for .{reader} files; give a .csv file, or a name ({known})")
    if plan.table.target is None:
        raise InputError(f"data {name}: say which column to predict with --target COLUMN")
    table = {k: v for k, v in dict(plan.table).items() if k not in ("target", "schema_file")}
    return registry.load("datasets", reader)(path, plan.table.target, plan.table.schema_file, **table)
