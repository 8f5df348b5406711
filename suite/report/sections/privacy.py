"""Privacy tables, but for membership."""

from __future__ import annotations

from typing import NamedTuple

from suite.measurement import Measurement
from suite.report import known
from suite.report.rows import Rows
from suite.report.show import NONE, number, percent
from suite.report.tables import Cell, Table, amount, est, plain, words


def epsilon(rows: Rows) -> Table:
    """Epsilon as claimed, as another accountant has it, and as an audit has shown it, on one line."""
    head = ["defense", "δ", "ε claimed", "ε, another accountant", "ε audited", "ε audited, Gaussian", "claim",
            "canaries", "guesses that were right", "n", "confidence"]
    table = Table("Privacy budget", head, note="Claimed: at most this much, of the training with canaries among its "
                  "rows. Audited: at least this much, by guesses about which canaries those are; 0 says only that "
                  "nothing was shown. Gaussian: at least this much if the trade-off curve is that of Gaussian noise, "
                  "as that of DP-SGD nearly is. Claim: held against the training's own curve where that is known. Red: "
                  "more was shown than is claimed. No ε here covers what was decided from the patients before the "
                  "training (hyper-parameters tuned on them, bounds, medians or other values read off them), nor the "
                  "validation rows.")
    for model, defense in rows.pairs():
        for found in audits(rows, model, defense):
            bounds = [Cell(f"≥ {number(row.value)}" if row else NONE, num=True,
                           tone="bad" if row and found.claimed and row.value > found.claimed.value else "")
                      for row in (found.shown, found.gaussian)]
            delta, right = found.delta, found.right
            claim = words("refuted", "bad") if found.false else words("not refuted" if found.claimed else "", "muted")
            table.add(model, [words(defense + (f" ({found.how})" if found.how else "")),
                              Cell(f"{delta.value:g}" if delta else NONE, num=True), plain(found.claimed),
                              plain(found.independent), *bounds, claim, amount(found.shown.n),
                              Cell(percent(right), num=True), amount(right and right.n), words(found.confidence)])
    return table.pruned()


class Audit(NamedTuple):
    """The rows of one audit of a training's privacy budget."""

    shown: Measurement
    gaussian: Measurement | None
    claimed: Measurement | None
    independent: Measurement | None
    delta: Measurement | None
    right: Measurement | None
    refuted: Measurement | None

    @property
    def false(self) -> bool:
        """Whether the claim is refuted, whatever the trade-off curve or by the training's own."""
        return self.claimed is not None and (self.shown.value > self.claimed.value
                                             or (self.refuted is not None and bool(self.refuted.value)))

    @property
    def how(self) -> str:
        """What of its parameters is no default, but for the confidence."""
        unusual = {k: v for k, v in self.shown.attack_params.items() if k != "confidence"}
        return known.parameters(self.shown.attack, unusual)

    @property
    def confidence(self) -> str:
        """As "95%"."""
        confidence = self.shown.attack_params.get("confidence")
        return f"{100 * confidence:g}%" if confidence else "an unstated"


def audits(rows: Rows, model: str, defense: str) -> list[Audit]:
    """All audits of one training, of which there may be several with one attack."""
    others = ("epsilon_audited_gdp", "epsilon_claimed", "epsilon_independent", "delta", "canary_guesses_right",
              "claim_refuted")

    def same(metric: str, shown: Measurement) -> Measurement | None:
        return next((r for r in rows.of(metric, model, defense, shown.attack)
                     if r.attack_params == shown.attack_params), None)

    return [Audit(shown, *(same(metric, shown) for metric in others))
            for attack in rows.attacks(model, defense, "epsilon_audited")
            for shown in rows.of("epsilon_audited", model, defense, attack)]


def attribute(rows: Rows) -> Table:
    """Gain over imputation by attack, column and model."""
    found = {(a, m, d): {str(r.attack_params.get("column")): r for r in rows.of("attribute_gain", m, d, a)}
             for m, d in rows.pairs() for a in rows.attacks(m, d, "attribute_gain")}
    columns, attacks, targets = (list(dict.fromkeys(keys)) for keys in (
        (c for gains in found.values() for c in gains), (a for a, _, _ in found), ((m, d) for _, m, d in found)))
    names = [m + ("" if d == "none" else f" behind {d}") for m, d in targets]
    table = Table("Attribute inference: accuracy gained by knowing the model's answer", ["hidden column", *names, "n"],
                  note="Against imputation with the same learner from all that the attacker knows but the answer. "
                       "Marked: the interval lies above 0. "
                       f"With {len(columns)} columns on each model, some do so by chance.")
    for attack in attacks:
        for column in columns:
            gains = [found.get((attack, *target), {}).get(column) for target in targets]
            tones = ["warn" if r is not None and r.ci_low is not None and r.ci_low > 0 else "" for r in gains]
            table.add(attack if len(attacks) > 1 else "", [
                words(column), *[est(r, t) for r, t in zip(gains, tones, strict=True)],
                amount(next((r.n for r in gains if r), None))])
    return table


def inversion(rows: Rows) -> Table:
    """Reconstructions of each class."""
    table = Table("Model inversion", ["class", "attack", "distance to the class's mean", "the same for everyone's mean",
                                      "confidence of the model", "queries"],
                  note="Root mean square difference in units of each column's scale. A reconstruction that is farther "
                       "away than everyone's mean is an input that the model likes, not a patient.")
    for model, defense in rows.pairs():
        group = model + ("" if defense == "none" else f" behind {defense}")
        ran = dict.fromkeys(r.attack for r in rows.all if (r.model, r.defense) == (model, defense)
                            and r.metric.startswith("inversion_distance["))
        for attack in ran:
            for name in rows.named("inversion_distance", model, defense, attack):
                tried = [rows.of(f"inversion_{m}[{name}]", model, defense, attack)
                         for m in ("distance", "prior_distance", "confidence")]
                for away, prior, sure in zip(*tried, strict=False):
                    cell = words(number(away.value, 3), "warn" if away.value < prior.value else "")
                    how = known.parameters(attack, away.attack_params)
                    table.add(group, [words(name), words(f"{attack} ({how})" if how else attack), cell, plain(prior, 3),
                                      plain(sure, 3), amount(away.queries)])
    return table


def extraction(rows: Rows) -> Table:
    """Fidelity and accuracy of stolen copies by query budget."""
    head = ["attack", "answers asked", "agreement with the model", "accuracy of the copy", "n"]
    table = Table("Model extraction", head,
                  note="Agreement (fidelity) is measured on test patients.")
    for model, defense in rows.pairs():
        group = model + ("" if defense == "none" else f" behind {defense}")
        for attack in rows.attacks(model, defense, "fidelity"):
            guess = rows.one("fidelity_of_guessing", model, defense, attack)
            copies = rows.of("surrogate_accuracy", model, defense, attack)
            accuracy = {r.attack_params.get("budget"): r for r in copies}
            if guess is not None:
                table.add(group, [words("always the commonest answer", "muted"), amount(0), est(guess), words(""),
                                  amount(guess.n)])
            for row in rows.of("fidelity", model, defense, attack):
                table.add(group, [words(attack), amount(row.attack_params.get("budget") or row.queries), est(row),
                                  est(accuracy.get(row.attack_params.get("budget"))), amount(row.n)])
    return table
