"""Findings about privacy budgets: whether what a training claims is confirmed, and whether an audit refutes it."""

from __future__ import annotations

from suite.report.findings import Finding, Level
from suite.report.rows import Rows
from suite.report.sections.privacy import sureness
from suite.report.show import join, number, share

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
        if independent is None:
            level, verdict = "low", "no independent accountant computed it again"
        elif independent.value <= AGREES * claimed.value:
            level, verdict = "good", f"an independent accountant confirms it ({number(independent.value)})"
        else:
            level, verdict = "high", f"an independent accountant finds {number(independent.value)}: do not rely on it"
        text = f"Training {said}; {verdict}."
        if taken := rows.manifest.get("fitted", []):
            # whoever is not covered by a claim must not read that it was confirmed
            level = "medium" if level == "good" else level
            text += (f" That covers the training alone: {join(taken)} came from the same patients without noise, so "
                     "the model as a whole has no such guarantee.")
        out.append(Finding(level, model, text, "defense", defense))
    return out


def audited(rows: Rows) -> list[Finding]:
    """Whether a training has been shown to give away more than it claims."""
    out = []
    for model, defense in rows.pairs():
        for attack in rows.attacks(model, defense, "epsilon_audited"):
            shown, gaussian, claimed, delta, right = (rows.one(m, model, defense, attack) for m in (
                "epsilon_audited", "epsilon_audited_gdp", "epsilon_claimed", "delta", "canary_guesses_right"))
            if claimed is None or right is None:
                continue  # how much a model leaks that claims nothing, is told in the table
            claim = f"ε = {number(claimed.value)}" + (f" at δ = {delta.value:g}" if delta else "")
            sure = f"at {sureness(shown)} confidence"
            if shown.value > claimed.value:
                level: Level = "high"
                text = (f"The claim of {claim} is false {sure}: {share(right.value)} of {right.n} guesses about "
                        f"canaries were right, so ε is at least {number(shown.value)}.")
            elif gaussian and gaussian.value > claimed.value:
                level = "medium"
                text = (f"The claim of {claim} is false {sure} if the trade-off curve is that of Gaussian noise: ε is "
                        f"at least {number(gaussian.value)} then. Without that, at least {number(shown.value)}.")
            else:
                level = "good"
                text = (f"The claim of {claim} is not refuted: {shown.n} canaries speak for an ε of at least "
                        f"{number(shown.value)} {sure}. An audit can refute a claim and never prove one.")
            out.append(Finding(level, model, text, "privacy budget", defense, weight=shown.value - claimed.value))
    return out
