"""The page: everything that the template shows, and the template."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from suite import threats
from suite.measurement import Measurement
from suite.report import figures, pictures
from suite.report.findings import LEVELS, THRESHOLDS, TOPICS, Finding, findings
from suite.report.rows import Rows
from suite.report.sections import (
    catalog,
    clean,
    defenses,
    detection,
    federation,
    hostile,
    membership,
    privacy,
    robustness,
)
from suite.report.show import join, plural, share

HERE = Path(__file__).parent
SECTIONS = {"errors": "errors", "trust": "robustness", "evasion": "robustness", "natural changes": "robustness",
            "detection": "detection", "performance": "performance", "subgroups": "groups", "poisoning": "poisoning",
            "backdoor": "poisoning", "defense": "defenses", "privacy budget": "epsilon", "membership": "membership",
            "attribute": "attribute", "inversion": "inversion", "reconstruction": "reconstruction",
            "extraction": "extraction", "hostile hospitals": "federation", "curious server": "federation",
            "rebuilt patients": "federation", "taking part": "hospitals"}
"""Topic of a finding -> id of the section with its numbers."""


def render(rows: list[Measurement], manifest: dict[str, Any], arrays: pictures.Arrays = lambda _: {}) -> str:
    """The report as HTML.

    Args:
        rows: `Run.rows()`.
        manifest: `Run.manifest`.
        arrays: `Run.arrays`: where cells kept pictures.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              undefined=StrictUndefined)
    environment.filters |= {"svg": Markup, "share": share, "plural": plural}
    table, found = Rows(rows, manifest), findings(rows, manifest)
    return environment.get_template("template.html.j2").render(
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")), m=manifest, rows=table,
        synthetic=manifest.get("provenance", {}).get("synthetic") or any(r.synthetic for r in rows),
        findings=merged(found), levels=LEVELS, section=SECTIONS,
        thresholds={topic: t for topic, t in THRESHOLDS.items() if any(f.topic == topic for f in found)},
        matrix=matrix(table, found),
        verdict=verdict(table, found), figures=figures, clean=clean, robust=robustness, defenses=defenses,
        privacy=privacy, membership=membership, detection=detection, federation=federation, hostile=hostile,
        catalog=catalog, threats=threats, arrays=arrays,
        examples=pictures.examples(table, arrays), patterns=pictures.patterns(table, arrays),
        rebuilt=pictures.rebuilt(table, arrays))


@dataclass(frozen=True)
class Mark:
    """One field of the overview: the worst finding of a model on a topic."""

    level: str
    figure: str
    anchor: str


def matrix(rows: Rows, found: list[Finding]) -> tuple[list[str], dict[str, list[Mark | None]]]:
    """The overview of the undefended models: topics, and the marks of each model."""
    own = [f for f in found if f.defense == "none" and f.topic in THRESHOLDS]
    topics = [t for t in TOPICS if any(f.topic == t for f in own)]

    def mark(model: str, topic: str) -> Mark | None:
        worst = next((f for f in own if (f.model, f.topic) == (model, topic)), None)
        return Mark(worst.level, worst.figure, SECTIONS[topic]) if worst else None

    return topics, {model: [mark(model, topic) for topic in topics] for model in rows.models}


def merged(found: list[Finding]) -> list[Finding]:
    """Findings that say the same of several models, as one."""
    same: dict[tuple[str, ...], list[Finding]] = {}
    for f in found:
        same.setdefault((f.level, f.topic, f.defense, f.text), []).append(f)
    return [replace(group[0], model=join([f.model for f in group])) for group in same.values()]


def verdict(rows: Rows, found: list[Finding]) -> list[str]:
    """The first sentences of the report."""
    out, own = [], [f for f in found if f.defense == "none" and f.topic in THRESHOLDS]
    fooled = [f for f in own if f.topic == "evasion"]
    if fooled:
        low, high = (by(fooled, key=lambda f: f.weight).figure for by in (min, max))
        on = low if low == high else f"{low} to {high}"
        out.append(f"Changes within {rows.voice.within(rows.eps)} mislead the undefended models on {on} of "
                   f"the {rows.cases} that they judge rightly without an attack.")
    for level in ("high", "medium"):
        models = {t: {f.model for f in own if (f.level, f.topic) == (level, t)} for t in TOPICS}
        listed = [f"{t} ({len(m)} of {plural(len(rows.models), 'model')})" for t, m in models.items() if m]
        if listed:
            out.append(f"Rated {level} without a defense: {join(listed)}.")
    if not any(f.level in ("high", "medium", "error") for f in found):
        out.append("Nothing that was tried exceeds the thresholds below. That is no proof of safety: it covers these "
                   f"attacks, these budgets and these {rows.cases} only.")
    helped = [f"{f.defense} on {f.model}" for f in found
              if (f.topic, f.level) == ("defense", "good") and "Buys " in f.text]
    tried = {(f.model, f.defense) for f in found if f.topic == "defense" and f.defense != "none"}
    if helped:
        out.append(f"Clear gains without clear costs: {join(helped)}.")
    elif tried:
        out.append(f"Of {plural(len(tried), 'defended model')}, none shows a clear gain without a clear cost: at this "
                   f"number of {rows.cases} the differences lie within their intervals, or something was paid for "
                   "them.")
    if rows.errors:
        out.append(f"{plural(len(rows.errors), 'cell')} of the plan failed; nothing is known there.")
    return out
