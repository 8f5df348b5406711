"""The first sentences of a report: what follows from the worst findings of all topics, for all that is put to use."""

from __future__ import annotations

from suite.report.findings import THRESHOLDS, TOPICS, Finding, Level
from suite.report.rows import Rows
from suite.report.show import join, plural

SAYS = {"evasion": "{} misclassified", "natural changes": "{} misclassified", "performance": "misses {}",
        "membership": "AUROC {}", "single patients": "{} found almost surely", "curious server": "AUROC {}",
        "extraction": "{} added",
        "rebuilt patients": "{} rebuilt", "reconstruction": "{} rebuilt"}
"""Topic -> what its key figure is."""


def verdict(rows: Rows, found: list[Finding]) -> list[str]:
    """Sentences: failed cells first, then each level with the worst figure of each topic, then what is not known.

    Args:
        rows: Of the run.
        found: `suite.report.judge.every.findings` of them.
    """
    out = []
    if rows.errors:
        out.append(f"{plural(len(rows.errors), 'cell')} of the plan failed: nothing is known there, and nothing has "
                   "passed. What follows covers the rest.")
    out += [sentence for level in ("high", "medium") if (sentence := _rated(level, found))]
    if not any(f.level in ("high", "medium", "error") for f in found):
        out.append("Nothing that was tried exceeds the thresholds below. That is no proof of safety: it covers these "
                   f"attacks, these budgets and these {rows.cases} only.")
    for level, start in (("inconclusive", "Inconclusive, neither a risk shown nor its absence"), ("low", "Low")):
        topics = [f"{topic} ({plural(count, 'result')})" for topic in TOPICS if topic in THRESHOLDS
                  and (count := sum((f.level, f.topic) == (level, topic) for f in found))]
        if topics:
            out.append(f"{start}: {join(topics)}.")
    if untested := [f.text.partition(":")[0] for f in found if f.level == "not tested"]:
        out.append(f"Not tested: {join(list(dict.fromkeys(untested)))}.")
    return out + _defenses(rows, found)


def _rated(level: Level, found: list[Finding]) -> str:
    """"Rated high: evasion (41% misclassified, xgboost; 3 of 4 results) and ..."; empty where nothing is.

    What a defense costs is no risk, and stands in a sentence of its own.
    """
    parts = []
    for topic in TOPICS:
        all_of_it = [f for f in found if f.topic == topic and f.level != "error"]
        rated = [f for f in all_of_it if f.level == level]
        if not rated or (topic == "defense" and level != "high"):
            continue
        worst = max(rated, key=lambda f: f.weight)
        who = worst.model + ("" if worst.defense == "none" else f" behind {worst.defense}")
        said = [SAYS.get(topic, "{}").format(worst.figure)] if worst.figure else []
        many = [f"{len(rated)} of {len(all_of_it)} results"] if len(all_of_it) > 1 else []
        parts.append(f"{topic} ({'; '.join([', '.join([*said, who]), *many])})")
    return f"Rated {level}: {join(parts)}." if parts else ""


def _defenses(rows: Rows, found: list[Finding]) -> list[str]:
    helped = [f"{f.defense} on {f.model}" for f in found
              if (f.topic, f.level) == ("defense", "low") and "Improves " in f.text]
    tried = {(f.model, f.defense) for f in found if f.topic == "defense" and f.defense != "none"}
    if helped:
        return [f"Clear gains without clear costs: {join(helped)}."]
    if tried:
        return [f"Of {plural(len(tried), 'defended model')}, none shows a clear gain without a clear cost: at this "
                f"number of {rows.cases} the differences are not statistically significant, or something else got "
                "worse."]
    return []
