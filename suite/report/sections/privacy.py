"""Privacy tables, but for membership."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from suite.defenses.private.sizes import AT_EDGE
from suite.report import known
from suite.report.rows import Rows
from suite.report.show import NONE, number, percent, protects, taken_public
from suite.report.tables import Cell, Table, amount, est, plain, words
from suite.results.measurement import Measurement


def epsilon(rows: Rows) -> Table:
    """Epsilon as claimed, as another accountant has it, and as an audit has shown it, on one line."""
    head = ["defense", "δ", "ε claimed", "ε protects", "taken as public", "ε, another accountant",
            "ε if one is replaced", "ε audited", "ε audited, Gaussian", "claim", "audited by",
            "guesses that were right", "n", "confidence"]
    table = Table("Privacy budget", head, note="Claimed: at most this much, of the training with canaries among its "
                  "rows. Audited: at least this much, by guesses about which canaries those are, or which trainings "
                  "had one; 0 says only that nothing was shown. Gaussian: at least this much if the trade-off curve is "
                  "that of Gaussian noise, as that of DP-SGD nearly is. Claim: held against the training's own curve "
                  "where that is known. Red: more was shown than is claimed. ε protects: whose part in the training is "
                  "hidden, added or removed; ε of a row does not protect a patient with several rows. Taken as "
                  "public: the number of rows (patients) that steps, noise and δ follow from; red where one more or "
                  "less would change it, so that ε does not hold. If one is replaced: ε of the same noise where one "
                  "is replaced by another. No ε here covers what was decided from the patients before the training "
                  "(hyper-parameters tuned on them, bounds, medians or other values read off them), nor the validation "
                  "rows.")
    for model, defense in rows.pairs():
        for found in audits(rows, model, defense):
            bounds = [Cell(f"≥ {number(row.value)}" if row else NONE, num=True,
                           tone="bad" if row and found.claimed and row.value > found.claimed.value else "")
                      for row in (found.shown, found.gaussian)]
            delta, right = found.delta, found.right
            claim = words("refuted", "bad") if found.false else words("not refuted" if found.claimed else "", "muted")
            table.add(model, [words(defense + (f" ({found.how})" if found.how else "")),
                              Cell(f"{delta.value:g}" if delta else NONE, num=True), plain(found.claimed),
                              words(protects(found.claimed)), _public(found.claimed), plain(found.independent),
                              plain(found.replaced), *bounds, claim,
                              words(f"{found.shown.n} {known.trials(found.shown)}"),
                              Cell(percent(right), num=True), amount(right and right.n), words(found.confidence)])
    return table.pruned()


def _public(claimed: Measurement | None) -> Cell:
    at_edge = claimed is not None and claimed.attack_params.get("public_rows_from") == AT_EDGE
    return words(taken_public(claimed), "bad" if at_edge else "")


class Audit(NamedTuple):
    """The rows of one audit of a training's privacy budget."""

    shown: Measurement
    gaussian: Measurement | None
    claimed: Measurement | None
    independent: Measurement | None
    replaced: Measurement | None
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
    others = ("epsilon_audited_gdp", "epsilon_claimed", "epsilon_independent", "epsilon_replace_one", "delta",
              "canary_guesses_right", "claim_refuted")

    def same(metric: str, shown: Measurement) -> Measurement | None:
        # what is claimed says for whom, besides
        return next((r for r in rows.of(metric, model, defense, shown.attack)
                     if {**r.attack_params, **shown.attack_params} == r.attack_params), None)

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
    head = {"distance": "distance to the class's mean", "recognized": "another model says so",
            "ssim_mean": "SSIM to the class's mean", "ssim_nearest": "SSIM to the nearest training image"}
    table = Table("Model inversion", ["class", "attack", *head.values(), "confidence of the model", "queries"],
                  note="In brackets: the same of everyone's mean, which needs no model. Distance: root mean square "
                       "in units of each column's scale. Another model: its probability of the class; it "
                       "learned from the test patients. Marked: nearer to the class's mean than everyone's mean is. "
                       "What is not is an input that the model likes, not a patient.")
    for model, defense in rows.pairs():
        group = model + ("" if defense == "none" else f" behind {defense}")
        ran = dict.fromkeys(r.attack for r in rows.all if (r.model, r.defense) == (model, defense)
                            and r.metric.startswith("inversion_distance["))
        for attack in ran:
            for name in rows.named("inversion_distance", model, defense, attack):
                for away in rows.of(f"inversion_distance[{name}]", model, defense, attack):
                    def found(score: str, away: Measurement = away, name: str = name) -> Measurement | None:
                        same = rows.of(f"inversion_{score}[{name}]", away.model, away.defense, away.attack)
                        return next((r for r in same if r.attack_params == away.attack_params), None)

                    prior = found("prior_distance")
                    nearer = prior is not None and away.value < prior.value
                    pairs = [beside(found(score), found(f"prior_{score}")) for score in head]
                    pairs[0] = replace(pairs[0], tone="warn" if nearer else "")
                    how = known.parameters(attack, away.attack_params)
                    table.add(group, [words(name), words(f"{attack} ({how})" if how else attack), *pairs,
                                      plain(found("confidence"), 3), amount(away.queries)])
    return table.pruned()


