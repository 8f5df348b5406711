"""Requirements that a run must meet, for a release pipeline: nothing that was not measured ever passes."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from suite.audit.layout import WORST
from suite.audit.plan import Item
from suite.base.errors import InputError
from suite.base.limits import SMALLEST_GROUP
from suite.results.measurement import Measurement
from suite.results.run import Run

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
GRAMMAR = re.compile(r"^\s*(?:(?P<model>[^\s/:]+)?(?:/(?P<defense>[^\s:]+))?\s*:)?"
                     r"\s*(?P<metric>[a-z_0-9]+(?:\[[^\]]+\])?)(?:\s+of\s+(?P<attack>\S+))?"
                     r"(?:\s+in\s+every\s+(?P<groups>\S+))?\s*(?P<op>>=|<=|>|<)\s*"
                     r"(?P<bound>-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\s*$")


class Verdict(NamedTuple):
    """One requirement: whether it is met, and a line that says why."""

    met: bool
    text: str


def check(run: Run, requirements: Iterable[str], lenient: bool = False, head: str | None = None) -> list[Verdict]:
    """Hold a run against requirements of the form `[MODEL][/DEFENSE]: METRIC [of ATTACK] [in every GROUP] >= NUMBER`.

    MODEL is its name in the plan; of a file, its last part with "-" for what is neither letter, digit, "_" nor ".".
    `robust_accuracy` and `attack_success_rate` mean the worst case over all evasion attacks unless an attack is named,
    at the run's main budget. GROUP is a column of subgroups: "in every sex", "in every hospital". Without a model or a
    defense, every one of the run must meet the requirement, and every model have been measured on it. No figure about
    evasion passes for a model that has collapsed, or whose gradients seem masked.

    Args:
        run: A finished run.
        requirements: At least one.
        lenient: Compare the value; otherwise the end of its 95 % interval that is worse for the requirement.
        head: Last hash of the run's seal, kept elsewhere: without it, whoever can write the folder can seal it anew.

    Raises:
        InputError: A requirement that cannot be read or matches no row; a run that is not complete, that is not as it
            was sealed, or whose seal does not end at `head`; or a cell in its scope that failed.
    """
    run.require_seal(head)
    rows, manifest = run.rows(), run.manifest
    if missing := run.missing():
        what = f"{len(missing)} cells are" if missing[1:] else "1 cell is"
        raise InputError(f"{run.folder}: the run is not complete, {what} missing or cannot be read ({missing[0]}"
                         f"{', ...' if missing[1:] else ''}); the same audit command again computes what is missing")
    return [_judge(text, rows, manifest, lenient) for text in requirements]


def _judge(text: str, rows: list[Measurement], manifest: dict[str, Any], lenient: bool) -> Verdict:
    found, eps = GRAMMAR.match(text), manifest["plan"]["eps"]
    if not found:
        raise InputError(f"requirement '{text}': write it like 'robust_accuracy >= 0.5' or "
                         "'mlp/trades: tpr_at_fpr[0.05] of membership-rule <= 0.1'")
    model, defense, metric, attack, groups, sign, bound = found.groups()
    scope = [r for r in rows if model in (None, r.model, Item(name=r.model).slug)
             and defense in (None, r.defense, Item(name=r.defense).slug)]
    if not scope:
        raise InputError(f"requirement '{text}': the run has no {model or ''}{'/' + defense if defense else ''}")
    if attack is None and metric in ("robust_accuracy", "attack_success_rate"):
        attack = WORST
    failed = [r for r in scope if r.error and attack in (None, WORST, r.attack)]
    if failed:
        raise InputError(f"requirement '{text}': {failed[0].cell} failed: {failed[0].error}")
    chosen = [r for r in scope if r.metric == metric and attack in (None, r.attack)
              and (r.subgroup.startswith(f"{groups}=") if groups else not r.subgroup)
              and r.attack_params.get("eps", eps) == eps]
    if not chosen:
        near = difflib.get_close_matches(metric, {r.metric for r in scope if bool(r.subgroup) == bool(groups)}, 1)
        raise InputError(f"requirement '{text}': no row of {metric}" + (f" of {attack}" if attack else "")
                         + (f" in any {groups}" if groups else "")
                         + (f"; did you mean '{near[0]}'?" if near and near[0] != metric else ""))
    if unmeasured := {r.model for r in scope} - {r.model for r in chosen}:
        raise InputError(f"requirement '{text}': {metric} was not measured for {min(unmeasured)}; name the model that "
                         "the requirement is for")
    if doubt := _doubt(scope, chosen):
        return Verdict(False, f"{text.strip()}: {doubt}")
    found = _worst(text, chosen, sign, float(bound), lenient)
    if groups and ("shared" in manifest or any(r.metric == f"withheld_groups[{groups}]" for r in scope)):
        least = manifest.get("shared", manifest["plan"]).get("smallest_group", SMALLEST_GROUP)
        return Verdict(found.met, f"{found.text}; groups of fewer than {least} people were not judged")
    return found


def _doubt(scope: list[Measurement], chosen: list[Measurement]) -> str:
    """Why a figure about evasion must not be relied on, whatever it says; empty when nothing speaks against it."""
    shown = {(r.model, r.defense) for r in chosen
             if r.metric in ("robust_accuracy", "attack_success_rate") and "eps" in r.attack_params}
    for row in scope:
        who = row.model + ("" if row.defense == "none" else f" behind {row.defense}")
        if (row.model, row.defense) not in shown:
            continue
        if row.metric == "collapsed" and row.value:
            return f"{who} has collapsed, and a constant answer is not robust"
        if row.metric.startswith("check[") and row.value == 0:
            return f"the robustness of {who} is not to be trusted, '{row.metric[6:-1]}' failed"
    return ""


def _worst(text: str, rows: list[Measurement], sign: str, bound: float, lenient: bool) -> Verdict:
    """The row that is furthest from meeting the requirement decides."""

    def compared(row: Measurement) -> float:
        at = row.estimate
        end = at.low if sign.startswith(">") else at.high
        value = at.value if lenient or math.isnan(end) else end
        # what could not be computed meets nothing
        return value if not math.isnan(value) else -math.inf if sign.startswith(">") else math.inf

    row = (min if sign.startswith(">") else max)(rows, key=compared)
    at, value = row.estimate, compared(row)
    interval = "" if math.isnan(at.low) else f", 95 % interval {at.low:.3g} to {at.high:.3g}"
    who = row.model + ("" if row.defense == "none" else f" behind {row.defense}")
    what = (f" under {row.attack}" if row.attack else "") + (f" in {row.subgroup}" if row.subgroup else "")
    return Verdict(OPERATORS[sign](value, bound), f"{text.strip()}: worst is {who}{what} at {at.value:.3g}{interval}")
