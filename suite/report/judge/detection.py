"""Findings about detectors."""

from __future__ import annotations

from suite.report.findings import Finding, grade
from suite.report.rows import CONTROL, Rows
from suite.report.sections.detection import ADAPTIVE, detectors
from suite.report.show import percent, plural, share

FEW = 10
"""Of fewer inputs a share says little."""


def detection(rows: Rows) -> list[Finding]:
    """What each detector finds, and what an attack that knows it gets past it; level by the latter."""
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
            text = ""
            if tried:
                # a detector is as good as against the attack that it finds least, unless that is a matter of few inputs
                least = min([r for r in tried if r.n >= FEW] or tried, key=lambda r: r.value)
                text = (f"{name} finds {percent(least)} of the {plural(least.n, 'input')} that {least.attack} turned "
                        "from right to wrong, ")
            else:
                text = f"{name} was tried on no attack but those it learned from, "
            text += f"at {percent(alarms)} false alarms, n = {alarms.n}"
            if past is None or past.ci_low is None:
                out.append(Finding("low", model, f"{text}. No attack that knows it was tried.", "detection", defense))
                continue
            alone = rows.one(f"unguarded_evasion[{name}]", model, defense, ADAPTIVE)
            text += (f"; an attack that knows it has {percent(past)} of the {past.n} rightly judged inputs misjudged "
                     "without an alarm" + (f", against {percent(alone)} where no detector stands." if alone else "."))
            out.append(Finding(grade("detection", past.ci_low, past.ci_high), model, text, "detection", defense,
                               figure=share(past.value), weight=past.value))
    return out
