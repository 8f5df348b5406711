"""Federations: what each hospital gets and pays, and what a curious server learns of its patients."""

from __future__ import annotations

from suite.defenses.private.sizes import AT_EDGE
from suite.report.rows import Rows
from suite.report.sections.membership import beside, called, ranked
from suite.report.show import number, protects, share
from suite.report.tables import Cell, Table, amount, est, plain, words
from suite.results.measurement import Measurement

COLUMNS = 10
"""Hospitals that have a column of a table, at most."""
REBUILT = ("patients_rebuilt", "rebuilt_ssim")
"""What gradient inversion is measured by: of tables, of images."""
WEAK = 0.01
"""From this delta on, a promise is called weak."""
PROTECTS = {"row": "any one row of a hospital, from everybody",
            "hospital": "all that a hospital holds, from everybody",
            "hospital, by the server": "whether a hospital took part, from all but the server"}
"""What `federated.training.defense.FederatedTraining.hides` means."""


def federations(rows: Rows) -> list[tuple[str, str]]:
    """The (model, defense) that were trained at several hospitals."""
    return [pair for pair in rows.pairs() if rows.subgroups("hospital_rows", *pair)]


def hospitals(rows: Rows, model: str, defense: str) -> Table:
    """What each hospital brings to one federation, and what it gets out of it."""
    classes = rows.manifest.get("classes", [])
    disease = classes[1] if len(classes) == 2 else ""
    table = Table(f"{model}, federated by {defense}", [
        "hospital", f"training {rows.cases}", f"“{disease}”" if disease else "", "unlike the others", "alone",
        "federated", "personal", "federated less alone", "test n", "kB sent", "seconds", "ε", "ε independent", "δ",
        "ε shown at least"],
        note="Accuracy on a hospital's own test "
             f"{rows.cases}: of a model that it trains alone for as many passes, of the common one, and of the common "
             "one after some more passes over its own rows. Unlike: half the sum of differences of its classes' shares "
             "to those of all others. kB: of parameters, to and from it. Red: its interval lies below 0."
             f"{_promise(rows, model, defense)}")
    get = {m: rows.subgroups(m, model, defense) for m in (
        "hospital_rows", f"label_share[{disease}]", "label_distance", "local_accuracy", "federated_accuracy",
        "personal_accuracy", "federation_gain", "bytes_sent", "work_seconds", "hospital_epsilon",
        "hospital_epsilon_independent", "hospital_delta")}
    get["shown"] = _shown_epsilon(rows, model, defense)
    for group, count in get["hospital_rows"].items():
        of = {metric: found.get(group) for metric, found in get.items()}
        sick, sent = of[f"label_share[{disease}]"], of["bytes_sent"]
        table.add("", [
            words(group.partition("=")[2]), amount(count.value), Cell(share(sick.value) if sick else "", num=True),
            plain(of["label_distance"]), est(of["local_accuracy"]), est(of["federated_accuracy"]),
            est(of["personal_accuracy"]), _change(of["federation_gain"]),
            amount(of["federated_accuracy"].n if of["federated_accuracy"] else None),
            amount(sent.value / 1000 if sent else None), plain(of["work_seconds"], 1), plain(of["hospital_epsilon"]),
            plain(of["hospital_epsilon_independent"]), _delta(of["hospital_delta"]), plain(of["shown"])])
    return table.pruned()


def _shown_epsilon(rows: Rows, model: str, defense: str) -> dict[str, Measurement]:
    """By hospital, the epsilon that an audit has shown at least."""
    audits = (r.attack for r in rows.all if r.metric == "epsilon_audited" and r.subgroup
              and (r.model, r.defense) == (model, defense))
    attack = next(audits, None)
    return rows.subgroups("epsilon_audited", model, defense, attack) if attack else {}


def _delta(row: Measurement | None) -> Cell:
    return Cell(f"{row.value:g}", num=True, tone="bad" if row.value >= WEAK else "") if row else words("")


def _promise(rows: Rows, model: str, defense: str) -> str:
    """What an epsilon is about, and whether its delta makes it a weak one."""
    deltas = list(rows.subgroups("hospital_delta", model, defense).values())
    if not deltas:
        return ""
    hides = PROTECTS.get(deltas[0].defense_params.get("hides"))
    text = f" ε and δ protect {hides}" if hides else ""
    text += f" ({whom})." if hides and (whom := protects(deltas[0])) else "." if hides else ""
    if edges := [r for r in deltas if r.attack_params.get("public_rows_from") == AT_EDGE]:
        text += (f" At {len(edges)} of {len(deltas)} hospitals the number of rows taken as public is rounded from the "
                 "exact one, and one row more or less changes it: ε does not hold there. Set public_rows.")
    if any(r.value >= WEAK for r in deltas):
        text += (f" δ in red, {WEAK:g} or more: so weak that a training may keep it and still give away that share of "
                 "whom it protects, whatever ε.")
    return text


