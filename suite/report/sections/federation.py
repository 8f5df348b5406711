"""Federations: what each hospital gets and pays, and what hostile ones do to the model under each rule."""

from __future__ import annotations

from suite.measurement import Measurement
from suite.report.rows import Rows
from suite.report.sections.membership import beside, called, ranked
from suite.report.show import NONE, number, share
from suite.report.tables import Cell, Table, amount, est, plain, words

COLUMNS = 10
"""Hospitals that have a column of a table, at most."""


SIZES = (1, 4, 16)
"""As `federated.rebuilding.SIZES`."""


def federations(rows: Rows) -> list[tuple[str, str]]:
    """The (model, defense) that were trained at several hospitals."""
    return [pair for pair in rows.pairs() if rows.subgroups("hospital_rows", *pair)]


def hospitals(rows: Rows, model: str, defense: str) -> Table:
    """What each hospital brings to one federation, and what it gets out of it."""
    classes = rows.manifest.get("classes", [])
    disease = classes[1] if len(classes) == 2 else ""
    table = Table(f"{model}, federated by {defense}", [
        "hospital", f"training {rows.cases}", f"“{disease}”" if disease else "", "unlike the others", "alone",
        "federated", "personal", "federated less alone", "test n", "kB sent", "seconds", "ε", "ε independent"],
        note="Accuracy on a hospital's own test "
             f"{rows.cases}: of a model that it trains alone for as many passes, of the common one, and of the common "
             "one after some more passes over its own rows. Unlike: half the sum of differences of its classes' shares "
             "to those of all others. kB: of parameters, to and from it. Red: its interval lies below 0.")
    get = {m: rows.subgroups(m, model, defense) for m in (
        "hospital_rows", f"label_share[{disease}]", "label_distance", "local_accuracy", "federated_accuracy",
        "personal_accuracy", "federation_gain", "bytes_sent", "work_seconds", "hospital_epsilon",
        "hospital_epsilon_independent")}
    for group, count in get["hospital_rows"].items():
        of = {metric: found.get(group) for metric, found in get.items()}
        sick, sent = of[f"label_share[{disease}]"], of["bytes_sent"]
        table.add("", [
            words(group.partition("=")[2]), amount(count.value), Cell(share(sick.value) if sick else "", num=True),
            plain(of["label_distance"]), est(of["local_accuracy"]), est(of["federated_accuracy"]),
            est(of["personal_accuracy"]), _change(of["federation_gain"]),
            amount(of["federated_accuracy"].n if of["federated_accuracy"] else None),
            amount(sent.value / 1000 if sent else None), plain(of["work_seconds"], 1), plain(of["hospital_epsilon"]),
            plain(of["hospital_epsilon_independent"])])
    return table.pruned()


def _change(row: Measurement | None) -> Cell:
    sure = row is not None and row.ci_low is not None
    return est(row, "good" if sure and row.ci_low > 0 else "bad" if sure and row.ci_high < 0 else "")


def costs(rows: Rows, model: str) -> Table:
    """What each federation of a model is worth to each hospital, beside one model of all rows in one place."""
    own = [defense for of, defense in federations(rows) if of == model]
    pooled, size = rows.subgroups("accuracy", model), rows.subgroups("hospital_rows", model, own[0])
    apart = rows.subgroups("label_distance", model, own[0])
    small, odd = min(size, key=lambda g: size[g].value), max(apart, key=lambda g: apart[g].value, default="")
    shown = _shown(rows, model, own[0])
    marks = {small: "smallest", odd: "most different"} | ({small: "smallest, most different"} if small == odd else {})
    table = Table(f"{model}: the common model at each hospital", [
        "trained", *(_named(group, marks.get(group, "")) for group in shown)],
        note=f"Accuracy on a hospital's own test {rows.cases}. Red: worse than training with all rows in one place, "
             f"{rows.voice.case} by {rows.voice.case}. Smallest: by training rows; most different: by the shares of "
             f"its classes.{_left(len(size) - len(shown))}")
    table.add("", [words("with all rows in one place"), *(est(pooled.get(group)) for group in shown)])
    for defense in own:
        found = rows.subgroups("federated_accuracy", model, defense)
        change = rows.subgroups("gain[accuracy]", model, defense)
        table.add("", [words(f"by {defense}"), *(est(found.get(g), _change(change.get(g)).tone.replace("good", ""))
                                                 for g in shown)])
    return table


def _shown(rows: Rows, model: str, defense: str) -> list[str]:
    """The hospitals that have a column: all of a few; of many, the smallest and the most different."""
    size, apart = (rows.subgroups(m, model, defense) for m in ("hospital_rows", "label_distance"))
    if len(size) <= COLUMNS:
        return list(size)
    half = COLUMNS // 2
    kept = sorted(size, key=lambda g: size[g].value)[:half]
    kept += [g for g in sorted(size, key=lambda g: -apart[g].value) if g not in kept][:COLUMNS - half]
    return [g for g in size if g in kept]


def _named(group: str, mark: str) -> str:
    return group.partition("=")[2] + (f" ({mark})" if mark else "")


def _left(count: int) -> str:
    return f" {count} more hospitals are left out here: those shown are the smallest and most different." if count \
        else ""


def hostilities(rows: Rows) -> list[str]:
    """Names of the attacks by hospitals."""
    return list(dict.fromkeys(r.attack for r in rows.all if r.metric == "hostile_hospitals"))


