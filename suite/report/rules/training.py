"""Findings about the models themselves: failures, collapse, poisoned training data, and what defenses buy and cost."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from suite.report.findings import Finding, Level, widened
from suite.report.rows import WORST, Rows
from suite.report.rules.weigh import result, weigh
from suite.report.sections.membership import beside
from suite.report.show import interval, join, number, percent, plural, points, share
from suite.results.measurement import Measurement


def errors(rows: Rows) -> list[Finding]:
    """Cells that failed, those with the same message together; then those that wanted a model that failed."""
    same: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows.errors:
        _, detecting, detector = row.cell.rpartition("--detect-")
        name = row.attack or (detector if detecting else "")
        same.setdefault(("", "") if row.caused_by else (name, row.error), []).append(row)
    out = []
    for (name, error), failed in same.items():
        where = dict.fromkeys(r.model + ("" if r.defense == "none" else f" behind {r.defense}") for r in failed)
        cells = plural(len(failed), "cell")
        text = (f"{cells} not available: training failed." if not error else
                f"{name or 'training or measuring'} failed ({cells}): {error}.")
        out.append(Finding("error", join(list(where)), f"{text} Nothing is known there.", "errors",
                           weight=len(failed) if error else 0))
    return out


def collapse(rows: Rows) -> list[Finding]:
    """Models that say nearly the same of everyone: whatever cannot be changed is no robustness."""
    out = []
    for model, defense in rows.pairs():
        flag, balanced = (rows.one(m, model, defense) for m in ("collapsed", "balanced_accuracy"))
        if flag is not None and flag.value:
            text = ("Collapsed: it says nearly the same of everyone, or does no better than that. Its robust accuracy "
                    f"means nothing. Balanced accuracy {interval(balanced)}, n = {flag.n}.")
            used = (model, defense) in rows.deployed
            out.append(Finding("high", model, text, "performance" if used else "defense", defense,
                               figure="collapsed", weight=9))
    return out


def performance(rows: Rows) -> list[Finding]:
    """How many patients with the disease (of the class missed most, beyond two) a model misses before anyone attacks
    it."""
    out = []
    for model, defense in rows.deployed:
        found = _recalls(rows, model, defense)
        if not found:
            continue
        auroc = rows.one("auroc", model, defense)
        if auroc is not None and auroc.ci_high is not None and auroc.ci_high < 0.5:
            text = (f"Below chance level: AUROC {interval(auroc)}, n = {auroc.n}. Its classes may be in another order "
                    "than the data's.")
            out.append(Finding("high", model, text, "performance", defense, figure=number(auroc.value), weight=9))
            continue
        weighed = weigh(rows, "performance", [result(r, base=1.0, loss=True, among=len(found)) for r, _ in found])
        row, whom = next(pair for pair in found if pair[0] is weighed.worst.row)
        text = (f"Without any attack it misses {share(1 - row.value)} of {row.n} {rows.cases} {whom}: it "
                f"recognises {percent(row)}.")
        out.append(weighed.finding(text, "performance", share(1 - row.value)))
    return out


def _recalls(rows: Rows, model: str, defense: str) -> list[tuple[Measurement, str]]:
    """The sensitivity, or beyond two classes the recall of each; and of whom it is."""
    row, classes = rows.one("sensitivity", model, defense), rows.manifest.get("classes", [])
    if row is not None:
        found = [(row, f"with “{classes[1]}”" if len(classes) == 2 else "with the disease")]
    else:
        recalls = {k: r for k, r in rows.named("recall", model, defense).items() if r.n}
        lowest = min((r.value for r in recalls.values()), default=0.0)
        found = [(r, f"of class “{k}”, the {'worst' if r.value == lowest else 'least certain'} of {len(recalls)} "
                     "classes") for k, r in recalls.items()]
    return [pair for pair in found if pair[0].ci_low is not None]


CHANGES = ("sensitivity_change", "specificity_change", "accuracy_change", "balanced_accuracy_change")
"""All of them, since a model that calls everyone ill loses no sensitivity, and one that calls all healthy little else.
"""


def change_name(row: Measurement) -> str:
    """What a change is of, in words."""
    return row.metric.removesuffix("_change").replace("_", " ")


def poisoning(rows: Rows) -> list[Finding]:
    """The poisoning that costs each undefended model most, in the measure that loses most."""
    out = []
    for model in rows.models:
        changes = [r for metric in CHANGES for a in rows.attacks(model, "none", metric)
                   for r in rows.of(metric, model, attack=a) if r.ci_low is not None]
        if not changes:
            continue
        weighed = weigh(rows, "poisoning", [result(r, loss=True, among=len(changes)) for r in changes], changes)
        worst, name = weighed.worst.row, change_name(weighed.worst.row)
        tried = len({(r.attack, str(r.attack_params)) for r in changes})
        rate = rows.touched(worst)
        touched = f" with {share(rate)} of the training rows touched" if isinstance(rate, float) else ""
        if weighed.level == "low" or weighed.worst.low <= 0:
            text = (f"No poisoning (of {tried}) clearly lowers sensitivity, specificity or accuracy; the worst, "
                    f"{worst.attack}{touched}: {name} {points(worst)}, n = {worst.n}.")
        else:
            text = (f"{worst.attack}{touched} changes {name} by {points(worst)}, n = {worst.n}; the worst of "
                    f"{plural(tried, 'poisoning')}.")
        out.append(weighed.finding(text, "poisoning", f"{number(100 * worst.value, 0)} pt"))
    return out


def backdoor(rows: Rows) -> list[Finding]:
    """Whether planted triggers work, beyond what the same trigger does to a clean model."""
    return [found for model in rows.models if (found := planted(rows, [
        Planted("", lift, *(beside(rows, lift, metric) for metric in PLANTED))
        for attack in rows.attacks(model, "none", "base_rate") for lift in rows.of("lift", model, attack=attack)]))]


PLANTED = ("attack_success_rate", "base_rate")
"""What stands beside the lift of a backdoor."""
USELESS = 0.9
"""A trigger to which a clean model gives in more often cannot show a backdoor."""


class Planted(NamedTuple):
    """One trigger that was planted: by whom, and how often it works, above how often it does on a clean model."""

    by: str
    lift: Measurement
    hit: Measurement | None
    base: Measurement | None


def planted(rows: Rows, tried: list[Planted]) -> Finding | None:
    """Whether one of the triggers planted in a model works; None where it was not measured."""
    tried = [p for p in tried if p.hit and p.base and p.lift.ci_low is not None]
    if not tried:
        return None
    results = [result(p.lift, among=len(tried)) for p in tried]
    results = [r._replace(low=-math.inf, high=math.inf) if p.base.value > USELESS else r
               for p, r in zip(tried, results, strict=True)]
    weighed = weigh(rows, "backdoor", results, [p.lift for p in tried])
    by, lift, hit, base = next(p for p in tried if p.lift is weighed.worst.row)
    numbers = f"{percent(hit)} with the backdoor, {percent(base)} without, n = {hit.n}"
    if base.value > USELESS:
        weighed = replace(weighed, why="")
        text = (f"This trigger{by} cannot show a backdoor: the clean model gives the attacker's label to nearly "
                f"everyone who carries it ({numbers}). The values of the trigger are an evasion in themselves.")
    elif weighed.worst.low > 0:
        works = ("decides for the attacker's label" if weighed.level == "high" else
                 "works on some patients" if weighed.level == "medium" else "works on a few")
        text = f"The trigger{by} {works}: {numbers}; lift {points(lift)}."
    else:
        text = f"No backdoor effect{by} beyond the trigger itself: {numbers}; lift {points(lift)}."
    if len(tried) > 1:
        text += f" The worst of {len(tried)} triggers."
    return weighed.finding(text, "backdoor", f"{number(100 * lift.value, 0)} pt")


def defenses(rows: Rows) -> list[Finding]:
    """What each defense buys and costs; a difference counts when its 95 % interval leaves out 0, or, where it was not
    taken patient by patient, when the two intervals do not overlap."""
    return [found for model, defense in rows.pairs()
            if defense != "none" and (found := _defense(rows, model, defense))]


def _defense(rows: Rows, model: str, defense: str) -> Finding | None:
    balanced = "balanced_accuracy"
    cost = (_gain(rows, "balanced accuracy", rows.one(f"gain[{balanced}]", model, defense))
            or _compare("balanced accuracy", rows.one(balanced, model), rows.one(balanced, model, defense)))
    gains = [*_withstands(rows, model, defense), *_leaks(rows, model, defense), *_poisoned(rows, model, defense)]
    if cost is None or not gains:
        return None
    collapsed, masked = rows.one("collapsed", model, defense), rows.named("check", model, defense, WORST).values()
    if (collapsed is not None and collapsed.value) or any(r.value == 0 for r in masked):
        return None  # said where collapse and masking are judged: there is nothing to praise
    bought = [text for way, text in gains if way > 0]
    # a threshold that has moved costs one class what it gives the other, and the balance of the two hides it
    both = ("sensitivity", "specificity")
    shifted = [s for s in (_gain(rows, m, rows.one(f"gain[{m}]", model, defense)) for m in both) if s and s[0] < 0]
    hurt = [text for way, text in [cost, *shifted, *gains] if way < 0]
    even = [text for way, text in [cost, *gains] if way == 0]
    level: Level = "low" if bought and not hurt else "medium" if hurt and not bought else "inconclusive"
    parts = ([f"Improves {'; '.join(bought)}."] if bought else []) + ([f"Worsens {'; '.join(hurt)}."] if hurt else [])
    parts += [f"Not statistically significant: {'; '.join(even)}."] if even else []
    refused = rows.one("refused", model, defense)
    if refused is not None and refused.value:
        parts.append(f"It refuses {percent(refused)} of clean {rows.cases}, which count as wrong.")
    return Finding(level, model, " ".join(parts), "defense", defense, improves=bool(bought))


def _withstands(rows: Rows, model: str, defense: str) -> list[tuple[int, str]]:
    """Robust accuracy under the attacks that ran on both, each class counting alike: whoever calls more patients
    healthy is robust for the healthy ones, who are the most."""
    names = {"robust_balanced_accuracy": "balanced robust accuracy", "robust_accuracy": "robust accuracy"}
    found = (_gain(rows, name, rows.one(f"gain[{metric}]", model, defense, WORST)) for metric, name in names.items())
    return [f for f in found if f][:1]


def _gain(rows: Rows, name: str, change: Measurement | None) -> tuple[int, str] | None:
    """As `_compare`, of a difference on the same patients: it counts when its interval leaves out 0."""
    if change is None or change.ci_low is None:
        return None
    return (change.ci_low > 0) - (change.ci_high < 0), f"{name} {points(change)} on the same {rows.cases}"


def _compare(name: str, before: Measurement | None, after: Measurement | None,
             better: int = 1) -> tuple[int, str] | None:
    """(1 better, -1 worse, 0 within noise) and the words; None where one is missing."""
    if before is None or after is None or before.ci_low is None or after.ci_low is None:
        return None
    rises, falls = after.ci_low > before.ci_high, after.ci_high < before.ci_low
    return (rises - falls) * better, f"{name} {interval(before)} → {interval(after)}"


def _leaks(rows: Rows, model: str, defense: str) -> list[tuple[int, str]]:
    """Membership leakage by the strongest attack that ran on both, the undefended model deciding which it is."""
    metric = "membership_auroc"
    both = [(b, a) for x in rows.attacks(model, defense, metric)
            if (b := rows.one(metric, model, attack=x)) and (a := rows.one(metric, model, defense, x))]
    if not both:
        return []
    before, after = max(both, key=lambda pair: pair[0].value)
    change = rows.one("gain[membership_auroc]", model, defense, before.attack)
    if change is not None and change.ci_low is not None:
        text = f"membership AUROC {number(before.value)} → {number(after.value)}, a change of {interval(change)}"
        return [((change.ci_high < 0) - (change.ci_low > 0), text)]
    found = _compare("membership AUROC", before, after, -1)
    return [found] if found else []


def _poisoned(rows: Rows, model: str, defense: str) -> list[tuple[int, str]]:
    """What a defense made for it saves of a model trained on poisoned rows: where that is clear (Bonferroni over all
    that were tried), and for the poisoning that hurts the undefended model most.
    """
    tried = [(change, better) for metric, better in (("poisoned_sensitivity", 1), ("poisoned_specificity", 1),
                                                     ("poisoned_accuracy", 1),
                                                     ("attack_success_rate", -1))
             for attack in rows.attacks(model, defense, f"gain[{metric}]")
             for change in rows.of(f"gain[{metric}]", model, defense, attack)]

    def harm(change: Measurement) -> float:
        """What the poisoning of this row does to the undefended model; below 0 is worse."""
        return min((r.value for m in CHANGES for r in rows.of(m, model, attack=change.attack)
                    if r.attack_params == change.attack_params), default=0.0)

    worst = min((harm(change) for change, _ in tried), default=0.0)
    out = []
    for change, better in tried:
        low, high = widened(change, len(tried))
        way = ((low > 0) - (high < 0)) * better
        if way or (better > 0 and harm(change) == worst and change.metric == tried[0][0].metric):
            name = change.metric.removeprefix("gain[").removeprefix("poisoned_").removesuffix("]").replace("_", " ")
            rate = change.attack_params.get("rate")
            at = f" {share(rate)}" if isinstance(rate, float) else ""
            out.append((way, f"{name} after {change.attack}{at} {points(change)} on the same {rows.cases}"))
    return out
