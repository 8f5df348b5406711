"""Defense comparison and poisoning."""

from __future__ import annotations

from suite.report import known
from suite.report.rows import WORST, Robustness, Rows, robustness
from suite.report.show import protects, share, taken_public
from suite.report.tables import Cell, Table, amount, bounded, est, report_per_class, words
from suite.results.measurement import Measurement


def comparison(rows: Rows) -> Table:
    """Every model behind every defense, on utility, robustness and leakage."""
    head = ["defense", "balanced accuracy", "change", "robust accuracy", "change", "membership AUROC", "accuracy",
            "AUROC", "sensitivity", "refused", "n", "checks"]
    leaks = ("Membership AUROC: that of the strongest attack among those that ran behind every defense; 0.50 is "
             "guessing. " if any(leakage(rows, *pair) for pair in rows.pairs()) else "")
    table = Table("Every model behind every defense", head,
                  note="Small lines: value and 95% interval between 0 and 1. Robust accuracy: the lowest on all "
                       f"{rows.cases} at the main budget; ≤: no attack was tried on some of them. {leaks}"
                       f"Change: against no defense, {rows.voice.case} by {rows.voice.case}, under the attacks that "
                       f"ran on both. n: clean test {rows.cases}.")
    for model, defense in rows.pairs():
        accuracy = rows.one("accuracy", model, defense)
        if accuracy is None:
            continue
        robust = robustness(rows, model, defense)
        get = {m: rows.one(m, model, defense) for m in ("balanced_accuracy", "auroc", "sensitivity", "refused")}
        table.add(model, [words(defense), est(get["balanced_accuracy"], bar=True),
                          _change(rows.one("gain[balanced_accuracy]", model, defense)), _robust(robust),
                          _change(rows.one("gain[robust_accuracy]", model, defense, WORST)),
                          est(leakage(rows, model, defense), bar=True), est(accuracy), est(get["auroc"]),
                          est(get["sensitivity"]), est(get["refused"]), amount(accuracy.n),
                          _trust(rows, model, defense)])
    return table.pruned()


def certificates(rows: Rows) -> Table:
    """What models prove of themselves, beside how good they are."""
    found = {pair: rows.of("certified_accuracy", *pair) for pair in rows.pairs()}
    norms = {pair: known.norm(certified[0]) for pair, certified in found.items() if certified}
    budgets = sorted({(norms[pair], r.attack_params["eps"]) for pair in norms for r in found[pair]})
    heads = [f"right and proven at {rows.voice.budget(eps, norm)}" for norm, eps in budgets]
    table = Table("Certificates", ["defense", "balanced accuracy", *heads, "median radius", "n"],
                  note=f"Share of test {rows.cases} that the smoothed model judges rightly and for which no change "
                       "within the budget can alter its answer; each proof holds with a probability of 99.9%. The "
                       "radius is that of the right answers. A model that always answers the same is certified as "
                       "well: a certificate is worth no more than the balanced accuracy beside it.")
    for (model, defense), norm in norms.items():
        at = {r.attack_params["eps"]: r for r in found[model, defense]}
        cells = [est(at.get(eps) if kind == norm else None) for kind, eps in budgets]
        table.add(model, [words(defense), est(rows.one("balanced_accuracy", model, defense), bar=True), *cells,
                          amount(getattr(rows.one("median_certified_radius", model, defense), "value", None)),
                          amount(found[model, defense][0].n)])
    return table


def _change(row: Measurement | None) -> Cell:
    """A paired difference, marked where its interval leaves out 0."""
    sure = row is not None and row.ci_low is not None
    return est(row, "good" if sure and row.ci_low > 0 else "bad" if sure and row.ci_high < 0 else "")


def _robust(found: Robustness | None) -> Cell:
    if found is None or not found.attacked:
        return words("not attacked", "muted")
    return bounded(found.accuracy, found.partial, bar=True)


def leakage(rows: Rows, model: str, defense: str) -> Measurement | None:
    """Membership AUROC of the strongest attack, among those that ran on the model behind every defense: the strongest
    of more attacks would look stronger by chance alone."""
    metric = "membership_auroc"
    ran = [a for d in rows.defenses(model) if (a := rows.attacks(model, d, metric))]
    found = [r for a in rows.attacks(model, defense, metric)
             if all(a in others for others in ran) and (r := rows.one(metric, model, defense, a))]
    return max(found, key=lambda r: r.value, default=None)


