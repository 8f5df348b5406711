"""Findings about privacy: what the undefended models give away."""

from __future__ import annotations

from suite.report.findings import Finding, widened
from suite.report.rows import Rows
from suite.report.rules.weigh import point, result, weigh
from suite.report.sections.federation import watching
from suite.report.sections.membership import FPRS, PERSON, beside, by_person, called, ranked
from suite.report.show import interval, join, number, percent, plural, points, share
from suite.results.measurement import Measurement

FEW = 10
"""The mean of fewer training patients is no typical patient."""


def membership(rows: Rows) -> list[Finding]:
    """The worst membership attack on each model that is put to use, where it is known what the model learned from."""
    out = []
    for model, defense in rows.deployed:
        # a server that sees the updates is another attacker
        seeing = watching(rows, model, defense)
        scores = [r for r in ranked(rows, model, defense) if r not in seeing]
        if scores and rows.training_known(model):
            out.append(told(rows, scores, "membership"))
    return out


def told(rows: Rows, scores: list[Measurement], topic: str, by: str = "") -> Finding:
    """Whether membership attacks on one model tell its training patients, by one row of each or by all rows of a
    patient; the worst of them is quoted."""
    how = {id(found): PERSON[way] for row in scores for way, found in by_person(rows, row).items()}
    all_of_it = [r for row in scores for r in (row, *by_person(rows, row).values())]
    weighed = weigh(rows, topic, [result(r, base=0.5, among=len(all_of_it)) for r in all_of_it], scores)
    worst, level = weighed.worst.row, weighed.level
    says = {"low": f"Training patients can hardly be told from others{by}",
            "inconclusive": f"It is not settled whether training patients can be told from others{by}"
            }.get(level, f"Training patients can be told from others{by}")
    if level == "inconclusive" and weighed.worst.low > 0:
        says = f"Training patients can be told from others{by} better than by chance"
    among = f", the worst of {len(scores)} attacks" if len(scores) > 1 else ""
    by = called(worst) + (f" ({how[id(worst)]})" if id(worst) in how else "")
    text = f"{says}: AUROC {interval(worst)} by {by}{among}, n = {worst.n} (0.50 is chance level)."
    tprs = ((f, beside(rows, worst, f"tpr_at_fpr[{f}]")) for f in FPRS)
    strictest = next(((f, tpr) for f, tpr in tprs if tpr), None)
    if strictest and id(worst) not in how:
        text += f" At {100 * float(strictest[0]):g}% false alarms it finds {percent(strictest[1])} of them."
    return weighed.finding(text, topic, number(worst.value))


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
                 "The model's answer hardly helps to guess any column" if weighed.level == "low" else
                 "It is not settled whether the model's answer helps to guess any column")
        columns = len({_column(r) for r in gains})
        text = (f"{start} beyond imputation, among {plural(columns, 'column')}; most for {_column(worst)} by "
                f"{worst.attack}, by {points(worst)}, n = {worst.n}.")
        out.append(weighed.finding(text, "attribute", f"{number(100 * worst.value, 0)} pt"))
    return out


def _column(row: Measurement) -> str:
    return str(row.attack_params.get("column", "a column"))


def inversion(rows: Rows) -> list[Finding]:
    """Whether reconstructions come nearer to the patients of a class than the mean of everyone does.

    There is no interval: a value can show a risk, and never that there is none.
    """
    return [_inverted(rows, tried) for model in rows.models if (tried := _inversions(rows, model))]


def _inversions(rows: Rows, model: str) -> list[tuple[Measurement, Measurement, str]]:
    """(reconstruction, the mean of everyone, class) of every attack; of classes of few patients there is none."""
    start = "inversion_distance["
    names = dict.fromkeys(r.metric for r in rows.all if r.metric.startswith(start) and r.model == model)
    return [(row, prior, name[len(start):-1]) for name in names for attack in rows.attacks(model, "none", name)
            for row in rows.of(name, model, attack=attack)
            if (prior := beside(rows, row, f"inversion_prior_distance[{name[len(start):-1]}]"))
            and prior.value and prior.n >= FEW]


