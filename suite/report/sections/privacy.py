"""Privacy tables."""

from __future__ import annotations

from suite.report import known
from suite.report.rows import Rows
from suite.report.show import NONE, join, number
from suite.report.tables import Cell, Table, amount, est, plain, words

FPRS = ("0.001", "0.01", "0.05", "0.1")


def membership(rows: Rows) -> Table:
    """Membership inference on every model behind every defense."""
    shown = [f for f in FPRS if any(r.metric == f"tpr_at_fpr[{f}]" for r in rows.all)]
    withheld = [f"{100 * float(f):g}%" for f in FPRS if f not in shown]
    head = ["attack", "defense", "AUROC", "advantage", *[f"TPR at {100 * float(f):g}% FPR" for f in shown],
            "smallest FPR", "queries per patient", "n"]
    note = ("AUROC 0.50 is guessing. TPR at FPR: share of training patients found when that share of others is accused "
            "wrongly. Smallest FPR: one non-member; below it nothing can be counted, and figures are withheld")
    note += f" (here at {join(withheld)} FPR)." if withheld else "."
    table = Table("Membership inference", head, note=note)
    for model in rows.models:
        for defense in rows.defenses(model):
            for attack in rows.attacks(model, defense, "membership_auroc"):
                auroc = rows.one("membership_auroc", model, defense, attack)
                if auroc is None:
                    continue
                floor = rows.one("resolvable_fpr", model, defense, attack)
                smallest = f"{100 * floor.value:.2g}%" if floor else NONE
                tprs = rows.named("tpr_at_fpr", model, defense, attack)
                cells = [est(tprs[f]) if f in tprs else words("below floor" if floor else "", "muted") for f in shown]
                table.add(model, [words(attack), words(defense), est(auroc),
                                  est(rows.one("membership_advantage", model, defense, attack)), *cells,
                                  Cell(smallest, num=True), amount(auroc.queries), amount(auroc.n)])
    return table.pruned()


def attribute(rows: Rows) -> Table:
    """Gain over imputation by column and model."""
    found = {(m, d, a): {str(r.attack_params.get("column")): r for r in rows.of("attribute_gain", m, d, a)}
             for m, d in rows.pairs() for a in rows.attacks(m, d, "attribute_gain")}
    columns = list(dict.fromkeys(c for gains in found.values() for c in gains))
    names = [m + ("" if d == "none" else f" behind {d}") for m, d, _ in found]
    table = Table("Attribute inference: accuracy gained by knowing the model's answer", ["hidden column", *names, "n"],
                  note="Against imputation with the same learner, features and scaling but without the answer. Marked: "
                       f"the interval lies above 0. With {len(columns)} columns on each model, some do so by chance.")
    for column in columns:
        gains = [g.get(column) for g in found.values()]
        tones = ["warn" if r is not None and r.ci_low is not None and r.ci_low > 0 else "" for r in gains]
        table.add("", [words(column), *[est(r, t) for r, t in zip(gains, tones, strict=True)],
                       amount(next((r.n for r in gains if r), None))])
    return table


def inversion(rows: Rows) -> Table:
    """Reconstructions of each class."""
    table = Table("Model inversion", ["class", "attack", "distance to the class's mean", "the same for everyone's mean",
                                      "confidence of the model", "queries"],
                  note="Root mean square difference in units of each column's scale. A reconstruction that is farther "
                       "away than everyone's mean is an input that the model likes, not a patient.")
    for model, defense in rows.pairs():
        group = model + ("" if defense == "none" else f" behind {defense}")
        ran = dict.fromkeys(r.attack for r in rows.all if (r.model, r.defense) == (model, defense)
                            and r.metric.startswith("inversion_distance["))
        for attack in ran:
            for name in rows.named("inversion_distance", model, defense, attack):
                tried = [rows.of(f"inversion_{m}[{name}]", model, defense, attack)
                         for m in ("distance", "prior_distance", "confidence")]
                for away, prior, sure in zip(*tried, strict=False):
                    cell = words(number(away.value, 3), "warn" if away.value < prior.value else "")
                    how = known.parameters(attack, away.attack_params)
                    table.add(group, [words(name), words(f"{attack} ({how})" if how else attack), cell, plain(prior, 3),
                                      plain(sure, 3), amount(away.queries)])
    return table


def extraction(rows: Rows) -> Table:
    """Fidelity and accuracy of stolen copies by query budget."""
    head = ["attack", "answers asked", "agreement with the model", "accuracy of the copy", "n"]
    table = Table("Model extraction", head,
                  note="Agreement (fidelity) is measured on test patients.")
    for model, defense in rows.pairs():
        group = model + ("" if defense == "none" else f" behind {defense}")
        for attack in rows.attacks(model, defense, "fidelity"):
            guess = rows.one("fidelity_of_guessing", model, defense, attack)
            copies = rows.of("surrogate_accuracy", model, defense, attack)
            accuracy = {r.attack_params.get("budget"): r for r in copies}
            if guess is not None:
                table.add(group, [words("always the commonest answer", "muted"), amount(0), est(guess), words(""),
                                  amount(guess.n)])
            for row in rows.of("fidelity", model, defense, attack):
                table.add(group, [words(attack), amount(row.attack_params.get("budget") or row.queries), est(row),
                                  est(accuracy.get(row.attack_params.get("budget"))), amount(row.n)])
    return table