def mixes(rows: Rows, model: str, defense: str) -> Table:
    """The shares of the classes at each hospital; of two classes, the table of hospitals has them."""
    classes = rows.manifest.get("classes", [])
    table = Table("Classes at each hospital", ["hospital", *classes], note="Shares of its training "
                  f"{rows.cases}; the last line, of all.")
    if len(classes) <= 2:
        return table
    size = rows.subgroups("hospital_rows", model, defense)
    found = [rows.subgroups(f"label_share[{label}]", model, defense) for label in classes]
    for group in size:
        table.add("", [words(group.partition("=")[2]), *(_part(of[group].value if group in of else None)
                                                         for of in found)])
    total = sum(r.value for r in size.values())
    overall = [sum(size[g].value * r.value for g, r in of.items()) / total for of in found]
    table.add("", [words("all"), *map(_part, overall)])
    return table


def _part(value: float | None) -> Cell:
    return Cell(share(value), num=True)


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
    several = sizes(rows)
    table = Table("What a curious server learns", [
        "trained", "AUROC of the model", "membership by its answers", "membership by updates", "attack",
        "error of the label mix", "of guessing the common mix", *(f"rebuilt of {n}" for n in several), "by guessing"],
        note="Membership: AUROC of the strongest attack that asks the model, as anybody may, and of the strongest that "
             "sees each update, as the server does (under secure aggregation: their mean). Label mix: mean difference "
             "of estimated and true shares of classes at a hospital. Rebuilt of n: from the first update of a hospital "
             f"of n {rows.cases}, the share of them with every value right, or of images their structural similarity "
             "(SSIM); by guessing: the same of validation rows, or of their mean.")
    for model, defense in federations(rows):
        inside = next(iter(watching(rows, model, defense)), None)
        outside = next((r for r in ranked(rows, model, defense) if r.knowledge != "white-box"), None)
        mixed = [r for a in rows.attacks(model, defense, "label_mix_error")
                 if (r := rows.one("label_mix_error", model, defense, a))]
        looked = [rebuilt(rows, model, defense, n) for n in several]
        lucky = next((r for n in several if (r := rebuilt(rows, model, defense, n, "_baseline"))), None)
        if inside is None and not mixed and not any(looked):
            continue
        guess = rows.one("label_mix_error_baseline", model, defense, mixed[0].attack) if mixed else None
        table.add(model, [words(f"by {defense}"), est(rows.one("auroc", model, defense)), est(outside),
                          est(inside), words(called(inside) if inside else ""), plain(mixed[0] if mixed else None),
                          plain(guess), *map(est, looked), est(lucky)])
    return table.pruned()


def watching(rows: Rows, model: str, defense: str) -> list[Measurement]:
    """The AUROC of each membership attack that sees the updates of a federation, the surest first."""
    inside = (model, defense) in federations(rows)
    return [r for r in ranked(rows, model, defense) if inside and r.knowledge == "white-box"]


def sizes(rows: Rows) -> list[int]:
    """Of hospitals, in patients, whose update was looked into."""
    return sorted({r.attack_params["patients"] for r in rows.all
                   if r.metric in REBUILT and "patients" in r.attack_params})


def rebuilt(rows: Rows, model: str, defense: str, patients: int, suffix: str = "") -> Measurement | None:
    """What gradient inversion has right of a hospital of so many patients."""
    return next(iter(every_rebuilt(rows, model, defense, patients, suffix)), None)


def every_rebuilt(rows: Rows, model: str, defense: str, patients: int, suffix: str = "") -> list[Measurement]:
    """As `rebuilt`, by each attack that ran."""
    return [r for metric in REBUILT for a in rows.attacks(model, defense, metric)
            for r in rows.of(metric + suffix, model, defense, a) if r.attack_params.get("patients") == patients]


def guessed(rows: Rows) -> Table:
    """How far the server's estimate of each hospital's label mix is from the truth."""
    metric = "label_mix_error"
    tried = [(m, d, a) for m, d in federations(rows) for a in rows.attacks(m, d, metric)]
    shown = _shown(rows, *tried[0][:2]) if tried else []
    left = len(rows.subgroups("hospital_rows", *tried[0][:2])) - len(shown) if tried else 0
    table = Table("Label mix at each hospital: error of the server's estimate", [
        "trained", *(_named(group, "") for group in shown)],
        note="Mean difference of estimated and true shares of classes; in brackets, of guessing the mix of all "
             f"hospitals together. Muted: no better than that.{_left(left)}")
    for model, defense, attack in tried:
        error, guess = (rows.subgroups(m, model, defense, attack) for m in (metric, f"{metric}_baseline"))
        table.add(model, [words(f"by {defense}"), *(_beside(error.get(g), guess.get(g)) for g in shown)])
    return table


def _beside(error: Measurement | None, guess: Measurement | None) -> Cell:
    if error is None or guess is None:
        return plain(error)
    return Cell(f"{number(error.value)} ({number(guess.value)})", num=True,
                tone="muted" if error.value >= guess.value else "")
