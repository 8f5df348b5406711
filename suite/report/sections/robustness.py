"""Tables of the robustness section."""

from __future__ import annotations

from collections.abc import Iterator

from suite.report import known
from suite.report.rows import WORST, Rows, robustness
from suite.report.show import brief
from suite.report.tables import Cell, Table, amount, bounded, est, plain, words
from suite.results.measurement import Measurement


def by_attack(rows: Rows, model: str, defense: str, caption: str) -> Table:
    """One model: what each attack achieves at the main budget, and what it costs."""
    head = ["attack", "knowledge", "robust accuracy", "attack success rate", "lift over noise", "median size",
            "median cost", f"{rows.voice.feature}s changed", f"queries per {rows.voice.case}",
            f"gradients per {rows.voice.case}", "seconds", "solved", "certified", "n"]
    table = Table(caption, head,
                  note="Queries, gradients and seconds are those of all budgets together."
                       + (" Cost: changes of all columns in units of their scale, weighted by what the schema says "
                          "each costs." if rows.voice.case == "patient" else ""))
    found = robustness(rows, model, defense)
    bound = ", upper bound" if found is None or found.partial else ""
    lifts, other = rows.named("lift", model, defense, WORST), {"own", *rows.norms}
    for row, twice in _runs(rows, model, defense):
        attack = row.attack

        def get(metric: str, row: Measurement = row) -> Measurement | None:
            found = rows.of(metric, model, defense, row.attack, eps=row.attack_params.get("eps"))
            return next((r for r in found if r.cell == row.cell), None)

        name, norm = f"worst case{bound}", "linf"
        if attack != WORST:
            name, norm = known.label(row, rows.voice), known.norm(row)
        if twice and (how := known.parameters(attack, row.attack_params)):
            name += f" ({how})"
        table.add("", [words(name), words(row.knowledge),
                       # the control and the worst case are of the main norm
                       est(row), est(get("attack_success_rate")),
                       est(None if norm in other or twice else lifts.get(attack)),
                       _size(get("median_perturbation"), norm, rows), plain(get("median_cost"), 2),
                       _count(get("features_changed"), rows, 1),
                       amount(row.queries if attack != WORST else None), _count(get("gradients"), rows, 0),
                       amount(row.seconds if attack != WORST else None), est(get("solved")),
                       est(get("certified_accuracy")), amount(row.n)])
    table.note += _cuts(rows, model, defense, rows.attacks(model, defense, "robust_accuracy"))
    return table.pruned()


def _runs(rows: Rows, model: str, defense: str) -> Iterator[tuple[Measurement, bool]]:
    """The robust accuracy of each cell at the main budget of its norm, the worst case first; and whether the attack ran
    more than once."""
    for attack in (WORST, *rows.attacks(model, defense, "robust_accuracy")):
        found = [r for r in rows.of("robust_accuracy", model, defense, attack)
                 if known.norm(r) == "own" or r.attack_params.get("eps") == rows.budget(known.norm(r))]
        yield from ((r, len(found) > 1) for r in found)


def _cuts(rows: Rows, model: str, defense: str, attacks: list[str]) -> str:
    """How many exact searches a limit cut short, for the note of a table; empty for none."""
    limits = {"cut_by_nodes": "its node limit", "cut_by_clock": "the clock (a faster or idle machine may solve more)"}
    cuts = [(attack, limit, row) for attack in attacks for metric, limit in limits.items()
            if (row := rows.one(metric, model, defense, attack)) and row.value]
    return "".join(f" {attack}: search cut by {limit} for {round(row.value * row.n)} of {row.n} {rows.voice.case}s."
                   for attack, limit, row in cuts)


def _size(row: Measurement | None, norm: str, rows: Rows) -> Cell:
    """The median perturbation in the unit of its budget; an attack whose budget is no norm always takes all of it."""
    if rows.voice.case != "image" or row is None:
        return plain(row, 3)
    return amount(None if norm == "own" else row.value, rows.voice.budget if norm == "linf" else brief)


def _count(row: Measurement | None, rows: Rows, digits: int) -> Cell:
    """A mean count; those of images are often large, and whole."""
    return amount(row and row.value) if rows.voice.case == "image" else plain(row, digits)


def shared(rows: Rows) -> Table:
    """Attacks that are made without the input or without the model: universal patterns and transfer."""
    head = ["attack", "success rate", "surrogate's accuracy", "surrogate fooled", "of these, the model too", "SSIM",
            "queries to make it", "n"]
    table = Table("One pattern for all, and attacks made on another model", head,
                  note="A universal pattern is made from other inputs than those it is judged on, and the same for "
                       "all of them. Transfer: made on a surrogate that the attacker trained, and then tried on the "
                       "model.")
    singles = ("pattern_success_rate", "surrogate_accuracy", "surrogate_success", "transfer_rate")
    for model, defense in rows.pairs():
        group = model + ("" if defense == "none" else f" behind {defense}")
        for attack in rows.attacks(model, defense, "robust_accuracy"):
            at = rows.main(model, defense, attack)
            found = [rows.one(metric, model, defense, attack) for metric in singles]
            if any(found):
                success = rows.one("attack_success_rate", model, defense, attack, eps=at)
                table.add(group, [words(attack), est(success), *map(est, found[1:]),
                                  plain(rows.one("visibility[ssim]", model, defense, attack), 3),
                                  _count(rows.one("crafting_queries", model, defense, attack), rows, 0),
                                  amount(success and success.n)])
    return table.pruned()