def _trust(rows: Rows, model: str, defense: str) -> Cell:
    collapsed = rows.one("collapsed", model, defense)
    if collapsed is not None and collapsed.value:
        return words("COLLAPSED", "bad")
    checks = rows.named("check", model, defense, WORST)
    if any(r.value == 0 for r in checks.values()):
        return words("GRADIENTS MASKED", "bad")
    return words(f"{len(checks)} passed" if checks else "", "muted")


def notes(rows: Rows) -> list[tuple[str, str]]:
    """What trainings found out, decided or claim."""
    names = {"epsilon_claimed": "ε claimed", "epsilon_independent": "ε independent",
             "epsilon_replace_one": "ε if one is replaced", "delta": "δ", "rows_per_patient": "most rows of a patient",
             "public_rows": "rows taken as public",
             "eps": "budget trained against", "round": "best round", "added": "training rows added",
             "robust_validation": "robust accuracy on validation rows", "cut_short": "searches cut by their node limit",
             "cut_by_clock": "searches cut by the clock"}
    out = []
    for model, defense in rows.pairs():
        notes = rows.named("note", model, defense)
        said = [f"{names.get(k, k.replace('_', ' '))} {_plain(r.value)}"
                + (f" ({whom})" if k == "epsilon_claimed" and (whom := protects(r)) else "")
                + (f" ({size})" if k == "public_rows" and (size := taken_public(notes.get("epsilon_claimed"))) else "")
                for k, r in notes.items()]
        if said:
            out.append((model + ("" if defense == "none" else f", {defense}"), ", ".join(said)))
    return out


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def reports(rows: Rows) -> list[tuple[str, list[Table]]]:
    """Classification reports of each model, undefended first and then behind each defense."""
    classes, out = rows.manifest.get("classes", []), []
    for model in rows.models:
        made = [report_per_class(lambda m, model=model, d=d: rows.one(m, model, d), classes,
                                 "no defense" if d == "none" else f"behind {d}") for d in rows.defenses(model)]
        if len(made) > 1:
            out.append((model, [t for t in made if t]))
    return out


def poisoning(rows: Rows) -> Table:
    """What poisoned training rows do to each model, with and without a defense made for them."""
    head = ["poisoning", "rows touched", "defense", "accuracy change", "sensitivity change", "specificity change",
            "accuracy after", "sensitivity after", "n"]
    table = Table("Performance after training on poisoned rows", head,
                  note="Changes are paired, against the same model and defense trained on clean rows; negative is "
                       "worse.")
    for model, defense, attack, _ in _poisonings(rows):
        several = [rows.of(m, model, defense, attack) for m in
                   ("accuracy_change", "sensitivity_change", "specificity_change", "attacked_accuracy",
                    "attacked_sensitivity")]
        for i, change in enumerate(several[0]):
            of = [found[i] if i < len(found) else None for found in several]
            table.add(model, [words(attack), amount(rows.touched(change), share),
                              words(defense if defense != "none" else ""), *map(_loss, of[:3]),
                              *map(est, of[3:]), amount(change.n)])
    return table.pruned()


def _loss(row: Measurement | None) -> Cell:
    clear = row is not None and row.ci_high is not None and row.ci_high < 0
    return est(row, "bad" if clear else "")


def backdoors(rows: Rows) -> Table:
    """Success of planted triggers against the same trigger on the clean model."""
    head = ["backdoor", "rows touched", "defense", "success with backdoor", "same trigger, clean model", "lift",
            "accuracy change", "n"]
    table = Table("Backdoors", head, note="Only patients who are not of the attacker's class count. Lift is paired.")
    for model, defense, attack, backdoor in _poisonings(rows):
        if backdoor:
            several = [rows.of(m, model, defense, attack)
                       for m in ("attack_success_rate", "base_rate", "lift", "accuracy_change")]
            for hit, base, lift, change in zip(*several, strict=False):
                table.add(model, [words(attack), amount(rows.touched(hit), share),
                                  words(defense if defense != "none" else ""), est(hit), est(base), est(lift),
                                  est(change), amount(hit.n)])
    return table.pruned()


def _poisonings(rows: Rows) -> list[tuple[str, str, str, bool]]:
    """(model, defense, attack, whether it plants a backdoor), attacks of one model side by side."""
    return [(m, d, a, bool(rows.of("base_rate", m, d, a)))
            for m in rows.models for a in dict.fromkeys(x for d in rows.defenses(m)
                                                        for x in rows.attacks(m, d, "accuracy_change"))
            for d in rows.defenses(m) if a in rows.attacks(m, d, "accuracy_change")]


