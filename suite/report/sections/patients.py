"""Leakage patient by patient: tables of how many are found almost surely, and in which groups."""

from __future__ import annotations

from suite.report.rows import Rows
from suite.report.sections.membership import PERSON, beside, called
from suite.report.show import NONE, percent
from suite.report.tables import Cell, Table, amount, est, words
from suite.results.measurement import Measurement

ABOVE = "patients_above[0.9]"
WAYS = {"": "one row of each patient"} | {f"@{how}": what for how, what in PERSON.items()}
"""How the rows of a patient are put together -> what the table says."""


def tried(rows: Rows, model: str, defense: str = "none") -> list[Measurement]:
    """Rows of the attacks by shadow models that can say how many these are: those with the most models first."""
    found = [r for attack in rows.attacks(model, defense, "shadows_needed[share]")
             for r in rows.of("shadows_needed[share]", model, defense, attack)]
    return sorted(found, key=lambda r: -r.n)


def resolves(row: Measurement) -> bool:
    """Whether the shadow models of a row of `tried` are enough to show that a patient is found almost surely."""
    return row.n >= row.value


def shares(rows: Rows, row: Measurement) -> dict[str, Measurement]:
    """The shares of patients that were found almost surely by an attack of `tried`, by the key of `WAYS`."""
    found = {how: beside(rows, row, f"{ABOVE[:-1]}{how}]") for how in WAYS}
    return {how: share for how, share in found.items() if share}


def table(rows: Rows) -> Table:
    """Every attack by shadow models on every model behind every defense."""
    made = Table(
        "Leakage patient by patient", ["attack", "scored by", "shadow models", "average AUROC",
                                       "patients above AUROC 0.9", "expected by chance", "most exposed patient: AUROC",
                                       "most exposed patient: TPR at 1% FPR", "models needed for the share",
                                       "models needed to name patients", "patients"],
        note="Each shadow model is attacked in turn with the help of the others, except the one that was trained on "
             "the opposite half of the patients. The AUROC of a patient compares the models trained with the patient "
             "with those trained without. An average near 0.50 does not exclude that single patients are found in "
             "almost every model (Knolle et al., Nature 2026). Observed values scatter, so the share has an interval "
             "that allows for it, and its value alone overstates the share where models are few. Expected by chance: "
             "the share when membership is drawn at random. The intervals of the most exposed patient hold jointly for "
             "all patients. With fewer models than needed no result could show that a patient is found almost surely.")
    for model, defense in rows.pairs():
        group = model if defense == "none" else f"{model} behind {defense}"
        for row in tried(rows, model, defense):
            chance = beside(rows, row, "patients_above_null[0.9]")
            name = beside(rows, row, "shadows_needed[patient]")
            for how, share in (shares(rows, row) or {"": None}).items():
                own = not how
                made.add(group, [
                    words(called(row)), words(WAYS[how]), amount(row.n),
                    est(beside(rows, row, "patient_auroc[mean]") if own else None),
                    Cell(percent(share) if share else "too few models", num=True,
                         tone="" if resolves(row) else "muted"),
                    Cell(percent(chance) if own else NONE, num=True),
                    est(beside(rows, row, f"patient_auroc[worst{how}]")),
                    est(beside(rows, row, "patient_tpr_at_fpr[0.01]") if own else None),
                    amount(row.value), amount(name.value if name else None),
                    amount(share.n if share else None)])
    return made.pruned()


def groups(rows: Rows) -> Table:
    """In each class and subgroup, by the attack with the most shadow models on each undefended model."""
    made = Table("Who is found: patients above AUROC 0.9 and the most exposed, in each group",
                 ["group", "attack", "patients above AUROC 0.9", "most exposed patient: AUROC", "patients"],
                 note="By one row of each patient. Some of many groups stand out by chance.")
    for model in rows.models:
        first = next(iter(tried(rows, model)), None)
        names = rows.subgroups(ABOVE, model, attack=first.attack) if first else {}
        for name in names:
            share, worst = (beside(rows, first, metric, name) for metric in (ABOVE, "patient_auroc[worst]"))
            if share:
                made.add(model, [words(name), words(called(first)), Cell(percent(share), num=True), est(worst),
                                 amount(share.n)])
    return made