def matrix(rows: Rows, model: str) -> Table:
    """Attacks by hospitals against rules, on one model."""
    attacks = [a for a in hostilities(rows)
               if any(rows.of("attacked_balanced_accuracy", model, d, a) for d in rows.defenses(model))]
    table = Table(f"{model}: balanced accuracy under hostile hospitals", [
        "joined by", "no attacker", *(a.removeprefix("hostile-") for a in attacks), "withstands"],
        note=f"Red: right about fewer test {rows.cases} than without an attacker, by an interval that leaves out 0. "
             "Withstands: the most hostile hospitals that the rule can be asked to withstand, of all. How many there "
             f"were: {', '.join(_count(rows, a) for a in attacks)}. A backdoor is not meant to show here.")
    for defense in rows.defenses(model):
        bound = next((r for a in attacks if (r := rows.one("tolerated", model, defense, a))), None)
        if bound is None:
            continue
        table.add("", [words(defense), plain(rows.one("balanced_accuracy", model, defense)),
                       *(_under(rows, model, defense, a) for a in attacks),
                       words(f"{max(bound.value, 0):.0f} of {bound.n}")])
    return table


def _count(rows: Rows, attack: str) -> str:
    found = next(r for r in rows.all if (r.attack, r.metric) == (attack, "hostile_hospitals"))
    return f"{attack.removeprefix('hostile-')} {found.value:.0f}"


def _under(rows: Rows, model: str, defense: str, attack: str) -> Cell:
    under = rows.one("attacked_balanced_accuracy", model, defense, attack)
    change = rows.one("accuracy_change", model, defense, attack)
    lost = change is not None and change.ci_high is not None and change.ci_high < 0
    return Cell(number(under.value) if under else NONE, num=True, tone="bad" if lost else "")


def leaks(rows: Rows) -> Table:
    """Who is found among each hospital's patients."""
    pairs = [pair for pair in federations(rows) if ranked(rows, *pair)]
    shown = _shown(rows, *pairs[0]) if pairs else []
    table = Table("Membership at each hospital: AUROC of the strongest attack", [
        "trained", "attack", *(_named(group, "") for group in shown)],
        note="Training patients of a hospital are told from its test patients, by the common model's answers or by "
             "the hospital's updates. 0.50 is guessing; of the strongest of several, chance alone gives a little more.")
    for model, defense in pairs:
        best = ranked(rows, model, defense)[0]
        found = [beside(rows, best, "membership_auroc", group) for group in shown]
        if any(found):
            table.add(model, [words(f"by {defense}"), words(called(best)), *map(est, found)])
    return table


def curious(rows: Rows) -> Table:
    """What a server that keeps to the protocol learns of the hospitals' patients, and what those see who ask the model.
    """
    table = Table("What a curious server learns", [
        "trained", "AUROC of the model", "membership by its answers", "membership by updates", "attack",
        "error of the label mix", "of guessing the common mix", *(f"rebuilt of {n}" for n in SIZES), "by guessing"],
        note="Membership: AUROC of the strongest attack that asks the model, as anybody may, and of the strongest that "
             "sees each update, as the server does (under secure aggregation: their mean). Label mix: mean difference "
             "of estimated and true shares of classes at a hospital. Rebuilt of n: from the first update of a hospital "
             f"of n {rows.cases}, the share of them with every value right, or of images their structural similarity "
             "(SSIM); by guessing: the same of validation rows, or of their mean.")
    for model, defense in federations(rows):
        found = ranked(rows, model, defense)
        inside = next((r for r in found if r.knowledge == "white-box"), None)
        outside = next((r for r in found if r.knowledge != "white-box"), None)
        mixes = [r for a in rows.attacks(model, defense, "label_mix_error")
                 if (r := rows.one("label_mix_error", model, defense, a))]
        rebuilt = [_rebuilt(rows, model, defense, n) for n in SIZES]
        if inside is None and not mixes and not any(rebuilt):
            continue
        guess = rows.one("label_mix_error_baseline", model, defense, mixes[0].attack) if mixes else None
        table.add(model, [words(f"by {defense}"), est(rows.one("auroc", model, defense)), est(outside),
                          est(inside), words(called(inside) if inside else ""), plain(mixes[0] if mixes else None),
                          plain(guess), *map(est, rebuilt), est(_rebuilt(rows, model, defense, SIZES[0], "_baseline"))])
    return table.pruned()


def _rebuilt(rows: Rows, model: str, defense: str, patients: int, suffix: str = "") -> Measurement | None:
    """What gradient inversion has right of a hospital of so many patients."""
    found = (r for metric in ("patients_rebuilt", "rebuilt_ssim") for a in rows.attacks(model, defense, metric)
             for r in rows.of(metric + suffix, model, defense, a) if r.attack_params.get("patients") == patients)
    return next(found, None)


def verdict(rows: Rows, model: str) -> str:
    """One sentence on what hostile hospitals do under the plain mean, and under the rule that lets them do least."""
    losses: dict[str, tuple[float, str]] = {}
    for defense in rows.defenses(model):
        found = [(change.value, a) for a in hostilities(rows)
                 if (change := rows.one("accuracy_change", model, defense, a)) is not None]
        if found:
            losses[defense] = min(found)
    if not losses:
        return ""
    least, most = (pick(losses, key=lambda d: losses[d][0]) for pick in (max, min))

    def told(defense: str) -> str:
        value, attack = losses[defense]
        return f"{number(max(-100 * value, 0), 0)} points of accuracy when joined by {defense} (to {attack})"

    text = f"At worst, hostile hospitals take from {model} {told(most)}"
    return text + ("." if most == least else f", and {told(least)}.")