def _inverted(rows: Rows, tried: list[tuple[Measurement, Measurement, str]]) -> Finding:
    by_row = {id(row): (prior, name) for row, prior, name in tried}
    weighed = weigh(rows, "inversion", [point(row, 1 - row.value / prior.value) for row, prior, _ in tried],
                    [row for row, *_ in tried])
    row, gain = weighed.worst.row, weighed.worst.value
    prior, best = by_row[id(row)]
    nearer = "nearer to" if gain > 0 else "farther from"
    text = (f"{row.attack} reconstructs “{best}” at a distance of {number(row.value, 3)} of the scale from its mean "
            f"patient, {nearer} it than the mean of everyone ({number(prior.value, 3)}); the best of {len(tried)} "
            "reconstructions, which the attacker cannot tell from the others.")
    says, of_all = (beside(rows, row, f"inversion_{score}[{best}]") for score in ("recognized", "prior_recognized"))
    if says and of_all:
        text += (f" Another model, which learned from other patients, takes it for “{best}” with a probability of "
                 f"{share(says.value)}, and the mean of everyone with {share(of_all.value)}.")
    return weighed.finding(text, "inversion", share(max(gain, 0.0)))


def reconstruction(rows: Rows) -> list[Finding]:
    """Training patients rebuilt from the model and all others."""
    out = []
    for model in rows.models:
        tried = [(found, guess) for attack in rows.attacks(model, "none", "rows_rebuilt")
                 for found in rows.of("rows_rebuilt", model, attack=attack)
                 if (guess := beside(rows, found, "rows_rebuilt_baseline"))]
        if not tried:
            continue
        weighed = weigh(rows, "reconstruction", [result(found, base=guess.value, among=len(tried))
                                                 for found, guess in tried], [found for found, _ in tried])
        found, guess = next(pair for pair in tried if pair[0] is weighed.worst.row)
        text = (f"{found.attack} rebuilds {percent(found)} of left-out training patients, with all their values, from "
                f"the model and all other rows, n = {found.n}; the mean of their class is within 1% of "
                f"{share(guess.value)}.")
        out.append(weighed.finding(text, "reconstruction", share(found.value)))
    return out


def extraction(rows: Rows) -> list[Finding]:
    """What the answers of the model are worth to a thief: of all attacks, and of all numbers of answers, those that are
    worth most."""
    out = []
    for model in rows.models:
        gains = [r for attack in rows.attacks(model, "none", "fidelity_gain")
                 for r in rows.of("fidelity_gain", model, attack=attack)]
        if not gains:
            continue
        weighed = weigh(rows, "extraction", [result(r, among=len(gains)) for r in gains], gains)
        gain = weighed.worst.row
        copy, own = (next(r for r in rows.of(metric, model, attack=gain.attack)
                          if (r.cell, _spent(r)) == (gain.cell, _spent(gain)))
                     for metric in ("fidelity", "fidelity_of_own_labels"))
        among = f", the most of {len(gains)} copies" if len(gains) > 1 else ""
        text = (f"A copy made by {called(gain)} from {_spent(gain):g} answers agrees with the model on {percent(copy)} "
                f"of {rows.cases}, n = {gain.n}; the same kind of model trained on as many true labels of the "
                f"attacker's own (all that it has, if fewer), {share(own.value)}: the answers add "
                f"{points(gain)}{among}.")
        text += _beyond(rows, gain)
        out.append(weighed.finding(text, "extraction", f"{number(100 * gain.value, 0)} pt"))
    return out


def _beyond(rows: Rows, gain: Measurement) -> str:
    """What else a theft gives away, and whether it is noticed."""
    back, noise, alarm, false = (beside(rows, gain, metric) for metric in (
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
