"""What ran on what: provenance, attacks with their threat ids and papers, and every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from suite.base import threats
from suite.report import known
from suite.report.rows import WORST, Rows
from suite.report.show import NONE, brief, number, plural
from suite.results.measurement import Measurement


def data_card(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the data came from and how it was split."""
    source, splits = manifest.get("provenance", {}), manifest.get("splits", {})
    names = {"name": "dataset", "source": "source", "licence": "licence", "sha256": "SHA-256", "rows": "rows",
             "note": "note"}
    card = {title: str(source[key]) for key, title in names.items() if source.get(key) not in (None, "")}
    own = {k: str(v) for k, v in manifest.get("card", {}).items()}
    if splits and "rows" not in own:  # the cards of tables say how the rows were split
        card["splits"] = ", ".join(f"{n} {name}" for name, n in splits.items())
    return list((card | own).items())


def model_card(rows: Rows) -> list[tuple[str, str]]:
    """What was trained, and behind what."""
    plan = rows.manifest.get("plan", {})
    titles = {i["name"]: i["title"] for kind in ("models", "defenses") for i in plan.get(kind, []) if i.get("title")}
    given = {kind: {i["name"]: ({"use": i["use"]} if i.get("use") else {}) | i.get("params", {})
                    for i in plan.get(kind, [])} for kind in ("models", "defenses")}

    def shown(kind: str, name: str) -> str:
        params = ", ".join(f"{k} = {v}" for k, v in given[kind].get(name, {}).items())
        titled = f"{name}, {titles[name]}" if name in titles else name
        return f"{titled} ({params})" if params else titled

    card = [(shown("models", m), "behind " + (", ".join(shown("defenses", d) for d in rows.defenses(m) if d != "none")
                                            or "no defense")) for m in rows.models]
    return [*card, *((name, ", ".join(named)) for name in ("classes", "features")
                     if (named := rows.manifest.get(name)))]


@dataclass(frozen=True)
class AttackCard:
    """One attack as it ran."""

    name: str
    title: str
    facts: list[tuple[str, str]]


def attack_cards(rows: Rows) -> list[AttackCard]:
    """Every attack of the run, in the order of its first row."""
    first: dict[str, Measurement] = {}
    cells: dict[str, dict[str, None]] = {}
    variants: dict[str, dict[str, None]] = {}
    for row in rows.all:
        if row.attack not in ("", WORST) and "detector" not in row.attack_params:  # these speak of the detector
            first.setdefault(row.attack, row)
            cells.setdefault(row.attack, {})[row.cell] = None
            variants.setdefault(row.attack, {})[known.parameters(row.attack, row.attack_params)] = None
    return [_card(name, row, len(cells[name]), [v for v in variants[name] if v]) for name, row in first.items()]


def _card(name: str, row: Measurement, cells: int, variants: list[str]) -> AttackCard:
    info = known.about(name)
    meaning = [f"{t.title}: {t.meaning}" for key in (info.threats if info else ()) if (t := threats.CATALOG.get(key))]
    params = {k: v for k, v in row.attack_params.items() if k not in ("eps", "budget", "column")}
    facts = {
        "threat": " ".join(meaning), "ids": _ids(row.threat_ids), "attacker knows": row.knowledge,
        "parameters": ", ".join(f"{k} {v}" for k, v in params.items()),
        "differs from defaults": "; ".join(variants), "ran in": plural(cells, "cell"),
        "cost": info.cost if info else "", "paper": info.paper if info else "",
        "departs from it": info.departs if info else ""}
    return AttackCard(name, info.title if info else "not registered here",
                      [(k, v.replace("`", "")) for k, v in facts.items() if v])


def _ids(ids: list[str]) -> str:
    kinds = (("AML.", f"MITRE ATLAS {threats.ATLAS_VERSION}"), ("NISTAML", threats.NIST_EDITION),
             ("ML", "OWASP ML 2023"))
    named: dict[str, list[str]] = {}
    for one in ids:
        kind = next((title for prefix, title in kinds if one.startswith(prefix)), "other")
        named.setdefault(kind, []).append(one)
    return "; ".join(f"{kind}: {', '.join(found)}" for kind, found in named.items())


def all_rows(rows: Rows) -> list[tuple[str, str, list[tuple[str, ...]]]]:
    """(cell, what it cost, lines) with (metric, at, value, low, high, n)."""
    cells: dict[str, list[Measurement]] = {}
    for row in rows.all:
        cells.setdefault(row.cell, []).append(row)
    out = []
    for key, found in cells.items():
        seconds = next((r.value for r in found if r.metric == "cell_seconds"), None)
        lines = [_line(r) for r in found if r.metric != "cell_seconds"]
        out.append((key, f"{len(lines)} rows, {brief(seconds)} s", lines))
    return out


def _line(row: Measurement) -> tuple[str, ...]:
    at = [row.subgroup] if row.subgroup else []
    at += [f"{k} {row.attack_params[k]}" for k in ("eps", "budget", "column", "rate") if k in row.attack_params]
    if row.error:
        return row.metric, ", ".join(at), row.error, "", "", ""
    plain = [NONE if v is None else number(v, 0) if v == int(v) else number(v, 4)
             for v in (row.value, row.ci_low, row.ci_high)]
    return row.metric, ", ".join(at), *plain, str(row.n or "")
