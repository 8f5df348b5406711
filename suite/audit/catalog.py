"""What there is to use, for `medsec list`: read from a file beside each package, so that nothing heavy is imported.

`catalog.json` in a package's folder says of each of its entry points what `described` says; `python -m
suite.audit.catalog` writes the files again (`make catalog`), and a test holds them against the code. Entries of other
distributions are imported and asked.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.audit.plan import read_toml
from suite.base import registry

if TYPE_CHECKING:
    from suite.base.info import Info

FILE = "catalog.json"
Entry = dict[str, Any]


def entries(kind: registry.Kind) -> list[Entry]:
    """What is known of each registered thing of a kind, without importing it where a file tells."""
    return [stored(registry.package(kind, name)).get(f"{kind}/{name}") or described(kind, name)
            for name in registry.names(kind)]


@cache
def stored(package: str) -> dict[str, Entry]:
    """The file of a package: `kind/name` -> entry; empty where there is none."""
    file = _file(package)
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


def described(kind: registry.Kind, name: str) -> Entry:
    """What the code says of a registered thing, as JSON values: name, title, papers, hyper-parameters."""
    found = registry.load(kind, name)
    if kind == "presets":
        return {"name": name, "title": read_toml(found)["title"]}
    if kind in ("datasets", "readers"):
        return {"name": name, "description": (found.__doc__ or "").strip().splitlines()[0]}
    from suite.base import threats

    info = found.info
    row: Entry = {"name": name, "title": info.title}
    if kind == "attacks":
        row |= {"knowledge": info.knowledge, "needs": found.needs, "strong": _strong(info),
                "threat ids": threats.ids(info.threats)}
    row |= {"cost": info.cost, "paper": info.paper, "departs": info.departs}
    kept = [f for f in fields(found) if f.init]
    return json.loads(json.dumps(row | {"parameters": {f.name: text(getattr(found, f.name, None)) for f in kept}}))


def _strong(info: Info) -> str:
    """Whether the failure of an attack means something, and from what effort on; empty where it does not."""
    least = " from {} = {:g}".format(*info.strong_from) if info.strong_from else ""
    return f"strong{least}" if info.strong else ""


def text(value: Any) -> str:
    """A value for people."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def packages() -> dict[str, dict[str, Entry]]:
    """What each file should hold, by package: those that have a file, and those of this distribution."""
    out: dict[str, dict[str, Entry]] = {}
    for kind in registry.KINDS:
        for name in registry.names(kind):
            if registry.distribution(kind, name) == registry.distribution("defenses", "none"):
                out.setdefault(registry.package(kind, name), {})[f"{kind}/{name}"] = described(kind, name)
    return out


def _file(package: str) -> Path | None:
    spec = importlib.util.find_spec(package) if package else None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) / FILE if folders else None


def main() -> None:
    """Write the files again."""
    for package, found in packages().items():
        file = _file(package)
        file.write_text(json.dumps(found, indent=0, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{file.parent.name}/{file.name}: {len(found)} entries")


if __name__ == "__main__":
    main()
