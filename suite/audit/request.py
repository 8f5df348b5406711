"""From what a user typed to a validated plan and an open dataset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from suite.audit.plan import Plan, read_toml
from suite.base import registry
from suite.base.errors import InputError
from suite.base.limits import SMALLEST_GROUP
from suite.core.data import Dataset, Split, fewer
from suite.datasets import cache

DEFAULT_PRESET = "tabular"


def default_preset(data: Sequence[str] | None) -> str:
    """The preset that is named like the package which reads the data: images are audited as images unasked."""
    kind, name = _reader(data[0]) if data else ("datasets", "")
    package = registry.package(kind, name)
    return package if package in registry.names("presets") else DEFAULT_PRESET


def _reader(name: str) -> tuple[Literal["datasets", "readers"], str]:
    """Under which kind and name the registry has what opens this: a data set, or the reader of a file's suffix."""
    path = Path(name)
    if name in registry.names("datasets") or registry.is_file(name) or not (path.suffix or path.is_dir()):
        return "datasets", name
    return "readers", "folder" if path.is_dir() else path.suffix.removeprefix(".").lower()


def read_plan(what: str) -> tuple[dict[str, Any], str]:
    """What a preset or a TOML file says, not looked at yet, and where it is from, for messages.

    Raises:
        InputError: Unknown preset, no such file, no TOML, or one that allows what only the command line may: pickles,
            pictures of real patients, or figures of fewer people than `SMALLEST_GROUP`.
    """
    a_file = what.endswith(".toml") or "/" in what
    raw = read_toml(Path(what) if a_file else registry.load("presets", what))
    if "allow_pickle" in raw:  # who sends a plan must not decide what code runs here
        raise InputError(f"plan {what}: 'allow_pickle' cannot be set in a plan, only on the command line; delete the "
                         "line and pass --allow-pickle if you trust whoever made the model")
    if raw.get("pictures"):  # nor what is kept of the patients here
        raise InputError(f"plan {what}: 'pictures' cannot be set in a plan, only on the command line; delete the line "
                         "and pass --pictures if images of real patients may be kept in the run and its report")
    least = raw.get("smallest_group", SMALLEST_GROUP)
    if not isinstance(least, int) or least < SMALLEST_GROUP:  # a text would become a number only later
        raise InputError(f"plan {what}: 'smallest_group' = {least!r:.20} cannot be set in a plan, only whole numbers "
                         f"of at least {SMALLEST_GROUP}; delete the line and pass --smallest-group N if figures of "
                         "fewer people may be written")
    return raw, what if a_file else f"preset {what}"


def make_plan(what: str | None, flags: dict[str, Any], quick: bool = False, full: bool = False) -> Plan:
    """The plan of a preset or a TOML file, changed by flags.

    Args:
        what: A preset's name, a TOML file, or None for the preset that suits the data.
        flags, quick, full: As of `changed_plan`.

    Raises:
        InputError: Unknown preset, no such file, or a key that is wrong, which the message names.
    """
    return changed_plan(*read_plan(what or default_preset(flags.get("data"))), flags, quick, full)


def changed_plan(raw: dict[str, Any], where: str, flags: dict[str, Any], quick: bool = False,
                 full: bool = False) -> Plan:
    """A plan as it was read, changed by flags.

    Args:
        raw, where: As of `read_plan`.
        flags: Keys of `suite.audit.plan.Plan` that were given on the command line; None means not given. Lists of
            models, attacks, defenses and detectors replace the plan's.
        quick: Few rows, one budget, and no defenses but those asked for by name.
        full: With what the plan marks as `full`, which the first stage leaves out unless it is asked for by name.

    Raises:
        InputError: A key is wrong, which the message names.
    """
    given = {k: v for k, v in flags.items() if v is not None}
    for kind in ("models", "attacks", "defenses", "detectors"):
        if kind in given:
            given[kind] = [item for name in given[kind] for item in _called(name, raw.get(kind))]
    for section in given.keys() & {"table", "images"}:
        if isinstance(there := raw.get(section, {}), dict):
            given[section] = there | given[section]
    wanted, later = raw | given, []
    if "later" in raw:
        raise InputError(f"{where}: later: mark the items themselves with full = true")
    for kind in () if full else ("attacks", "defenses", "detectors"):
        if kind not in given and isinstance(items := wanted.get(kind), list):
            wanted[kind] = [item for item in items if not _waits(item)]
            later += [_name(item) for item in items if _waits(item)]
    wanted["later"] = list(dict.fromkeys(later))
    if given.get("data"):  # the plan's heading speaks of the plan's data
        wanted["title"] = f"Security audit: {Path(given['data'][0]).stem}"
    if "models" in given:
        for kind in ("attacks", "defenses", "detectors"):
            wanted[kind] = _only_for("models", given["models"], wanted.get(kind), kind in given)
    if quick and "defenses" not in given:
        given["defenses"] = wanted["defenses"] = []
    if (later or given.keys() & {"models", "defenses"}) and isinstance(left := wanted.get("defenses", []), list):
        for kind in ("attacks", "detectors"):
            wanted[kind] = _only_for("defenses", ["none", *left], wanted.get(kind), kind in given)
    plan = Plan.check(wanted, where, given)
    return plan.quick() if quick else plan


