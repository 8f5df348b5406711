"""Findings about evasion: what was misclassified, and whether the figure can be believed."""

from __future__ import annotations

from suite.measurement import Measurement
from suite.report import known
from suite.report.findings import THRESHOLDS, Finding, widened
from suite.report.judge.weigh import Weighed, result, weigh
from suite.report.rows import CONTROL, WORST, Robustness, Rows, robustness
from suite.report.show import join, number, percent, share

UNSEEN = 0.95
"""Structural similarity from which a change is called hardly visible."""


def evasion(rows: Rows) -> list[Finding]:
    """How many correctly classified patients are misclassified within the budget, for every model put to use."""
    out = []
    for model, defense in rows.deployed:
        found = robustness(rows, model, defense)
        if found is None or found.success is None or found.success.ci_low is None:
            continue
        collapsed = rows.one("collapsed", model, defense)
        if collapsed is not None and collapsed.value:
            continue  # said where collapse is judged: the prediction of a constant model cannot be changed
        out.append(_evasion(rows, found))
    return out


def _evasion(rows: Rows, found: Robustness) -> Finding:
    flips, kept = found.success, found.accuracy
    model, defense = kept.model, kept.defense
    weighed = _weighed(rows, found)
    level, blinded = weighed.level, any(r.value == 0 for r in rows.named("check", model, defense, WORST).values())
    text = (f"Attacks change the prediction for {percent(flips)} of {flips.n} correctly classified {rows.cases} within "
            f"{rows.voice.within(rows.eps)}; accuracy falls from {share(found.clean)} to "
            f"{percent(kept)}, n = {kept.n}.")
    chance = rows.one("attack_success_rate", model, defense, CONTROL, eps=rows.eps)
    if kept.attack == CONTROL:
        text += " These are random changes: " + (
            "they change more predictions than the attacks that ran, so this is no more than a lower bound of the "
            "risk." if found.attacked else "no attack was tried on this model.")
    elif chance is not None:
        draws = chance.attack_params.get("draws")
        text += f" Random changes of that size{f' (the worst of {draws})' if draws else ''}: {percent(chance)}."
    if found.partial and found.attacked:
        text += f" Attacks were tried on {found.attacked} of {kept.n} {rows.cases} only."
    why, todo = weighed.why, weighed.command
    if level in ("high", "medium") and found.attacked and _no_more_than_noise(rows, flips, chance):
        level, todo = "inconclusive", ""
        why = (" Not distinguishable from random noise: the budget is too large to say anything about attackers. Lower "
               "it with --eps, or give columns a smaller scale in the schema.")
    elif level == "low" and (found.partial or blinded):
        level = "inconclusive"
        why = " A check for gradient masking failed." if blinded else ""
    if level in ("high", "medium") and defense == "none":
        text += _unseen(rows, model)
    return Finding(level, model, text + why, "evasion", defense, figure=share(flips.value), weight=flips.value,
                   command=todo)


def _weighed(rows: Rows, found: Robustness) -> Weighed:
    """The worst case over all attacks, and each attack by itself: one that ran on few patients leaves open what it
    would do to the others."""
    flips, at = found.success, (found.accuracy.model, found.accuracy.defense)
    ran = [r for a in rows.attacks(*at, "robust_accuracy") if a != CONTROL
           and (r := rows.one("robust_accuracy", *at, a)) is not None and known.norm(r) != "own"]
    tried = [r for ran_row in ran if known.norm(ran_row) == "linf"
             and (r := rows.one("attack_success_rate", *at, ran_row.attack, eps=rows.eps)) is not None
             and r.ci_high is not None and r.attack != flips.attack]
    return weigh(rows, "evasion", [result(flips), *(result(r, among=len(tried)) for r in tried)], ran)


def _no_more_than_noise(rows: Rows, flips: Measurement, chance: Measurement | None) -> bool:
    """Whether no attack beats the random control on the same patients: by the paired intervals where they were taken,
    widened for the number of attacks, else by the two rates."""
    lifts = [r for r in rows.named("lift", flips.model, flips.defense, WORST).values() if r.ci_low is not None]
    if lifts:
        return all(widened(r, len(lifts))[0] <= 0 for r in lifts)
    return chance is not None and chance.value >= flips.value


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
                 if (r := rows.one("attack_success_rate", model, attack=a)) and r.ci_low is not None
                 and known.norm(r) == "own"]
        collapsed = rows.one("collapsed", model)
        if not tried or (collapsed is not None and collapsed.value):
            continue
        aimed = [r for r in tried if r.knowledge == "white-box"]  # what nobody aims does less harm
        found = [r for r in tried if r not in aimed] or aimed
        weighed = weigh(rows, "natural changes", [result(r, among=len(found)) for r in found])
        worst = weighed.worst.row
        text = (f"{worst.attack} ({known.budget(worst, rows.voice)}) changes the prediction for {percent(worst)} of "
                f"{worst.n} correctly classified {rows.cases}. Such a change needs no attacker; each "
                f"{rows.voice.case} met ")
        text += "the worst that gradients find." if found is aimed else "several, and one that succeeds counts."
        listed = [f"{r.attack} {percent(r)}{', found with gradients' if r in aimed and found is not aimed else ''}"
                  for r in tried if r is not worst]
        if listed:
            text += f" Others: {'; '.join(listed)}."
        out.append(Finding(weighed.level, model, text + weighed.why, "natural changes", figure=share(worst.value),
                           weight=worst.value))
    return out


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
