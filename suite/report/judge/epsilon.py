"""Findings about privacy budgets: whether what a training claims is confirmed, and whether an audit refutes it."""

from __future__ import annotations

from suite.report import known
from suite.report.findings import Finding, Level
from suite.report.rows import Rows
from suite.report.sections.privacy import Audit, audits
from suite.report.show import join, number, protects, share

AGREES = 1.05
"""An independent epsilon up to this multiple of the claimed one confirms it."""


def epsilon(rows: Rows) -> list[Finding]:
    """Whether an independent accountant confirms the privacy budget that a training claims."""
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
            level, verdict = "low", "no independent accountant computed it again"
        elif independent.value <= AGREES * claimed.value:
            level, verdict = "good", f"an independent accountant confirms it ({number(independent.value)})"
        else:
            level, verdict = "high", f"an independent accountant finds {number(independent.value)}: do not rely on it"
        text = f"Training {said}; {verdict}."
        if (other := notes.get("epsilon_replace_one")) is not None:
            text += f" For one replaced by another it is {number(other.value)}."
        if claimed.attack_params.get("unit") == "row" and (most := notes.get("rows_per_patient")) and most.value > 1:
            # a claim about rows must not be read as one about patients
            level = "medium" if level == "good" else level
            text += (f" Patients have up to {most.value:g} rows here: ε of a row does not protect a patient with "
                     "several rows. For ε of patients, train with dp-sgd and unit = \"patient\".")
        if taken := rows.manifest.get("fitted", []):
            # whoever is not covered by a claim must not read that it was confirmed
            level = "medium" if level == "good" else level
            text += (f" That covers the training alone: {join(taken)} came from the same patients without noise, so "
                     "the model as a whole has no such guarantee.")
        out.append(Finding(level, model, text, "defense", defense))
    return out


def audited(rows: Rows) -> list[Finding]:
    """Whether a training has been shown to give away more than it claims; how much one leaks that claims nothing, is
    told in the table."""
    return [_held(model, defense, found) for model, defense in rows.pairs() for found in audits(rows, model, defense)
            if found.claimed and found.right and found.gaussian]


def _held(model: str, defense: str, found: Audit) -> Finding:
    shown, gaussian, claimed, right = (r.value for r in (found.shown, found.gaussian, found.claimed, found.right))
    of = known.trials(found.shown)
    claim = f"ε = {number(claimed)}" + (f" at δ = {found.delta.value:g}" if found.delta else "")
    claim += f" for {whom}" if (whom := protects(found.claimed)) else ""
    sure = f"at {found.confidence} confidence" + (f" ({found.how})" if found.how else "")
    if shown > claimed:
        level: Level = "high"
        text = (f"The claim of {claim} is false {sure}: {found.shown.n} {of} show an ε of at least {number(shown)}, "
                f"with {share(right)} of {found.right.n} guesses right.")
    elif found.false:
        level = "high"
        text = (f"The claim of {claim} is false {sure}: guesses about {of} were right more often than the "
                f"training's own trade-off curve allows. Whatever the curve, ε is at least {number(shown)}; for a "
                f"Gaussian one, {number(gaussian)}.")
    elif gaussian > claimed and found.refuted is None:
        level = "medium"
        text = (f"The claim of {claim} is false {sure} if the trade-off curve is that of Gaussian noise: ε is at least "
                f"{number(gaussian)} then. Without that, at least {number(shown)}.")
    else:
        level = "good"
        text = (f"The claim of {claim} is not refuted: {found.shown.n} {of} speak for an ε of at least "
                f"{number(shown)} {sure}. An audit can refute a claim and never prove one.")
    return Finding(level, model, text, "privacy budget", defense, weight=shown - claimed)