def _waits(item: Any) -> bool:
    """Whether an item of a plan is one for `--full` only."""
    return isinstance(item, dict) and item.get("full") is True


def _name(item: Any) -> str:
    return item.get("name", "") if isinstance(item, dict) else str(item)


def _called(name: str, items: Any) -> list[Any]:
    """The plan's items of that name, with their hyper-parameters; the name alone where it has none."""
    return [item for item in items if _name(item) == name] or [name] if isinstance(items, list) else [name]


def _only_for(key: Literal["models", "defenses"], there: list[Any], items: Any, asked: bool) -> Any:
    """The items that can still be used when only some models or defenses are `there`.

    An item that was `asked` for by name is kept in any case, then without its restriction. What is no list of items
    is left for the plan to reject.
    """
    if not isinstance(items, list):
        return items or []
    out, there = [], [_name(item) for item in there]
    for item in items:
        wanted = item.get(key) if isinstance(item, dict) else None
        if not isinstance(wanted, list):
            out.append(item)
        elif left := [name for name in wanted if name in there]:
            out.append(item | {key: left})
        elif asked:
            out.append({k: v for k, v in item.items() if k != key})
    return out


def open_data(plan: Plan) -> tuple[Dataset, str]:
    """The first dataset of the plan that is available, and a line that says which it is and why.

    Raises:
        InputError: An unknown name, or data that is there and wrong; or rows that cannot be dealt out to the hospitals
            of the plan.
    """
    data, why = cache.first_available({name: partial(opened, name, plan) for name in plan.data})
    if plan.hospitals is None:
        return data, why
    partition = registry.make("partitions", plan.hospitals.name, plan.hospitals.params)
    return partition.deal(fewer(data, plan.train_rows, plan.seed), plan.seed), why


def opened(name: str, plan: Plan) -> Dataset:
    """A registered dataset, `FILE.py:OBJECT`, or the user's own file or folder, by the reader for its suffix.

    Raises:
        InputError: No such dataset, or no reader for such a file; or what is read is wrong, in one line.
    """
    for file in (name, plan.table.schema_file, plan.table.test, plan.images.labels):
        if file is not None and any("\udc80" <= sign <= "\udcff" for sign in str(file)):  # bytes that are no UTF-8
            raise InputError(f"data {ascii(str(file))[1:-1]}: its name is not UTF-8 text, which a report could not "
                             "show; rename it")
    path, readers = Path(name), registry.names("readers")
    if name in readers:
        raise InputError(f"data {name}: give the {'folder' if name == 'folder' else 'file'} itself, for example --data "
                         + {"csv": "patients.csv --target COLUMN", "folder": "scans/"}.get(name, f"scans.{name}"))
    kind, reader = _reader(name)
    if kind == "datasets":
        try:
            builder = registry.load("datasets", name)
        except InputError as e:
            known = name in registry.names("datasets") or registry.is_file(name)
            raise InputError(str(e) if known else f"{e}; there is no such file or folder either") from None
        data = _build(name, builder, plan)
        if registry.is_file(name):
            for split in (data.train, data.val, data.test):
                _check_range(name, split)
        return data
    if reader not in readers:
        known = ", ".join(f".{suffix}" for suffix in readers if suffix != "folder")
        raise InputError(f"data {name}: no reader for .{reader} files; give a file ({known}), a folder of images, or a "
                         "name (`medsec list datasets` shows all)")
    return _build(name, registry.load("readers", reader), plan, path)


def _build(name: str, builder: Callable[..., Any], plan: Plan, *path: Path) -> Dataset:
    """Call a builder or reader with those sections of the plan that it takes."""
    takes = inspect.signature(builder).parameters
    said = plan.images.said.keys() - {"positive", "patient"}  # which tables have, too
    if "images" not in takes and said:
        raise InputError(f"data {name}: is no image set, so that '{min(said)}' means nothing")
    for key in ("split", "test"):
        if "table" not in takes and getattr(plan.table, key) is not None:
            raise InputError(f"data {name}: is no CSV file of yours and has a split of its own, so that '{key}' means "
                             "nothing")
    data = builder(*path, **{section: getattr(plan, section) for section in ("table", "images") if section in takes})
    if not isinstance(data, Dataset):
        raise InputError(f"data {name}: returns {type(data).__name__}, not a Dataset")
    return data


def _check_range(name: str, split: Split) -> None:
    """`InputError` where the user's own program returns inputs that are none."""
    import torch

    bad = ~split.space.possible(torch.from_numpy(split.x))
    if bad.any():
        row = int(bad.nonzero()[0])
        low, high = split.x.min(), split.x.max()
        lower, upper = split.space.lower.min(), split.space.upper.max()
        hint = "; divide by 255" if (lower, upper) == (0, 1) and low >= 0 and 1 < high <= 255 else ""
        raise InputError(f"data {name}: row {split.rows[row]} is no possible {split.space.noun}: values go from "
                         f"{low:g} to {high:g}, and they may go from {lower:g} to {upper:g}{hint}")
