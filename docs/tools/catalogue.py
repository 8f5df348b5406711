"""Pages of the catalogue, from what `medsec list --json` says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import commands

Entry = dict[str, Any]

PAGES = {
    "attacks": ("Attacks", ("attacks",), "What an attacker does, what must be known for it, and what it costs."),
    "defenses": ("Defenses", ("defenses",), "Ways to train a model, or to wrap a trained one. Each composes with each "
                                            "attack that applies."),
    "detectors": ("Detectors", ("detectors",), "What looks for adversarial inputs."),
    "models": ("Models", ("models",), "What can be trained by name."),
    "data": ("Data sets and readers", ("datasets", "readers"), "Data sets by name, and readers of your own files."),
    "federations": ("Federations", ("aggregations", "partitions"), "How a server aggregates updates, and how rows are "
                                                                   "partitioned between hospitals."),
    "presets": ("Presets", ("presets",), "Plans that come with the package: `medsec audit NAME`, and for those of "
                                         "federations `medsec federate NAME`."),
    "threats": ("Threats", ("threats",), "The kinds of attack, and what catalogues of regulators call them."),
}
LABELS = {"knowledge": "Access", "needs": "Requires", "strong": "Strong", "threat ids": "Threat ids", "cost": "Cost",
          "paper": "Paper", "departs": "Departs from the paper", "parameters": "Parameters",
          "description": "", "meaning": ""}
"""Headings of the fields, in the order in which they are shown; a field that is not here comes last under its name."""
NAMED = ("name", "title")
FAMILIES = {"AML.T0015": "Evasion", "AML.T0020": "Poisoning", "AML.T0018.000": "Backdoor",
            "AML.T0024.000": "Membership inference", "AML.T0024.001": "Attribute inference and inversion",
            "AML.T0024.002": "Model extraction", "AML.T0024": "Property inference"}
"""MITRE ATLAS id -> heading of a family of attacks; the first of an attack's ids that is here decides."""
OTHERS = "Others"


def pages() -> dict[str, str]:
    """`reference/NAME.md` -> text."""
    listed = json.loads(commands.output("list", "--json"))
    return {f"reference/{name}.md": page(title, about, {kind: listed[kind] for kind in kinds})
            for name, (title, kinds, about) in PAGES.items()}


def page(title: str, about: str, kinds: dict[str, Sequence[Entry]]) -> str:
    """One page: a table of all entries, then each in full."""
    out = [f"# {title}\n", about + "\n"]
    for kind, entries in kinds.items():
        command = f"medsec list {kind}" if kind != "presets" else "medsec list --json"
        out += [f"## {kind.capitalize()}\n" if len(kinds) > 1 else "", f"Made from `{command}`.\n"]
        plain = not any(entry.keys() & {"paper", "parameters"} for entry in entries)
        if plain:
            out.append(table(entries))
        else:
            out += [f"{'#' * (2 + (len(kinds) > 1))} {family}\n\n" * (family != "") + short(chosen)
                    for family, chosen in families(entries).items()]
            out += [f"{'#' * (2 + (len(kinds) > 1))} {kind.capitalize()} in full\n", *map(full, entries)]
    return "\n".join(out)


def families(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Attacks by family; all in one, without a name, where entries say nothing of threats."""
    if not any("threat ids" in entry for entry in entries):
        return {"": list(entries)}
    out: dict[str, list[Entry]] = {family: [] for family in [*FAMILIES.values(), OTHERS]}
    for entry in entries:
        found = [FAMILIES[i] for i in entry["threat ids"] if i in FAMILIES]
        out[found[0] if found else OTHERS].append(entry)
    return {family: chosen for family, chosen in out.items() if chosen}


def short(entries: Sequence[Entry]) -> str:
    """A table that fits a screen: name, title, access, cost."""
    access = any(entry.get("knowledge") for entry in entries)
    head = ["name", "title", *(["access"] if access else []), "cost"]
    rows = [[f"[`{e['name']}`](#{e['name']})", cell(e.get("title")), *([cell(e.get("knowledge"))] if access else []),
             cell(e.get("cost"))] for e in entries]
    return _markdown(head, rows)


def table(entries: Sequence[Entry]) -> str:
    """All fields of entries that have few."""
    fields = list(dict.fromkeys(key for entry in entries for key in entry))
    return _markdown(fields, [[f"`{e[k]}`" if k == "name" else cell(e.get(k)) for k in fields] for e in entries])


def full(entry: Entry) -> str:
    """One entry with everything that is known of it."""
    lines = [f"#### `{entry['name']}` {entry.get('title', '')} {{ #{entry['name']} }}\n"]
    for key in [*(k for k in LABELS if k in entry), *(k for k in entry if k not in LABELS and k not in NAMED)]:
        value = entry[key]
        if key == "parameters":
            value = ", ".join(f"`{name} = {default}`" for name, default in value.items()) or "none"
        if value not in ("", [], None):
            label = LABELS.get(key, key.capitalize())
            lines.append(f"{f'*{label}:* ' if label else ''}{cell(value)}  ")
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, dict):
        value = ", ".join(f"{k} = {v}" for k, v in value.items())
    return str(value or "").replace("|", r"\|").replace("\n", " ")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return long("\n".join("| " + " | ".join(line) + " |" for line in lines))


def long(table: str) -> str:
    """A table whose last column holds sentences, which needs room on a telephone."""
    return f'<div class="long" markdown>\n\n{table}\n\n</div>\n'