def beside(row: Measurement | None, prior: Measurement | None) -> Cell:
    """A value, and in brackets that of everyone's mean."""
    if row is None:
        return Cell(NONE, num=True)
    return Cell(number(row.value, 3) + (f" ({number(prior.value, 3)})" if prior else ""), num=True)


def reconstruction(rows: Rows) -> Table:
    """Training rows rebuilt, each from all others."""
    table = Table("Database reconstruction", ["attack", "rows rebuilt", "by the mean of their class", "distance",
                                              "of the mean of their class", "n"],
                  note="The attacker has the model and all training rows but one. Rebuilt: the label, and every column "
                       "within 1% of its scale. Distance: root mean square in units of scale, mean over rows.")
    for model, defense in rows.pairs():
        for attack in rows.attacks(model, defense, "rows_rebuilt"):
            found, guessed, error, far = (rows.one(metric, model, defense, attack) for metric in (
                "rows_rebuilt", "rows_rebuilt_baseline", "reconstruction_error", "reconstruction_error_baseline"))
            table.add(model + ("" if defense == "none" else f" behind {defense}"), [
                words(attack), est(found, "warn" if found.ci_low > guessed.value else ""), est(guessed),
                plain(error, 3), plain(far, 3), amount(found.n)])
    return table


def extraction(rows: Rows) -> Table:
    """Fidelity and accuracy of stolen copies by query budget."""
    head = ["attack", "answers asked", "agreement with the model", "with own labels", "gain", "accuracy of the copy",
            "with own labels", "n", "fooled by way of it", "by noise", "alarm after", "false alarms"]
    table = Table("Model extraction", head,
                  note="Agreement (fidelity) is measured on test patients. With own labels: the same kind of model, "
                       "trained on the true labels of as many rows of the attacker's own (all that it has, if fewer). "
                       "Gain: what the model's answers add, patient by patient; marked: the interval lies above 0. "
                       "Fooled: of those that the model judges rightly, the share that it gets wrong once PGD has "
                       "changed them to fool the copy; beside it, noise of the same size. Alarm: after how many "
                       "answers the pattern of the questions is noticed (PRADA), if at all; false: in what share of "
                       "the random orders in which test patients were asked about.")
    for model, defense in rows.pairs():
        group = model + ("" if defense == "none" else f" behind {defense}")
        for attack in rows.attacks(model, defense, "fidelity"):
            guess = rows.one("fidelity_of_guessing", model, defense, attack)
            accuracy, own, gain, right = (
                {r.attack_params.get("budget"): r for r in rows.of(metric, model, defense, attack)} for metric in
                ("surrogate_accuracy", "fidelity_of_own_labels", "fidelity_gain", "accuracy_of_own_labels"))
            if guess is not None:
                table.add(group, [words("always the commonest answer", "muted"), amount(0), est(guess),
                                  *[words("")] * 4, amount(guess.n), *[words("")] * 4])
            ends = {metric: rows.one(metric, model, defense, attack) for metric in
                    ("transfer_back", "transfer_noise", "alarm_after", "false_alarms")}
            for row in rows.of("fidelity", model, defense, attack):
                at = row.attack_params.get("budget")
                back, noise, alarm, false = (r if r and r.attack_params.get("budget") == at else None
                                             for r in ends.values())
                table.add(group, [words(attack), amount(at or row.queries), est(row), est(own.get(at)),
                                  est(gain.get(at), _above(gain.get(at))), est(accuracy.get(at)), est(right.get(at)),
                                  amount(row.n), est(back), est(noise), amount(alarm and alarm.value), est(false)])
    return table.pruned()


def _above(row: Measurement | None) -> str:
    """The tone of a gain: marked where its interval lies above 0."""
    return "warn" if row is not None and row.ci_low is not None and row.ci_low > 0 else ""
