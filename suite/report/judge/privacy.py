"""Findings about privacy: what the undefended models give away."""

from __future__ import annotations

from suite.measurement import Measurement
from suite.report.command import command
from suite.report.findings import THRESHOLDS, Finding, Level, widened
from suite.report.judge.weigh import result, weigh
from suite.report.rows import Rows
from suite.report.sections.membership import FPRS, beside, called, ranked
from suite.report.show import interval, join, number, percent, plural, points, share
from suite.report.strength import missing_strong

FEW = 10
"""The mean of fewer training patients is no typical patient."""


def membership(rows: Rows) -> list[Finding]:
    """The worst membership attack on each model that is put to use, where it is known what the model learned from."""
    out = []
    for model, defense in rows.deployed:
        # a server that sees the updates is another attacker
        scores = [r for r in ranked(rows, model, defense) if r.knowledge != "white-box"]
        if scores and rows.training_known(model):
            out.append(told(rows, scores, "membership"))
    return out


def told(rows: Rows, scores: list[Measurement], topic: str, by: str = "") -> Finding:
    """Whether membership attacks on one model tell its training patients; the worst of them is quoted."""
    weighed = weigh(rows, topic, [result(r, base=0.5, among=len(scores)) for r in scores], scores)
    worst, level = weighed.worst.row, weighed.level
    says = {"low": f"Training patients can hardly be told from others{by}",
            "inconclusive": f"It is not settled whether training patients can be told from others{by}"
            }.get(level, f"Training patients can be told from others{by}")
    if level == "inconclusive" and weighed.worst.low > 0:
        says = f"Training patients can be told from others{by} better than by chance"
    among = f", the worst of {len(scores)} attacks" if len(scores) > 1 else ""
    text = f"{says}: AUROC {interval(worst)} by {called(worst)}{among}, n = {worst.n} (0.50 is chance level)."
    tprs = ((f, beside(rows, worst, f"tpr_at_fpr[{f}]")) for f in FPRS)
    strictest = next(((f, tpr) for f, tpr in tprs if tpr), None)
    if strictest:
        text += f" At {100 * float(strictest[0]):g}% false alarms it finds {percent(strictest[1])} of them."
    return Finding(level, worst.model, text + weighed.why, topic, worst.defense, figure=number(worst.value),
                   weight=worst.value, command=weighed.command)


def attribute(rows: Rows) -> list[Finding]:
    """Columns that the model's answer helps to guess, over all attacks on a model."""
    out = []
    for model in rows.models:
        gains = [r for attack in rows.attacks(model, "none", "attribute_gain")
                 for r in rows.of("attribute_gain", model, attack=attack)]
        if not gains:
            continue
        weighed = weigh(rows, "attribute", [result(r, among=len(gains)) for r in gains], gains)
        worst = weighed.worst.row
        above = list(dict.fromkeys(_column(r) for r in gains if widened(r, len(gains))[0] > 0))
        start = (f"The model's answer helps to guess {join(above)}" if above else
                 "It is not settled whether the model's answer helps to guess any column")
        columns = len({_column(r) for r in gains})
        text = (f"{start} beyond imputation, among {plural(columns, 'column')}; most for {_column(worst)} by "
                f"{worst.attack}, by {points(worst)}, n = {worst.n}.")
        out.append(Finding(weighed.level, model, text + weighed.why, "attribute",
                           figure=f"{number(100 * worst.value, 0)} pt", weight=worst.value, command=weighed.command))
    return out


def _column(row: Measurement) -> str:
    return str(row.attack_params.get("column", "a column"))


