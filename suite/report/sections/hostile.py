"""Hostile hospitals: what they do to the common model under each rule."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from suite.report.rows import Rows
from suite.report.show import join, number, share
from suite.report.tables import Cell, Table, plain, words
from suite.results.measurement import Measurement


@dataclass(frozen=True)
class Hostility:
    """An attack by hospitals: one that is there twice, with other parameters, is two.

    Attributes:
        attack: As registered.
        params: Of the attack, without who the hostile hospitals are.
        label: Its name, with the parameters that tell it from others of that name.
    """

    attack: str
    params: dict[str, Any]
    label: str

    def rows(self, rows: Rows, metric: str, model: str, defense: str) -> list[Measurement]:
        """What it did to one federation."""
        return [r for r in rows.of(metric, model, defense, self.attack) if _params(r) == self.params]

    def one(self, rows: Rows, metric: str, model: str, defense: str) -> Measurement | None:
        """The first of them."""
        return next(iter(self.rows(rows, metric, model, defense)), None)


def hostilities(rows: Rows, model: str) -> list[Hostility]:
    """The attacks by hospitals that a model met, in the order of the plan."""
    tried: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.all:
        if (row.model, row.metric) == (model, "hostile_hospitals") and _params(row) not in tried[row.attack]:
            tried[row.attack].append(_params(row))
    return [Hostility(attack, params, _label(attack, params, each)) for attack, each in tried.items()
            for params in each]


def _params(row: Measurement) -> dict[str, Any]:
    return {k: v for k, v in row.attack_params.items() if k != "who"}


def _label(attack: str, params: dict[str, Any], all_of_it: list[dict[str, Any]]) -> str:
    each = [dict(_flat(p)) for p in all_of_it]
    differ = [f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}" for k, v in _flat(params)
              if any(other.get(k) != v for other in each)]
    return attack.removeprefix("hostile-") + (f" ({', '.join(differ)})" if differ else "")


def _flat(params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Parameters by name, those of a poisoning among them too."""
    for name, value in params.items():
        yield from ((f"{name} {k}", v) for k, v in _flat(value)) if isinstance(value, dict) else [(name, value)]


def collapsed(rows: Rows, model: str, defense: str) -> bool:
    """Whether a federation says nearly the same of everyone before anyone attacks it: hostile hospitals cannot show
    anything there."""
    flag = rows.one("collapsed", model, defense)
    return flag is not None and bool(flag.value)


def matrix(rows: Rows, model: str) -> Table:
    """Attacks by hospitals against rules, on one model."""
    metric = "attacked_balanced_accuracy"
    tried = [h for h in hostilities(rows, model) if any(h.one(rows, metric, model, d) for d in rows.defenses(model))]
    table = Table(f"{model}: balanced accuracy under hostile hospitals", [
        "joined by", "no attacker", *(h.label for h in tried), "withstands"],
        note=f"Below: the 95% interval. Red: right about fewer test {rows.cases} than without an attacker, by an "
             "interval that leaves out 0. Withstands: the most hostile hospitals that the rule can be asked to "
             f"withstand, of all. {_who(rows, model, tried)} A backdoor is not meant to show here.")
    for defense in rows.defenses(model):
        bound = next((r for h in tried if (r := h.one(rows, "tolerated", model, defense))), None)
        if bound is None:
            continue
        table.add("", [words(defense), plain(rows.one("balanced_accuracy", model, defense), beneath=True),
                       *(_under(rows, model, defense, h) for h in tried),
                       words(f"{max(bound.value, 0):.0f} of {bound.n}")])
    return table


def _who(rows: Rows, model: str, tried: list[Hostility]) -> str:
    """Which hospitals were hostile, as far as that was written down, by attack where it differs."""
    met: dict[str, list[str]] = defaultdict(list)
    for h in tried:
        met[_hostile(rows, model, h)].append(h.label)
    told = [who + (f" under {join(labels)}" if len(met) > 1 else "") for who, labels in met.items()]
    return f"Hostile: {'; '.join(told)}."


def _hostile(rows: Rows, model: str, h: Hostility) -> str:
    found = {metric: next((r for d in rows.defenses(model) if (r := h.one(rows, metric, model, d))), None)
             for metric in ("hostile_hospitals", "hostile_share")}
    count, of = found.values()
    who = count.attack_params.get("who")
    return (f"{count.value:.0f} of {count.n} hospitals" + (f", {join(who)}" if who else "")
            + (f", with {share(of.value)} of the training rows" if of else ""))


def _under(rows: Rows, model: str, defense: str, h: Hostility) -> Cell:
    under = h.one(rows, "attacked_balanced_accuracy", model, defense)
    change = h.one(rows, "accuracy_change", model, defense)
    lost = change is not None and change.ci_high is not None and change.ci_high < 0
    return plain(under, tone="bad" if lost else "", beneath=True)


def verdict(rows: Rows, model: str) -> str:
    """One sentence on what hostile hospitals leave of a model under the rule that lets them do most, and under the one
    that lets them do least: by the attacks that all of them met, without those that collapse by themselves."""
    left: dict[str, dict[str, float]] = {}
    for defense in rows.defenses(model):
        found = {h.label: r.value for h in hostilities(rows, model)
                 if (r := h.one(rows, "attacked_balanced_accuracy", model, defense))}
        if found:
            left[defense] = found
    fallen = [d for d in left if collapsed(rows, model, d)]
    rules = [d for d in left if d not in fallen]
    met = Counter(label for d in rules for label in left[d])
    shared = [label for label, count in met.items() if count == len(rules)]
    if not shared:
        return ""
    worst = {d: min((left[d][label], label) for label in shared) for d in rules}
    least, most = (pick(worst, key=lambda d: worst[d][0]) for pick in (min, max))

    def told(defense: str) -> str:
        value, label = worst[defense]
        return f"{number(value)} joined by {defense}, under {label}"

    which = "" if len(rules) == 1 else " that all rules met"
    text = (f"Of {len(shared)} attack{'s' * (len(shared) > 1)} by hospitals{which}, the worst leaves {model} a "
            f"balanced accuracy of {told(least)}")
    text += "." if least == most else f", and of {told(most)}."
    return text + (f" Left out, because collapsed without any attack: {join(fallen)}." if fallen else "")
