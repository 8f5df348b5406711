"""Findings about evasion: what was fooled, and whether the figure can be believed."""

from __future__ import annotations

from suite.report import known
from suite.report.findings import THRESHOLDS, Finding, grade, widened
from suite.report.rows import CONTROL, WORST, Rows, robustness
from suite.report.show import join, number, percent, plural, points, share

UNSEEN = 0.95
"""Structural similarity from which a change is called hardly visible."""


def evasion(rows: Rows) -> list[Finding]:
    """How many rightly judged patients are misjudged within the budget, for every undefended model."""
    out = []
    for model in rows.models:
        found = robustness(rows, model)
        if found is None or found.success is None or found.success.ci_low is None:
            continue
        flips, kept = found.success, found.accuracy
        collapsed = rows.one("collapsed", model)
        if collapsed is not None and collapsed.value:
            continue  # said where collapse is judged: a constant answer cannot be fooled
        level = grade("evasion", flips.ci_low, flips.ci_high)
        blinded = any(r.value == 0 for r in rows.named("check", model, attack=WORST).values())
        if level == "good" and (found.partial or blinded):
            level = "low"
        text = (f"{percent(flips)} of the {flips.n} rightly judged {rows.cases} are misjudged after changes within "
                f"{rows.voice.within(rows.eps)}; accuracy falls from {share(found.clean)} to "
                f"{percent(kept)}, n = {kept.n}.")
        chance = rows.one("attack_success_rate", model, attack=CONTROL, eps=rows.eps)
        if kept.attack == CONTROL:
            text += " These are random changes: " + (
                f"they fool more {rows.cases} than the attacks that ran, so this is no more than a lower bound of the "
                "risk." if found.attacked else "no attack was tried on this model.")
        elif chance is not None:
            draws = chance.attack_params.get("draws")
            text += (f" The worst of {draws} random changes of that size fools" if draws else
                     " Random changes of that size fool") + f" {percent(chance)}."
        if found.partial and found.attacked:
            text += f" Attacks were tried on {found.attacked} of {kept.n} {rows.cases} only."
        if level in ("high", "medium"):
            text += _unseen(rows, model)
        out.append(Finding(level, model, text, "evasion", figure=share(flips.value), weight=flips.value))
    return out


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
    return (f" Hardly anyone would see it: {success.attack} at {known.budget(success, rows.voice)} misleads "
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
        aimed = [r for r in tried if r.knowledge == "white-box"]  # whom nobody aims does less harm
        found = [r for r in tried if r not in aimed] or aimed
        worst = max(found, key=lambda r: (r.ci_low, r.value))
        text = (f"{worst.attack} ({known.budget(worst, rows.voice)}) misleads {percent(worst)} of the {worst.n} "
                f"rightly judged {rows.cases}. Such a change needs no attacker; each "
                f"{rows.voice.case} met ")
        text += "the worst that gradients find." if found is aimed else "several, and one that misleads counts."
        listed = [f"{r.attack} {percent(r)}{', found with gradients' if r in aimed and found is not aimed else ''}"
                  for r in tried if r is not worst]
        if listed:
            text += f" Others: {'; '.join(listed)}."
        out.append(Finding(grade("natural changes", *widened(worst, len(found))), model, text, "natural changes",
                           figure=share(worst.value), weight=worst.value))
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
            text = (f"Its robust accuracy is not to be trusted: {quoted} failed, a sign that the model blinds attacks "
                    "rather than withstands them.")
            out.append(Finding("high", model, text, "trust", defense, weight=len(failed)))
    return out


def claims(rows: Rows) -> list[Finding]:
    """Attacks that, used alone or taken at their word, paint another picture than the worst case does."""
    out = []
    attacks = dict.fromkeys(a for m in rows.models for a in rows.attacks(m, "none", "claimed_success_rate"))
    for attack in attacks:
        impossible = {m: r for m in rows.models if (r := rows.one("claimed_impossible", m, attack=attack)) and r.n}
        if impossible:
            hits = sum(r.n for r in impossible.values())
            invalid = sum(round(r.value * r.n) for r in impossible.values())
            text = (f"{attack}, told no more than the range of each column, claims to have fooled "
                    f"{plural(hits, 'patient')} within the budget; {invalid} of its results "
                    f"{'is' if invalid == 1 else 'are'} no possible patient (an immutable column changed, a fraction "
                    "where only whole numbers occur, or a value out of range).")
            level = "medium" if invalid else "good"
            out.append(Finding(level, join(list(impossible)), text, "trust", figure=share(invalid / hits)))
        missed = {m: r for m in rows.models if (r := rows.one(f"overstated[{attack}]", m, attack=WORST))}
        clear = {m: r for m, r in missed.items() if widened(r, len(missed))[0] > 0}
        for model, row in clear.items():
            out.append(Finding("medium", model, f"{attack} alone would overstate robust accuracy by {points(row)}, "
                                                f"n = {row.n}.", "trust", figure=share(row.value), weight=row.value))
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
