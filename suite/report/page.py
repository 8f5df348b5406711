"""The page: everything that the template shows, and the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from suite.base import threats
from suite.report.figures import charts as figures
from suite.report.figures import pictures
from suite.report.findings import LEVELS, THRESHOLDS, TOPICS, Finding
from suite.report.rows import Rows
from suite.report.rules.every import checks, findings
from suite.report.rules.verdict import verdict
from suite.report.sections import (
    catalog,
    clean,
    defenses,
    detection,
    federation,
    hostile,
    membership,
    patients,
    privacy,
    robustness,
)
from suite.report.show import join, plural, share
from suite.results.measurement import Measurement

HERE = Path(__file__).parent
SECTIONS = {"errors": "errors", "trust": "robustness", "evasion": "robustness", "natural changes": "robustness",
            "coverage": "untested", "performance": "performance", "subgroups": "groups", "poisoning": "poisoning",
            "backdoor": "poisoning", "defense": "defenses", "privacy budget": "epsilon", "membership": "membership",
            "single patients": "patients", "attribute": "attribute", "inversion": "inversion",
            "reconstruction": "reconstruction",
            "extraction": "extraction", "hostile hospitals": "federation", "curious server": "federation",
            "rebuilt patients": "federation", "taking part": "hospitals"}
"""Topic of a finding -> id of the section with its numbers."""


def render(rows: list[Measurement], manifest: dict[str, Any], arrays: pictures.Arrays = lambda _: {},
           unfinished: Sequence[str] = ()) -> str:
    """The report as HTML.

    Args:
        rows: `Run.rows()`.
        manifest: `Run.manifest`.
        arrays: `Run.arrays`: where cells kept pictures.
        unfinished: `Run.missing()`.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              undefined=StrictUndefined)
    environment.filters |= {"svg": Markup, "share": share, "plural": plural}
    table, found = Rows(rows, manifest), findings(rows, manifest)
    return environment.get_template("template.html.j2").render(
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")), m=manifest, rows=table,
        unfinished=unfinished,
        synthetic=manifest.get("provenance", {}).get("synthetic") or any(r.synthetic for r in rows),
        findings=merged(found), levels=LEVELS, section=SECTIONS,
        thresholds={topic: t for topic, t in THRESHOLDS.items() if any(f.topic == topic for f in found)},
        matrix=matrix(table, found),
        verdict=verdict(table, found), trust=checks(rows, manifest), figures=figures, clean=clean, robust=robustness,
        defenses=defenses, privacy=privacy, membership=membership, patients=patients, detection=detection,
        federation=federation, hostile=hostile, catalog=catalog, threats=threats, arrays=arrays,
        examples=pictures.examples(table, arrays), patterns=pictures.patterns(table, arrays),
        rebuilt=pictures.rebuilt(table, arrays))


@dataclass(frozen=True)
class Mark:
    """One field of the overview: the worst finding of a model on a topic."""

    level: str
    figure: str
    anchor: str


def matrix(rows: Rows, found: list[Finding]) -> tuple[list[str], dict[str, list[Mark | None]]]:
    """The overview of all that is put to use: topics, and the marks of each model or federation."""
    used = [pair for pair in rows.deployed if any(pair == (f.model, f.defense) for f in found)]
    own = [f for f in found if f.topic in THRESHOLDS and (f.model, f.defense) in used]
    topics = [t for t in TOPICS if any(f.topic == t for f in own)]

    def mark(pair: tuple[str, str], topic: str) -> Mark | None:
        worst = next((f for f in own if (f.model, f.defense, f.topic) == (*pair, topic)), None)
        return Mark(worst.level, worst.figure, SECTIONS[topic]) if worst else None

    return topics, {pair[0] if pair[1] == "none" else f"{pair[0]}, federated by {pair[1]}":
                    [mark(pair, topic) for topic in topics] for pair in used}


def merged(found: list[Finding]) -> list[Finding]:
    """Findings that say the same of several models, as one."""
    same: dict[tuple[str, ...], list[Finding]] = {}
    for f in found:
        same.setdefault((f.level, f.topic, f.defense, f.text, f.command), []).append(f)
    return [replace(group[0], model=join([f.model for f in group])) for group in same.values()]