def inversion(rows: Rows) -> list[Finding]:
    """Whether reconstructions come nearer to the patients of a class than the mean of everyone does."""
    out = []
    for model in rows.models:
        for attack in rows.attacks(model, "none", next(
                (r.metric for r in rows.all if r.metric.startswith("inversion_distance[")), "")):
            prior = rows.named("inversion_prior_distance", model, attack=attack)
            tried = [(1 - row.value / prior[k].value, k, row) for k in prior if prior[k].value and prior[k].n >= FEW
                     for row in rows.of(f"inversion_distance[{k}]", model, attack=attack)]
            if not tried:
                continue
            gain, best, row = max(tried, key=lambda t: t[0])
            threshold = THRESHOLDS["inversion"]
            missing = missing_strong(rows, "inversion", model, [t[2] for t in tried])
            level: Level = ("high" if gain >= threshold.high else "medium" if gain >= threshold.medium
                            else "inconclusive" if gain > 0 or missing is not None else "low")
            nearer = "nearer to" if gain > 0 else "farther from"
            text = (f"{attack} reconstructs “{best}” at a distance of {number(row.value, 3)} of the scale from its "
                    f"mean patient, {nearer} it than the mean of everyone ({number(prior[best].value, 3)}); the best "
                    f"of {len(tried)} reconstructions, which the attacker cannot tell from the others.")
            says, of_all = (next((r for r in rows.of(f"inversion_{score}[{best}]", model, attack=attack)
                                  if r.attack_params == row.attack_params), None)
                            for score in ("recognized", "prior_recognized"))
            if says and of_all:
                text += (f" Another model, which learned from other patients, takes it for “{best}” with a probability "
                         f"of {share(says.value)}, and the mean of everyone with {share(of_all.value)}.")
            todo = ""
            if level == "inconclusive":
                text += " There is no interval, so that nothing settles it."
                if missing:
                    text += f" No strong attack of this kind ran on this model: not {join(missing[:3])}."
                    todo = command(rows, missing[:1], [model])
            out.append(Finding(level, model, text, "inversion", figure=share(max(gain, 0.0)), weight=gain,
                               command=todo))
    return out


def reconstruction(rows: Rows) -> list[Finding]:
    """Training patients rebuilt from the model and all others."""
    out = []
    for model in rows.models:
        for attack in rows.attacks(model, "none", "rows_rebuilt"):
            found, guess = (rows.one(m, model, attack=attack) for m in ("rows_rebuilt", "rows_rebuilt_baseline"))
            text = (f"{attack} rebuilds {percent(found)} of left-out training patients, with all their values, from "
                    f"the model and all other rows, n = {found.n}; the mean of their class is within 1% of "
                    f"{share(guess.value)}.")
            weighed = weigh(rows, "reconstruction", [result(found, base=guess.value)], [found])
            out.append(Finding(weighed.level, model, text + weighed.why, "reconstruction", figure=share(found.value),
                               weight=found.value, command=weighed.command))
    return out


def extraction(rows: Rows) -> list[Finding]:
    """What the answers of the model are worth to a thief, at the number of answers at which they are worth most."""
    out = []
    for model in rows.models:
        for attack in rows.attacks(model, "none", "fidelity_gain"):
            copies, own, gains = ({_spent(r): r for r in rows.of(metric, model, attack=attack)} for metric in
                                  ("fidelity", "fidelity_of_own_labels", "fidelity_gain"))
            weighed = weigh(rows, "extraction", [result(r, among=len(gains)) for r in gains.values()], gains.values())
            gain = weighed.worst.row
            asked = _spent(gain)
            among = f", the most of {len(gains)} numbers of answers" if len(gains) > 1 else ""
            text = (f"A copy made by {attack} from {asked:g} answers agrees with the model on "
                    f"{percent(copies[asked])} of patients, n = {gain.n}; the same kind of model trained on as many "
                    f"true labels of the attacker's own (all that it has, if fewer), {share(own[asked].value)}: the "
                    f"answers add {points(gain)}{among}.")
            text += _beyond(rows, model, attack)
            out.append(Finding(weighed.level, model, text + weighed.why, "extraction",
                               figure=f"{number(100 * gain.value, 0)} pt", weight=gain.value, command=weighed.command))
    return out


def _beyond(rows: Rows, model: str, attack: str) -> str:
    """What else a theft gives away, and whether it is noticed."""
    back, noise, alarm, false = (rows.one(metric, model, attack=attack) for metric in (
        "transfer_back", "transfer_noise", "alarm_after", "false_alarms"))
    text = ""
    if back and noise:
        text += (f" What fools the copy fools the model on {percent(back)} of n = {back.n}, noise of the same size on "
                 f"{share(noise.value)}.")
    if false:
        text += (f" The pattern of the questions is noticed after {alarm.value:g}" if alarm else
                 " The pattern of the questions is not noticed") + f"; false alarms, {share(false.value)}."
    return text


def _spent(row: Measurement) -> float:
    return row.attack_params.get("budget") or row.queries or 0
