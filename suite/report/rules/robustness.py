"""Findings about evasion: what was misclassified, and whether the figure can be believed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from suite.report import known
from suite.report.findings import THRESHOLDS, Finding, widened
from suite.report.rows import CONTROL, WORST, Robustness, Rows, robustness
from suite.report.rules.command import command
from suite.report.rules.strength import missing_strong
from suite.report.rules.weigh import Weighed, result, weigh
from suite.report.show import join, number, percent, share
from suite.results.measurement import Measurement

UNSEEN = 0.95
"""Structural similarity from which a change is called hardly visible."""


def evasion(rows: Rows) -> list[Finding]:
    """How many correctly classified patients are misclassified within the budget, for every model put to use: of all
    attacks in the main norm together, and in each other norm that has a budget of its own."""
    out = []
    for model, defense in rows.deployed:
        collapsed = rows.one("collapsed", model, defense)
        if collapsed is not None and collapsed.value:
            continue  # said where collapse is judged: the prediction of a constant model cannot be changed
        tried = _tried(rows, model, defense)
        found = robustness(rows, model, defense)
        if found is not None and found.success is not None and found.success.ci_low is not None:
            out.append(_evasion(rows, found, tried.get("linf", [])))
        out += [_in_norm(rows, norm, of_it) for norm, of_it in tried.items() if norm != "linf"]
    return out


def _tried(rows: Rows, model: str, defense: str) -> dict[str, list[Measurement]]:
    """The success rate of each attack at the budget of its norm, by norm, without the control.

    An L2 ball no larger than the Linf budget lies inside it, so what searches there is counted with the main norm.
    """
    out: dict[str, list[Measurement]] = defaultdict(list)
    for attack in rows.attacks(model, defense, "robust_accuracy"):
        for row in rows.of("attack_success_rate", model, defense, attack):
            norm, eps = known.norm(row), row.attack_params.get("eps")
            at = rows.budget(norm)
            if attack != CONTROL and norm != "own" and eps is not None and eps == at:
                out["linf" if norm == "l2" and at <= (rows.eps or 0) else norm].append(row)
    return out


def _evasion(rows: Rows, found: Robustness, tried: list[Measurement]) -> Finding:
    """The worst case over all attacks, and each attack by itself: one that ran on few patients leaves open what it
    would do to the others."""
    flips, kept = found.success, found.accuracy
    singles = [r for r in tried if r is not flips]
    weighed = weigh(rows, "evasion", [result(flips), *(result(r, among=len(singles)) for r in singles)], tried, "linf")
    text = (f"Attacks change the prediction for {percent(flips)} of {flips.n} correctly classified {rows.cases} within "
            f"{rows.voice.within(rows.eps)}; accuracy falls from {share(found.clean)} to "
            f"{percent(kept)}, n = {kept.n}.")
    chance = rows.one("attack_success_rate", kept.model, kept.defense, CONTROL, eps=rows.eps)
    if kept.attack == CONTROL:
        text += " These are random changes: " + (
            "they change more predictions than the attacks that ran, so this is no more than a lower bound of the "
            "risk." if found.attacked else "no attack was tried on this model.")
    elif chance is not None:
        text += _by_chance(chance)
    if found.partial and found.attacked:
        text += f" Attacks were tried on {found.attacked} of {kept.n} {rows.cases} only."
    if weighed.level == "low" and found.partial:
        weighed = replace(weighed, level="inconclusive")
    weighed = _believed(rows, weighed, flips, chance, tried, "linf")
    if weighed.level in ("high", "medium") and kept.defense == "none":
        text += _unseen(rows, kept.model)
    return replace(weighed.finding(text, "evasion", share(flips.value)), weight=flips.value)


def _in_norm(rows: Rows, norm: str, tried: list[Measurement]) -> Finding:
    """What attacks in another norm than the main one do, each at the budget of that norm."""
    weighed = weigh(rows, "evasion", [result(r, among=len(tried)) for r in tried], tried, norm)
    worst = weighed.worst.row
    among = f", the worst of {len(tried)} attacks in this norm" if len(tried) > 1 else ""
    text = (f"{worst.attack} changes the prediction for {percent(worst)} of {worst.n} correctly classified "
            f"{rows.cases} within {_ball(rows, worst, norm)}{among}.")
    controls = rows.of("attack_success_rate", worst.model, worst.defense, CONTROL, eps=rows.budget(norm))
    chance = next((r for r in controls if known.norm(r) == norm), None)
    if chance is not None:
        text += _by_chance(chance)
    weighed = _believed(rows, weighed, worst, chance, tried, norm)
    return weighed.finding(text, "evasion", share(worst.value))


def _ball(rows: Rows, row: Measurement, norm: str) -> str:
    """"L2 0.5" of images, "L2 50% of each column's scale" of tables, "3 columns"."""
    text = known.budget(row, rows.voice)
    return f"L2 {text} of {rows.voice.scale}" if norm == "l2" and not text.startswith("L2") else text


def _by_chance(chance: Measurement) -> str:
    draws = chance.attack_params.get("draws")
    return f" Random changes of that size{f' (the worst of {draws})' if draws else ''}: {percent(chance)}."


def _believed(rows: Rows, weighed: Weighed, flips: Measurement, chance: Measurement | None,
              tried: list[Measurement], norm: str) -> Weighed:
    """With what casts doubt on the figure: a failed check makes none low; noise that does as much is said, and leaves
    the level as it is, since the predictions change all the same."""
    where = flips.model, flips.defense
    if weighed.level == "low" and any(r.value == 0 for r in rows.named("check", *where, WORST).values()):
        return replace(weighed, level="inconclusive", why=f"{weighed.why} A check for gradient masking failed.")
    lifts = _lifts(rows, flips, norm)
    beaten = any(low > 0 for low, _ in lifts) if lifts else chance is None or chance.value < flips.value
    if weighed.level not in ("high", "medium") or not tried or beaten:
        return weighed
    same = "Not distinguishable from random noise"
    missing = missing_strong(rows, "evasion", flips.model, [r for r in tried if r.n >= flips.n], norm)
    if missing is None and lifts and all(high < THRESHOLDS["evasion"].medium for _, high in lifts):
        return replace(weighed, why=f" {same}: the budget is too large to say anything about attackers. Lower it with "
                                    "--eps, or give columns a smaller scale in the schema.")
    if missing is None:
        return replace(weighed, why=f" {same} on these {flips.n} {rows.cases}: the budget may be too large to say "
                                    "anything about attackers.")
    return replace(weighed, why=f" {same} by the attacks that ran; no strong attack ran on all of these {rows.cases}"
                                f"{f': not {join(missing[:3])}' if missing else ''}.",
                   command=command(rows, missing[:1], [flips.model]) if missing else "")


def _lifts(rows: Rows, flips: Measurement, norm: str) -> list[tuple[float, float]]:
    """By how much each attack in a norm beats its random control on the same patients: the paired intervals, the lower
    ends widened for the number of attacks."""
    where = flips.model, flips.defense
    lifts = []
    for name in rows.named("lift", *where, WORST):
        of_it = {known.norm(r) for r in rows.of("attack_success_rate", *where, name)} or {"linf"}
        lifts += [r for r in rows.of(f"lift[{name}]", *where, WORST, eps=rows.budget(norm))
                  if norm in of_it and r.ci_low is not None and r.ci_high is not None]
    return [(widened(r, len(lifts))[0], r.ci_high) for r in lifts]


def _unseen(rows: Rows, model: str) -> str:
    """The strongest of the attacks whose changes can hardly be seen, where there are any."""
    found = []
    for attack in rows.attacks(model, "none", "attack_success_rate"):
        at = rows.main(model, "none", attack)
        success, ssim = (rows.one(m, model, attack=attack, eps=at) for m in ("attack_success_rate", "visibility[ssim]"))
        if success and ssim and ssim.value >= UNSEEN and (success.ci_low or 0) >= THRESHOLDS["evasion"].medium:
            found.append((success, ssim))
    if not found:
        return ""
    success, ssim = max(found, key=lambda pair: pair[0].value)
    return (f" Hardly anyone would see it: {success.attack} at {known.budget(success, rows.voice)} changes "
            f"{percent(success)} with a median structural similarity of {number(ssim.value, 3)} to the originals "
            "(SSIM; 1 is equal).")


def natural(rows: Rows) -> list[Finding]:
    """Changes whose budget is no norm (a turn, speckle, uneven light): they come about without any attacker."""
    out = []
    for model in rows.models:
        tried = [r for a in rows.attacks(model, "none", "attack_success_rate")
                 for r in rows.of("attack_success_rate", model, attack=a) if r.ci_low is not None
                 and known.norm(r) == "own"]
        collapsed = rows.one("collapsed", model)
        if not tried or (collapsed is not None and collapsed.value):
            continue
        weighed = weigh(rows, "natural changes", [result(r, among=len(tried)) for r in tried], tried, "own")
        if by_chance := [result(r, among=len(tried)) for r in tried if not _aimed(r)]:
            alone = weigh(rows, "natural changes", by_chance)
            if alone.level == weighed.level:  # what nobody aims says more about everyday use
                weighed = replace(weighed, worst=alone.worst)
        worst = weighed.worst.row
        text = (f"{worst.attack} ({known.budget(worst, rows.voice)}) changes the prediction for {percent(worst)} of "
                f"{worst.n} correctly classified {rows.cases}. Such a change needs no attacker; each "
                f"{rows.voice.case} met ")
        text += "the worst that gradients find." if _aimed(worst) else "several, and one that succeeds counts."
        others = [r for r in tried if r is not worst]
        if listed := [_listed(rows, r, others, _aimed(worst)) for r in others]:
            text += f" Others: {'; '.join(listed)}."
        out.append(weighed.finding(text, "natural changes", share(worst.value)))
    return out


def _aimed(row: Measurement) -> bool:
    return row.knowledge == "white-box"


def _listed(rows: Rows, row: Measurement, others: list[Measurement], known_aimed: bool) -> str:
    """One of several changes, with its budget where its attack ran at more than one."""
    twice = sum(r.attack == row.attack for r in others) > 1
    how = f" ({known.budget(row, rows.voice)})" if twice else ""
    return f"{row.attack}{how} {percent(row)}" + (", found with gradients" if _aimed(row) and not known_aimed else "")


def masking(rows: Rows) -> list[Finding]:
    """Failed checks: the robust accuracy beside them says nothing."""
    out = []
    for model, defense in rows.pairs():
        failed = [name for name, row in rows.named("check", model, defense, WORST).items() if row.value == 0]
        collapsed = rows.one("collapsed", model, defense)
        # a constant answer fails them too, and not because it blinds anyone
        if failed and not (collapsed is not None and collapsed.value):
            quoted = join([f"“{name}”" for name in failed])
            text = (f"Its robust accuracy is not to be trusted: {quoted} failed, a sign of gradient masking rather "
                    "than robustness.")
            out.append(Finding("high", model, text, "trust", defense, weight=len(failed)))
    return out


def subgroups(rows: Rows) -> list[Finding]:
    """Groups of patients who are clearly worse off than all patients together."""
    out = []
    for model in rows.models:
        for metric, attack, name in (("sensitivity", "", "sensitivity"), ("accuracy", "", "accuracy"),
                                     ("robust_accuracy", WORST, "robust accuracy")):
            if metric == "robust_accuracy" and (found := robustness(rows, model)) and found.partial:
                continue
            groups = rows.subgroups(metric, model, attack=attack)
            overall = rows.one(metric, model, attack=attack, eps=rows.eps if attack else None)
            if overall is None or overall.ci_low is None:
                continue
            for group, row in groups.items():
                if widened(row, len(groups))[1] < overall.ci_low:
                    text = (f"{rows.cases.capitalize()} with {group.replace('=', ' ')} have a clearly lower {name}: "
                            f"{percent(row)}, n = {row.n}, against {percent(overall)} of all.")
                    out.append(Finding("medium", model, text, "subgroups", figure=share(row.value),
                                       weight=overall.value - row.value))
    return out
