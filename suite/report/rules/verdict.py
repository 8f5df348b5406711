"""The first sentences of a report: what follows from the worst findings of all topics, for all that is put to use."""

from __future__ import annotations

from suite.report.findings import THRESHOLDS, TOPICS, Finding
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
        found: `suite.report.rules.every.findings` of them.
    """
    out = []
    if rows.errors:
        out.append(f"{plural(len(rows.errors), 'cell')} of the plan failed: nothing is known there, and nothing has "
                   "passed. What follows covers the rest.")
    for level in ("high", "medium"):
        out += _listed(f"Rated {level}", found, [f for f in found if f.level == level])
    out += _listed("Above a threshold, but not settled", found, [f for f in found if f.above])
    if not any(f.level in ("high", "medium", "error") for f in found):
        out.append(_nothing_shown(rows, found))
    for level, start in (("inconclusive", "Inconclusive, neither a risk shown nor its absence"), ("low", "Low")):
        topics = [f"{topic} ({plural(count, 'result')})" for topic in TOPICS if topic in THRESHOLDS
                  and (count := sum((f.level, f.topic) == (level, topic) for f in found))]
        if topics:
            out.append(f"{start}: {join(topics)}.")
    if untested := [f.threat + ("" if f.model == "all" else f" ({f.model})") for f in found
                    if f.level == "not tested"]:
        out.append(f"Not tested: {join(list(dict.fromkeys(untested)))}.")
    return out + _defenses(rows, found)


def _nothing_shown(rows: Rows, found: list[Finding]) -> str:
    """Only what lies below a threshold as a whole speaks for a model, and it does not while a value lies above one."""
    if not any(f.level == "low" and f.topic in THRESHOLDS for f in found):
        return "No risk was shown, and none was excluded."
    if any(f.above for f in found):
        return "No risk was shown, but not every risk was excluded."
    return ("Nothing that was tried exceeds the thresholds below. That is no proof of safety: it covers these attacks, "
            f"these budgets and these {rows.cases} only.")


def _listed(start: str, found: list[Finding], those: list[Finding]) -> list[str]:
    """"Rated high: evasion (41% misclassified, xgboost; 3 of 4 results) and ..."; nothing where nothing is.

    What a defense costs is no risk, and stands in a sentence of its own.
    """
    parts = []
    for topic in TOPICS:
        all_of_it = [f for f in found if f.topic == topic and f.level != "error"]
        rated = [f for f in those if f.topic == topic]
        if not rated or (topic == "defense" and rated[0].level != "high"):
            continue
        worst = max(rated, key=lambda f: f.weight)
        who = worst.model + ("" if worst.defense == "none" else f" behind {worst.defense}")
        said = [SAYS.get(topic, "{}").format(worst.figure)] if worst.figure else []
        many = [f"{len(rated)} of {len(all_of_it)} results"] if len(all_of_it) > 1 else []
        parts.append(f"{topic} ({'; '.join([', '.join([*said, who]), *many])})")
    return [f"{start}: {join(parts)}."] if parts else []


def _defenses(rows: Rows, found: list[Finding]) -> list[str]:
    helped = [f"{f.defense} on {f.model}" for f in found
              if (f.topic, f.level) == ("defense", "low") and f.improves]
    tried = {(f.model, f.defense) for f in found if f.topic == "defense" and f.defense != "none"}
    if helped:
        return [f"Clear gains without clear costs: {join(helped)}."]
    if tried:
        return [f"Of {plural(len(tried), 'defended model')}, none shows a clear gain without a clear cost: at this "
                f"number of {rows.cases} the differences are not statistically significant, or something else got "
                "worse."]
    return []
