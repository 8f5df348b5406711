"""Findings about single patients: how many of them membership attacks find almost surely, whatever the average."""

from __future__ import annotations

import math

from suite.report.findings import THRESHOLDS, Finding
from suite.report.rows import Rows
from suite.report.rules.command import command
from suite.report.rules.weigh import result, weigh
from suite.report.sections.membership import beside, called
from suite.report.sections.patients import ABOVE, WAYS, resolves, shares, tried
from suite.report.show import interval, number, percent, plural, share
from suite.results.measurement import Measurement

TOPIC = "single patients"
ENOUGH = ("lira", "lira-offline")
"""Attacks that by default train enough shadow models for the share."""


def single_patients(rows: Rows) -> list[Finding]:
    """The largest share of patients that an attack by shadow models finds almost surely, on each model that is put to
    use."""
    return [_judged(rows, attacks) for model, defense in rows.deployed if (attacks := tried(rows, model, defense))]


def _judged(rows: Rows, attacks: list[Measurement]) -> Finding:
    """That a share is large, any number of shadow models may show; that it is small, only those that are enough."""
    found = [(row, how, part) for row in attacks for how, part in shares(rows, row).items()]
    model, defense = attacks[0].model, attacks[0].defense
    if not found:
        return Finding("inconclusive", model, _unresolved(rows, attacks[0]), TOPIC, defense,
                       command=_with_more_models(rows, model))

    enough = sum(resolves(row) for row, *_ in found)
    by_part = {id(part): (row, how) for row, how, part in found}
    # those that are enough are judged as if they had run alone: that others tried it with fewer models, which can but
    # add to it, is no reason to widen their intervals
    results = [result(part, among=enough) if resolves(row) else
               result(part, among=len(found))._replace(high=math.inf) for row, _, part in found]
    used = [r for r in results if not enough or r.high < math.inf or r.low >= THRESHOLDS[TOPIC].medium]
    weighed = weigh(rows, TOPIC, used)
    level, part, low = weighed.level, weighed.worst.row, weighed.worst.low
    row, how = by_part[id(part)]
    mean, chance, worst = (beside(rows, row, metric) for metric in (
        "patient_auroc[mean]", "patients_above_null[0.9]", f"patient_auroc[worst{how}]"))
    by = called(row) + (f" ({WAYS[how]})" if how else "")
    text = (f"In {row.n} shadow models {by} finds {percent(part)} of {plural(part.n, 'patient')} almost surely (AUROC "
            f"of the patient above 0.90; by chance {share(chance.value)}); the average patient has an AUROC of "
            f"{number(mean.value)}, the most exposed {interval(worst)}.{_largest_group(rows, row)}")
    if not resolves(row):
        text += f" {_unresolved(rows, row)}"
    elif level == "inconclusive" and weighed.worst.high >= THRESHOLDS[TOPIC].medium:
        text += (f" Not settled: the interval includes the threshold of {share(THRESHOLDS[TOPIC].medium)}; more shadow "
                 "models or more patients narrow it.")
    elif level == "inconclusive":
        text += weighed.why
    if low > 0:
        text += " Consider a training that memorizes less: dp-sgd, weight-decay or early-stopping."
    return Finding(level, model, text, TOPIC, defense, figure=share(part.value), weight=part.value,
                   command="" if enough or level != "inconclusive" else _with_more_models(rows, model),
                   above=weighed.above)


def _with_more_models(rows: Rows, model: str) -> str:
    """A command that runs the first of the attacks that by default train enough shadow models and suit the model."""
    suited = rows.suited(model)
    name = next((name for name in ENOUGH if suited is None or name in suited), "")
    return command(rows, [name], [model]) if name else ""


def _unresolved(rows: Rows, row: Measurement) -> str:
    named = beside(rows, row, "shadows_needed[patient]")
    return (f"{row.n} shadow models cannot resolve how many patients are found almost surely: {row.value:g} are needed "
            f"for their share, and {named.value:g} to name them. Set shadows = {row.value:g} or more.")


def _largest_group(rows: Rows, row: Measurement) -> str:
    """The subgroup with the largest share."""
    groups = {name: part for name in rows.subgroups(ABOVE, row.model, attack=row.attack)
              if (part := beside(rows, row, ABOVE, name))}
    if len(groups) < 2:
        return ""
    most = max(groups, key=lambda name: groups[name].value)
    return f" Largest share: {most}, {percent(groups[most])} of {groups[most].n}." if groups[most].value else ""
