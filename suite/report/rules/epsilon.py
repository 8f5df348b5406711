"""Findings about privacy budgets: whether what a training claims is confirmed, and whether an audit refutes it."""

from __future__ import annotations

import math

from suite.defenses.private.sizes import AT_EDGE, ROUNDED
from suite.report import known
from suite.report.findings import THRESHOLDS, Finding, Level
from suite.report.rows import Rows
from suite.report.sections.privacy import Audit, audits
from suite.report.show import join, number, protects, share, taken_public
from suite.results.measurement import Measurement

AGREES = 1.05
"""An independent epsilon up to this multiple of the claimed one confirms it."""


def epsilon(rows: Rows) -> list[Finding]:
    """Whether an independent accountant confirms the privacy budget that a training claims, and what it promises.

    That a claim is confirmed makes no risk low: it is graded by the membership AUROC that it still allows.
    """
    out = []
    for model, defense in rows.pairs():
        notes = rows.named("note", model, defense)
        claimed, independent = notes.get("epsilon_claimed"), notes.get("epsilon_independent")
        if claimed is None:
            continue
        said = f"claims ε = {number(claimed.value)}"
        if "delta" in notes:
            said += f" at δ = {notes['delta'].value:g}"
        if whom := protects(claimed):
            said += f" for {whom}"
        if independent is None:
            level, verdict = "inconclusive", "no independent accountant computed it again"
        elif independent.value <= AGREES * claimed.value:
            level, verdict = "low", f"an independent accountant confirms it ({number(independent.value)})"
        else:
            level, verdict = "high", f"an independent accountant finds {number(independent.value)}: do not rely on it"
        text = f"Training {said}; {verdict}."
        allowed = largest_auroc(claimed.value, notes["delta"].value if "delta" in notes else 0.0)
        if level == "low":
            text += f" Such a budget allows a membership AUROC of up to {number(allowed, 3)} (0.50 is chance level)."
        if (other := notes.get("epsilon_replace_one")) is not None:
            text += f" For one replaced by another it is {number(other.value)}."
        if claimed.attack_params.get("unit") == "row" and (most := notes.get("rows_per_patient")) and most.value > 1:
            # a claim about rows must not be read as one about patients
            level = "medium" if level == "low" else level
            text += (f" Patients have up to {most.value:g} rows here: ε of a row does not protect a patient with "
                     "several rows. For ε of patients, train with dp-sgd and unit = \"patient\".")
        level, said = _sized(level, claimed)
        text += said
        if taken := rows.manifest.get("fitted", []):
            # whoever is not covered by a claim must not read that it was confirmed
            level = "medium" if level == "low" else level
            text += (f" That covers the training alone: {join(taken)} came from the same patients without noise, so "
                     "the model as a whole has no such guarantee.")
        if level == "low" and allowed - 0.5 >= THRESHOLDS["membership"].medium:
            level = "inconclusive"  # confirmed, but it excludes no risk
        out.append(Finding(level, model, text, "defense", defense))
    return out


def largest_auroc(epsilon: float, delta: float = 0.0) -> float:
    """The largest AUROC of telling one member from one non-member that (epsilon, delta)-DP allows.

    That of the mechanism which dominates all others (Kairouz, Oh and Viswanath 2015, arXiv 1311.0776): with probability
    delta it gives the answer away, else it says the truth with odds of e^epsilon.
    """
    return 1 - (1 - delta)**2 / (1 + math.exp(min(epsilon, 700)))


def _sized(level: Level, claimed: Measurement) -> tuple[Level, str]:
    """A level, no calmer than the public number of rows behind a claim allows, and the sentence on that number."""
    source, size = claimed.attack_params.get("public_rows_from"), taken_public(claimed)
    if source not in (ROUNDED, AT_EDGE):
        return level, ""
    unit = claimed.attack_params.get("unit", "row")
    if source == ROUNDED:
        return level, f" Taken as public: {size}. With public_rows nothing depends on the exact number."
    return "medium" if level == "low" else level, (
        f" Taken as public: {size}, and with it the steps and the noise, so ε does not hold for one {unit} added or "
        "removed here. Set public_rows to a number that does not depend on the data.")


def audited(rows: Rows) -> list[Finding]:
    """Claims that an audit refutes; how much one leaks that claims nothing is in the table."""
    return [held for model, defense, found in _claiming(rows) if (held := _refuted(model, defense, found))]


def unrefuted(rows: Rows) -> list[tuple[str, str, str]]:
    """(model, defense, sentence) of the claims that an audit does not refute."""
    return [(model, defense, f"The claim of {_claim(found)} is not refuted: {found.shown.n} "
             f"{known.trials(found.shown)} show an ε of at least {number(found.shown.value)} {_sure(found)}. An audit "
             "can refute a claim and never prove one.")
            for model, defense, found in _claiming(rows) if not _refuted(model, defense, found)]


def _claiming(rows: Rows) -> list[tuple[str, str, Audit]]:
    return [(model, defense, found) for model, defense in rows.pairs() for found in audits(rows, model, defense)
            if found.claimed and found.right and found.gaussian]


def _claim(found: Audit) -> str:
    claim = f"ε = {number(found.claimed.value)}" + (f" at δ = {found.delta.value:g}" if found.delta else "")
    return claim + (f" for {whom}" if (whom := protects(found.claimed)) else "")


def _sure(found: Audit) -> str:
    return f"at {found.confidence} confidence" + (f" ({found.how})" if found.how else "")


def _refuted(model: str, defense: str, found: Audit) -> Finding | None:
    shown, gaussian, claimed, right = (r.value for r in (found.shown, found.gaussian, found.claimed, found.right))
    of, claim, sure = known.trials(found.shown), _claim(found), _sure(found)
    level: Level = "high"
    if shown > claimed:
        text = (f"The claim of {claim} is false {sure}: {found.shown.n} {of} show an ε of at least {number(shown)}, "
                f"with {share(right)} of {found.right.n} guesses right.")
    elif found.false:
        text = (f"The claim of {claim} is false {sure}: guesses about {of} were right more often than the "
                f"training's own trade-off curve allows. Whatever the curve, ε is at least {number(shown)}; for a "
                f"Gaussian one, {number(gaussian)}.")
    elif gaussian > claimed and found.refuted is None:
        level = "medium"
        text = (f"The claim of {claim} is false {sure} if the trade-off curve is that of Gaussian noise: ε is at least "
                f"{number(gaussian)} then. Without that, at least {number(shown)}.")
    else:
        return None
    return Finding(level, model, text, "privacy budget", defense, weight=shown - claimed)
