"""Findings about federations: what hostile hospitals do to them, what their server sees, and who loses by taking part.
"""

from __future__ import annotations

import math
from dataclasses import replace

from suite.report.findings import Finding, widened
from suite.report.rows import Rows
from suite.report.rules.privacy import told
from suite.report.rules.training import CHANGES, PLANTED, Planted, change_name, planted
from suite.report.rules.weigh import Result, result, weigh
from suite.report.sections.federation import every_rebuilt, federations, sizes, watching
from suite.report.sections.hostile import collapsed, hostilities
from suite.report.sections.membership import beside
from suite.report.show import number, percent, plural, points, share
from suite.results.measurement import Measurement


def hostile(rows: Rows) -> list[Finding]:
    """The attack by hospitals that costs each federation most."""
    return [_worst(rows, model, defense) for model, defense in federations(rows)
            if not collapsed(rows, model, defense) and _changes(rows, model, defense)]


def _changes(rows: Rows, model: str, defense: str) -> list[tuple[Measurement, str]]:
    """Each change that has an interval, and by what."""
    return [(r, h.label) for h in hostilities(rows, model) for metric in CHANGES
            for r in h.rows(rows, metric, model, defense) if r.ci_low is not None]


def _worst(rows: Rows, model: str, defense: str) -> Finding:
    changes = _changes(rows, model, defense)
    by = {id(row): label for row, label in changes}
    weighed = weigh(rows, "hostile hospitals", [result(r, loss=True, among=len(changes)) for r, _ in changes],
                    [r for r, _ in changes])
    worst = weighed.worst.row
    label, name, of = by[id(worst)], change_name(worst), len({label for _, label in changes})
    if weighed.level == "low" or weighed.worst.low <= 0:
        text = (f"No attack by hospitals (of {of}) clearly lowers sensitivity, specificity or accuracy; the worst, "
                f"{label}: {name} {points(worst)}, n = {worst.n}.")
    else:
        among = f"; the worst of {of} attacks" if of > 1 else ""
        text = f"Under {label}, hostile hospitals change {name} by {points(worst)}, n = {worst.n}{among}."
    return weighed.finding(text, "hostile hospitals", f"{number(100 * worst.value, 0)} pt {name}")


def planting(rows: Rows) -> list[Finding]:
    """Whether the triggers that hostile hospitals plant work."""
    return [found for model, defense in federations(rows) if not collapsed(rows, model, defense)
            if (found := planted(rows, [
                Planted(f" of hostile hospitals ({h.label})", lift, *(beside(rows, lift, m) for m in PLANTED))
                for h in hostilities(rows, model) for lift in h.rows(rows, "lift", model, defense)]))]


def losing(rows: Rows) -> list[Finding]:
    """The hospital that clearly loses most by taking part, against the model that it trains alone; where one does, what
    all of them may lose decides the level."""
    out = []
    for model, defense in federations(rows):
        gains = rows.subgroups("federation_gain", model, defense)
        sure = {group: r for group, r in gains.items() if r.ci_low is not None and widened(r, len(gains))[1] < 0}
        if collapsed(rows, model, defense) or not sure:
            continue
        group, worst = min(sure.items(), key=lambda item: item[1].value)
        weighed = weigh(rows, "taking part", [result(r, loss=True, among=len(gains)) for r in gains.values()])
        among = f"; {len(sure)} of {plural(len(gains), 'hospital')} clearly lose" if len(sure) > 1 else ""
        text = (f"{group.partition('=')[2]} loses by taking part: accuracy {points(worst)} against the model that it "
                f"trains alone, n = {worst.n}{among}.")
        quoted = replace(weighed, worst=result(worst, loss=True))
        out.append(quoted.finding(text, "taking part", f"{number(100 * worst.value, 0)} pt"))
    return out


def curious(rows: Rows) -> list[Finding]:
    """Whether the server of each federation tells its patients by the updates."""
    return [told(rows, scores, "curious server", f" by a server that sees the {_seen(scores[0])}")
            for pair in federations(rows) if (scores := watching(rows, *pair))]


def _seen(row: Measurement) -> str:
    return "mean of all updates" if row.defense_params.get("secure") else "updates"


def rebuilding(rows: Rows) -> list[Finding]:
    """Whether patients are rebuilt from the first update of a hospital: of the number of patients that helps most."""
    out = []
    for model, defense in federations(rows):
        tried = [(found, guess) for n in sizes(rows) for found in every_rebuilt(rows, model, defense, n)
                 for guess in every_rebuilt(rows, model, defense, n, "_baseline")
                 if (guess.cell, guess.attack) == (found.cell, found.attack)]
        if tried:
            out.append(_rebuilt(rows, tried))
    return out


def _rebuilt(rows: Rows, tried: list[tuple[Measurement, Measurement]]) -> Finding:
    weighed = weigh(rows, "rebuilt patients", [
        # there are no thresholds for the similarity of images
        Result(found, found.value - guess.value, -math.inf, math.inf) if found.metric == "rebuilt_ssim" else
        result(found, base=guess.value, among=len(tried)) for found, guess in tried], [found for found, _ in tried])
    found, guess = next(pair for pair in tried if pair[0] is weighed.worst.row)
    sight = ("the mean of the first updates of hospitals" if found.defense_params.get("secure") else
             "the first update of a hospital")
    patients, of_it = found.attack_params["patients"], len({f.attack_params["patients"] for f, _ in tried})
    of = f"From {sight} of {plural(patients, rows.voice.case)}, {found.attack} rebuilds"
    if found.metric == "rebuilt_ssim":
        figure = number(found.value)
        text = (f"{of} them with a structural similarity of {figure} (1 is the same, no interval), n = {found.n}; the "
                f"mean of validation {rows.cases} has {number(guess.value)}.")
        weighed = replace(weighed, above=False)
    else:
        figure = share(found.value)
        text = (f"{of} {percent(found)} with every value right, n = {found.n}; by guessing, {share(guess.value)}.")
    text += f" The most of {of_it} sizes of hospital." if of_it > 1 else ""
    return weighed.finding(text, "rebuilt patients", figure)