def sparse(rows: Rows) -> Table:
    """How few columns must change, by however much."""
    prefix = "flipped_by_features"
    head = ["attack", "one column", "at most two", "at most three", "solved", "n"]
    table = Table("How few columns are enough", head,
                  note="Share of the rightly judged patients who are misjudged once so many columns take other "
                       "possible values, however far from their own.")
    for model, defense in rows.pairs():
        for attack in rows.attacks(model, defense, f"{prefix}[1]"):
            shares = [rows.one(f"{prefix}[{k}]", model, defense, attack) for k in (1, 2, 3)]
            table.add(model + ("" if defense == "none" else f" behind {defense}"),
                      [words(attack), *map(est, shares), est(rows.one("solved", model, defense, attack)),
                       amount(shares[0].n)])
        if cut := _cuts(rows, model, defense, rows.attacks(model, defense, f"{prefix}[1]")):
            table.note += f" On {model}{'' if defense == 'none' else f' behind {defense}'}:{cut}"
    return table


def per_model(rows: Rows) -> list[Table]:
    """`by_attack` of every undefended model."""
    where = f"attacks at {rows.voice.within(rows.eps)}"
    made = [by_attack(rows, m, "none", f"{m}: {where}") for m in rows.models]
    return [t for t in made if t]


def diagnosis(rows: Rows) -> list[Table]:
    """What is left of each undefended model's diagnosis under each attack, and what a reader of the input would see."""
    out = []
    heads = {"attacked_sensitivity": "sensitivity", "attacked_specificity": "specificity", "attacked_auroc": "AUROC",
             "attacked_balanced_accuracy": "balanced accuracy"}
    seen = {"ssim": "SSIM", "psnr": "PSNR, dB", "l2": "L2"}
    for model in rows.models:
        table = Table(f"{model}: diagnosis under attack, and visibility", ["attack", *heads.values(), *seen.values()],
                      note="Medians over the successes; SSIM is 1 for equal images, and a change above some 40 dB is "
                           "hardly visible." if rows.voice.case == "image" else "")
        for attack in rows.attacks(model, "none", "robust_accuracy"):
            at = rows.main(model, "none", attack)
            found = [rows.one(metric, model, "none", attack, eps=at) for metric in heads]
            visible = [rows.one(f"visibility[{name}]", model, "none", attack, eps=at) for name in seen]
            if any(found):
                table.add("", [words(attack), *map(est, found), *(plain(v, 3 if i == 0 else 1)
                                                                  for i, v in enumerate(visible))])
        if table:
            out.append(table.pruned())
    return out


def behind_defenses(rows: Rows) -> list[Table]:
    """`by_attack` of every defended model."""
    made = [by_attack(rows, m, d, f"{m} behind {d}: attacks at {rows.voice.budget(rows.eps)}")
            for m, d in rows.pairs() if d != "none"]
    return [t for t in made if t]


def coverage(rows: Rows) -> list[str]:
    """Sentences about figures that are upper bounds only."""
    out = []
    for model, defense in rows.pairs():
        found = robustness(rows, model, defense)
        if found is None or not found.partial:
            continue
        where = model + ("" if defense == "none" else f" behind {defense}")
        tried = f"attacks were tried on {found.attacked} of {found.accuracy.n} {rows.cases}"
        out.append(f"{where}: {tried if found.attacked else 'only the random control ran'}")
    return out


def claims(rows: Rows) -> Table:
    """What a library reports of its attack, and what is left when only possible patients count."""
    head = ["model", "success as claimed", "of these impossible", "success among possible patients",
            "success, worst case", "robustness overstated by", "n"]
    table = Table("What the library claims, and what is true", head,
                  note="As claimed: the library is told no more than ranges, and its word is taken. Impossible: an "
                       "immutable column changed, a fraction where only whole numbers occur, or a value out of range. "
                       "Overstated: patients whom other attacks fool and this one leaves alone, as a share of those it "
                       "was tried on. ≥: no attack was tried on some patients.")
    attacks = dict.fromkeys(a for pair in rows.pairs() for a in rows.attacks(*pair, "claimed_success_rate"))
    for attack in attacks:
        for model, defense in rows.pairs():
            claimed = rows.one("claimed_success_rate", model, defense, attack)
            if claimed is None:
                continue
            found = robustness(rows, model, defense)
            worst = bounded(rows.one("attack_success_rate", model, defense, WORST, eps=rows.eps),
                            found is None or found.partial, "≥")
            name = model + ("" if defense == "none" else f" behind {defense}")
            table.add(attack, [words(name), est(claimed), est(rows.one("claimed_impossible", model, defense, attack)),
                              est(rows.one("attack_success_rate", model, defense, attack, eps=rows.eps)), worst,
                              est(rows.one(f"overstated[{attack}]", model, defense, WORST)), amount(claimed.n)])
    return table


def checks(rows: Rows) -> Table:
    """Masking checks of every model that gives gradients."""
    found = {pair: rows.named("check", *pair, attack=WORST) for pair in rows.pairs()}
    names = list(dict.fromkeys(name for checks in found.values() for name in checks))
    table = Table("Signs of masked gradients", ["defense", *names],
                  note="A failed check means that the attacks were blinded: the robust accuracy beside it is not to be "
                       "trusted. Checks that could not be made are left empty.")
    for (model, defense), checks_ in found.items():
        if checks_:
            table.add(model, [words(defense), *[_verdict(checks_.get(name)) for name in names]])
    return table


def _verdict(row: Measurement | None) -> Cell:
    if row is None:
        return words("")
    return words(f"passed (n = {row.n})") if row.value else words(f"FAILED (n = {row.n})", "bad")
