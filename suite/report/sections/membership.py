"""Membership inference: tables of what was found, of whom, and in which groups; the ROC is in `figures`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from suite.report import known
from suite.report.findings import widened
from suite.report.rows import Rows
from suite.report.show import NONE, join, number, percent
from suite.report.tables import Cell, Table, amount, est, words
from suite.results.measurement import Measurement

FPRS = ("0.001", "0.01", "0.05", "0.1")
PERSON = {"max": "largest score of a patient's rows", "mean": "mean score of these"}
"""How the scores of all rows of a patient are put together -> in words."""
LISTED = 10
"""Patients that are listed of each model."""


def ranked(rows: Rows, model: str, defense: str = "none") -> list[Measurement]:
    """The AUROC of each membership attack on a model, the surest first.

    Not the highest: an attack that scored few patients is high by chance.
    """
    found = [row for attack in rows.attacks(model, defense, "membership_auroc")
             for row in rows.of("membership_auroc", model, defense, attack)]
    return sorted(found, key=lambda r: (-(r.ci_low or 0.0), -r.value))


def beside(rows: Rows, row: Measurement, metric: str, subgroup: str = "") -> Measurement | None:
    """What the same cell says of a metric: an attack may be there twice, with other parameters."""
    found = rows.of(metric, row.model, row.defense, row.attack, subgroup)
    return next((r for r in found if r.cell == row.cell), None)


def by_person(rows: Rows, row: Measurement) -> dict[str, Measurement]:
    """Beside the AUROC by one row of each patient, those by all rows of a patient, by the key of `PERSON`."""
    found = {how: beside(rows, row, f"patient_membership_auroc[{how}]") for how in PERSON}
    return {how: auroc for how, auroc in found.items() if auroc}


def called(row: Measurement) -> str:
    """The name of an attack, with the parameters that are not its defaults."""
    how = known.parameters(row.attack, row.attack_params)
    return f"{row.attack} ({how})" if how else row.attack


def table(rows: Rows) -> Table:
    """Every attack on every model behind every defense, the strongest first."""
    shown = [f for f in FPRS if any(r.metric == f"tpr_at_fpr[{f}]" for r in rows.all)]
    withheld = [f"{100 * float(f):g}%" for f in FPRS if f not in shown]
    head = ["attack", "defense", "AUROC", *(f"AUROC by the {how}" for how in PERSON.values()), "advantage",
            *[f"TPR at {100 * float(f):g}% FPR" for f in shown],
            "smallest FPR", "members against members", "queries per patient", "n"]
    note = ("AUROC 0.50 is guessing. TPR at FPR: share of training patients found when that share of others is accused "
            "wrongly; its interval allows for how few others fix that threshold. Smallest FPR: below it, so few others "
            "fix no threshold with 95% confidence, and figures are withheld")
    note += f" (here at {join(withheld)} FPR)." if withheld else "."
    note += (" Advantage: the largest difference of the two shares, which is above 0 by chance alone. Members against "
             "members: the AUROC between two halves of the members, 0.50 but for chance. Attacks stand in the order of "
             "what is sure of them; the strongest is the verdict.")
    if any("shadow_recipe" in r.attack_params for r in rows.all if r.metric == "membership_auroc"):
        note += (" Where a shadow_recipe is named, the model came trained, and its shadow models are of that recipe in "
                 "place of its own: an attacker who has its own may find more.")
    made = Table("Membership inference", head, note=note)
    for model, defense in rows.pairs():
        for auroc in ranked(rows, model, defense):
            floor = beside(rows, auroc, "resolvable_fpr")
            smallest = f"{100 * floor.value:.2g}%" if floor else NONE
            tprs = [beside(rows, auroc, f"tpr_at_fpr[{f}]") for f in shown]
            cells = [est(tpr) if tpr else words("below floor" if floor else "", "muted") for tpr in tprs]
            made.add(_gap(rows, model, defense), [
                words(called(auroc)), words(defense), est(auroc),
                *(est(by_person(rows, auroc).get(how)) for how in PERSON),
                est(beside(rows, auroc, "membership_advantage")),
                *cells, Cell(smallest, num=True), est(beside(rows, auroc, "membership_null")),
                amount(auroc.queries), amount(auroc.n)])
    return made.pruned()


def _gap(rows: Rows, model: str, defense: str) -> str:
    """The heading of a model: how much better it is on those it has learned from."""
    trained, new = (rows.one(m, model, defense) for m in ("train_accuracy", "accuracy"))
    name = model + ("" if defense == "none" else f" behind {defense}")
    return name if trained is None or new is None else (
        f"{name}: right on {percent(trained)} of training {rows.cases}, on {percent(new)} of others")


def groups(rows: Rows) -> Table:
    """How much the strongest attack on each undefended model finds in each class and subgroup."""
    best = {model: found[0] for model in rows.models if (found := ranked(rows, model))}
    made = Table("Who is found: AUROC of the strongest attack in each group", ["group", *[
        f"{model} ({called(row)})" for model, row in best.items()], "n"],
        note="Within a group, members are told from others of the same group. Some of many groups stand out by chance.")
    names = dict.fromkeys(r.subgroup for r in rows.all if r.metric == "membership_auroc" and r.subgroup)
    for name in names:
        found = [beside(rows, row, "membership_auroc", name) for row in best.values()]
        if any(found):
            made.add(name.partition("=")[0], [words(name.partition("=")[2]), *map(est, found),
                                              amount(next(r.n for r in found if r))])
    return made


def exposed(rows: Rows, arrays: Callable[[str], Mapping[str, Any]]) -> Table:
    """The training patients that the strongest attack on each undefended model is surest of."""
    head = ["row in the source", "attack", "others ranked above, of all", "AUROC over shadow models"]
    made = Table(f"The most exposed {rows.cases}", head,
                 note=f"At most {LISTED} of each model, by number and never by value. Nobody above: the attack finds "
                      "this one without a single false accusation.")
    for model in rows.models:
        found = ranked(rows, model)
        kept = arrays(found[0].cell) if found else {}
        if "row" not in kept or widened(found[0], len(found))[0] <= 0.5:
            continue  # where it is not sure that anyone is found, nobody is
        score, member, own = kept["score"], kept["member"], kept.get("patient_auroc")
        for i in sorted(member.nonzero()[0], key=lambda i: -score[i])[:LISTED]:
            above = int((score[~member] >= score[i]).sum())
            made.add(model, [Cell(str(int(kept["row"][i])), num=True), words(called(found[0])),
                             Cell(f"{above} of {int((~member).sum())}", num=True),
                             Cell(NONE if own is None else number(own[i]), num=True)])
    return made.pruned()
