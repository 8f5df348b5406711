"""Performance without an attack, and confusion before and under the strongest one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from suite.report import known
from suite.report.rows import WORST, Rows, robustness
from suite.report.show import percent, plural
from suite.report.tables import Table, amount, bounded, confusion, est, plain, report_per_class, words

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "sensitivity": "sensitivity",
           "specificity": "specificity", "auroc": "AUROC", "calibration_error": "calibration error"}


def performance(rows: Rows) -> Table:
    """Everything that is usually said of a classifier, for the undefended models."""
    head = ["model", *METRICS.values(), "accuracy on training rows", "n"]
    classes = rows.manifest.get("classes", [])
    disease = f" Sensitivity and specificity refer to “{classes[1]}”." if len(classes) == 2 else ""
    table = Table(f"Undefended models on clean test {rows.cases}", head, note=f"Value (95% interval).{disease}")
    for model in rows.models:
        found = {m: rows.one(m, model) for m in METRICS}
        if any(found.values()):
            n, learned = found["accuracy"] and found["accuracy"].n, rows.one("train_accuracy", model)
            table.add("", [words(model), *map(est, found.values()), plain(learned), amount(n)])
    return table.pruned()


@dataclass(frozen=True)
class BeforeAfter:
    """One undefended model before and under the attack that leaves it the lowest robust accuracy."""

    model: str
    before: Table | None
    after: Table | None
    report: Table
    attacked: Table | None
    says: str


def before_after(rows: Rows) -> list[BeforeAfter]:
    """Confusion matrices and classification reports of every undefended model."""
    classes, out = rows.manifest.get("classes", []), []
    for model in rows.models:
        before = confusion(rows.named("confusion", model), classes, "Before")
        report = report_per_class(lambda m, model=model: rows.one(m, model), classes, "Clean")
        attack = strongest(rows, model)
        if attack is None:
            out.append(BeforeAfter(model, before, None, report, None, "No evasion attack was measured."))
            continue
        kept = rows.one("robust_accuracy", model, attack=attack, eps=rows.eps)
        after = confusion(rows.named("attacked_confusion", model, attack=attack), classes, f"Under {attack}")
        attacked = report_per_class(
            lambda m, model=model, attack=attack: rows.one(f"attacked_{m}", model, attack=attack), classes,
            f"Under {attack}")
        says = (f"{attack} at {rows.voice.budget(rows.eps)}: {percent(kept)} of {kept.n} still judged rightly. Every "
                f"{rows.voice.case} is replaced by the attack's version where it succeeded.")
        out.append(BeforeAfter(model, before, after, report, attacked, says))
    return out


def strongest(rows: Rows, model: str, defense: str = "none") -> str | None:
    """The attack that leaves the lowest robust accuracy, among those tried on the most patients."""
    found = [r for a in rows.attacks(model, defense, "robust_accuracy")
             if a != WORST and (r := rows.one("robust_accuracy", model, defense, a, eps=rows.eps))
             and known.norm(r) == "linf"]
    most = max((r.n for r in found), default=0)
    return min((r for r in found if r.n == most), key=lambda r: r.value).attack if found else None


def subgroups(rows: Rows) -> Table:
    """Undefended models by subgroup of patients."""
    table = Table(f"Undefended models by group of {rows.cases}",
                  ["group", "accuracy", "sensitivity", "robust accuracy (worst case)", "n", "n attacked"],
                  note="Small groups have wide intervals; many groups are compared, so a single gap proves little. "
                       f"≤: no attack was tried on some {rows.cases}.")
    for model in rows.models:
        clean, sick = rows.subgroups("accuracy", model), rows.subgroups("sensitivity", model)
        robust, whole = rows.subgroups("robust_accuracy", model, attack=WORST), robustness(rows, model)
        for group in sorted(clean or robust, key=_by_number):
            n = (clean.get(group) or robust[group]).n
            table.add(model, [words(group.replace("=", " ")), est(clean.get(group)), est(sick.get(group)),
                              bounded(robust.get(group), whole is not None and whole.partial), amount(n),
                              amount(robust[group].n if group in robust else None)])
    return table.pruned()


def withheld(rows: Rows) -> str:
    """Which columns have groups of too few people to be told."""
    found = {r.metric[len("withheld_groups["):-1]: int(r.value) for r in rows.all
             if r.metric.startswith("withheld_groups[")}
    least = rows.manifest.get("plan", {}).get("smallest_group")
    return f"Of fewer than {least} people, and withheld: " + ", ".join(
        f"{plural(count, 'group')} of {name}" for name, count in found.items()) + "." if found else ""


def _by_number(group: str) -> tuple[str, float, bool]:
    """Age bands in the order of age: "age=<30" comes before "age=30-44"."""
    name, _, band = group.partition("=")
    number = re.search(r"\d+", band)
    return name, float(number.group()) if number else 0.0, not band.startswith("<")
