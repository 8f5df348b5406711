"""Checks of the audit itself: gradient-masking checks, library attacks, detectors, and what an audit of a privacy
budget cannot show. None of them is a finding about the hospital's model."""

from __future__ import annotations

from suite.report.findings import Check, widened
from suite.report.rows import CONTROL, WORST, Rows
from suite.report.rules.epsilon import unrefuted
from suite.report.sections.detection import ADAPTIVE, detectors
from suite.report.show import join, percent, plural, points

FEW = 10
"""Of fewer inputs a share says little."""


def _who(model: str, defense: str) -> str:
    return model + ("" if defense == "none" else f" behind {defense}")


def masking_checks(rows: Rows) -> list[Check]:
    """How many of the checks for gradient masking passed; those that failed are findings about their model."""
    passed, failed = [], []
    for model, defense in rows.pairs():
        for name, row in rows.named("check", model, defense, WORST).items():
            (passed if row.value else failed).append((_who(model, defense), name))
    if not passed and not failed:
        return []
    text = f"{plural(len(passed) + len(failed), 'check')} for gradient masking ran, {len(failed)} failed"
    where = dict.fromkeys(who for who, _ in failed)
    return [Check("gradient masking", f"{text}{f' ({join(list(where))})' if failed else ''}.", "robustness")]


def library_attacks(rows: Rows) -> list[Check]:
    """Attacks that, used alone or by their own count, give another picture than the worst case does."""
    out = []
    attacks = dict.fromkeys(a for m in rows.models for a in rows.attacks(m, "none", "claimed_success_rate"))
    for attack in attacks:
        impossible = {m: r for m in rows.models if (r := rows.one("claimed_impossible", m, attack=attack)) and r.n}
        if impossible:
            hits = sum(r.n for r in impossible.values())
            invalid = sum(round(r.value * r.n) for r in impossible.values())
            text = (f"{attack}, given only the range of each column, reports success on {plural(hits, 'patient')} "
                    f"within the budget; {invalid} of its results {'is' if invalid == 1 else 'are'} no possible "
                    "patient (an immutable column changed, a fraction where only whole numbers "
                    "occur, or a value out of range).")
            out.append(Check(join(list(impossible)), text, "robustness"))
        missed = {m: r for m in rows.models if (r := rows.one(f"overstated[{attack}]", m, attack=WORST))}
        out += [Check(model, f"{attack} alone would overstate robust accuracy by {points(row)}, n = {row.n}.",
                      "robustness")
                for model, row in missed.items() if widened(row, len(missed))[0] > 0]
    return out


def detection(rows: Rows) -> list[Check]:
    """What each detector finds, and what an attack that knows it gets past it."""
    out = []
    for model, defense in rows.pairs():
        for name in detectors(rows, model, defense):
            metric = f"detection_tpr[{name}@0.05]"
            tried = [r for a in rows.attacks(model, defense, metric) if (r := rows.one(metric, model, defense, a))
                     and r.n and a != CONTROL and r.attack_params.get("fitted_on") != a]
            alarms = rows.one(f"detection_fpr[{name}@0.05]", model, defense)
            past = rows.one(f"adaptive_evasion[{name}]", model, defense, ADAPTIVE)
            if alarms is None or not (tried or past):
                continue
            if tried:
                # a detector is as good as against the attack that it finds least, unless that is a matter of few inputs
                least = min([r for r in tried if r.n >= FEW] or tried, key=lambda r: r.value)
                text = (f"{name} detects {percent(least)} of {plural(least.n, 'input')} that {least.attack} got "
                        "misclassified, ")
            else:
                text = f"{name} was tried on no attack but those it was fitted on, "
            text += f"at a false-alarm rate of {percent(alarms)}, n = {alarms.n}"
            if past is None or past.ci_low is None:
                text += ". No attack that knows the detector was tried."
            else:
                alone = rows.one(f"unguarded_evasion[{name}]", model, defense, ADAPTIVE)
                text += (f"; an attack that knows it gets {percent(past)} of {past.n} correctly classified inputs "
                         f"misclassified without an alarm{f'; with no detector, {percent(alone)}' if alone else ''}.")
            out.append(Check(_who(model, defense), text, "detection"))
    return out


def epsilon_audits(rows: Rows) -> list[Check]:
    """Audits that refute nothing, which proves nothing."""
    return [Check(_who(model, defense), text, "epsilon") for model, defense, text in unrefuted(rows)]
