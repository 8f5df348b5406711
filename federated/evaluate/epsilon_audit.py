"""A lower bound on each hospital's epsilon, from canaries among its rows and what the server sees of it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from federated.attacks.attackers import FederationAttack
from federated.attacks.curious import Decomposition, View, Watch
from federated.training.defense import Federation, promised
from privacy.canaries import mislabeled, redrawn, strangers
from privacy.lower_bounds import gaussian_epsilon, guess, one_run, one_run_gdp, refutes, strongest
from suite.base.bounds import Count, ProperShare, Shares
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.data import Split, joined
from suite.defenses.private.accounting import privacy_curve, usual_delta
from suite.evaluate.subject import Arrays, Subject, measure
from suite.results import metrics
from suite.results.measurement import Sheet


@dataclass(frozen=True)
class HospitalAudit(FederationAttack):
    """One federation with canaries at every hospital, each put in by a coin, and guessed from the hospital's updates.

    Canaries are inputs drawn from what the schema allows, with the label that the model finds least likely. As a
    hospital's promise holds whatever the others send, all are audited at once. The score is the canary's share in the
    updates (`federated.attacks.curious.Decomposition`), its hospital's own rows among the candidates: what a server can
    know that has everything but the coins. Of full batches most is told, of many small ones less. It is the training
    with canaries that is audited, and what is promised for its rows.

    Attributes:
        canaries: At each hospital.
        confidence: Of each bound, in (0, 1).
        shares: Shares of the canaries that are guessed about, as of `privacy.canaries.OneRunAudit`.
    """

    info: ClassVar[Info] = Info(
        "One-run audit of hospitals", "Steinke, Nasr and Jagielski 2023, arXiv 2305.08846; of federations: Andrew et "
        "al. 2024, arXiv 2302.03098", "white-box", ("membership",), "one federation",
        departs="canaries are rows and not whole updates, and are told from all rounds by a regression; several "
                "numbers of guesses, corrected for")
    trials: ClassVar[str] = "canaries"
    canaries: Count = 100
    confidence: ProperShare = 0.95
    shares: Shares = (1.0, 0.5, 0.25)


@measure.register
def audited(attack: HospitalAudit, subject: Subject, sheet: Sheet, _: int | None = None) -> Arrays:
    """For each hospital "epsilon_audited", beside "epsilon_claimed" and "epsilon_independent" where it promises
    anything, "claim_refuted" by the whole trade-off curve of DP-SGD, and how well canaries are told.

    Kept: "canary_score" and "inside", hospital after hospital.
    """
    data, seed, began = subject.data, subject.seed, time.perf_counter()
    plain = subject.defense.federation(subject.recipe, data.train, data.val, seed, subject.device)
    canaries, inside, federation = _planted(attack, plain, subject.classifier, data.test, seed)
    watch = Watch(len(federation.names))
    federation.train(watch, subject.log, canaries=attack.canaries)
    view = watch.view.summed() if subject.defense.secure else watch.view
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - began}
    scores = [_score(view, federation, k, canaries[k], plain.rows[k], subject.defense.secure)
              for k in range(len(canaries))]
    for k, name in enumerate(federation.names):
        _tell(attack, federation, k, scores[k], inside[k], sheet, at | {
            "subgroup": f"{subject.defense.column}={name}"}, seed)
    return {"canary_score": np.concatenate(scores), "inside": np.concatenate(inside)}


def _planted(attack: HospitalAudit, plain: Federation, reference: Classifier, test: Split,
             seed: int) -> tuple[list[Split], list[np.ndarray], Federation]:
    """The canaries of each hospital, which of them are in, and the hospitals with these. Noise is another than that of
    the reference, which they must not share."""
    rng = np.random.default_rng([seed, 9])
    drawn = [redrawn(test.take(rng.integers(0, len(test), attack.canaries)), rng) for _ in plain.rows]
    canaries = [strangers(mislabeled(reference, made), own) for made, own in zip(drawn, plain.rows, strict=True)]
    inside = [rng.random(attack.canaries) < 0.5 for _ in plain.rows]
    rows = [joined(own, more.take(chosen)) for own, more, chosen in zip(plain.rows, canaries, inside, strict=True)]
    return canaries, inside, plain.with_rows(rows).with_seed(int(rng.integers(1, 2**31)))


def _score(view: View, federation: Federation, number: int, canaries: Split, own: Split, summed: bool) -> np.ndarray:
    """(m,) the share of each canary in the updates."""
    found = Decomposition()(view, federation.task, joined(own, canaries), 0 if summed else number)
    return found[len(own):]


def _tell(attack: HospitalAudit, federation: Federation, number: int, score: np.ndarray, inside: np.ndarray,
          sheet: Sheet, at: dict[str, Any], seed: int) -> None:
    m, rows = len(inside), len(federation.rows[number])
    counts = [guess(score, inside, k, k) for k in (max(int(share * m / 2), 1) for share in attack.shares)]
    claim = promised(federation)[number] if federation.task.private else None
    delta = claim.delta if claim else usual_delta(rows)
    epsilon, best = strongest(lambda g, c: one_run(g, delta, c), counts, attack.confidence)
    mu, _ = strongest(one_run_gdp, counts, attack.confidence)
    sheet.add("epsilon_audited", epsilon, m, **at)
    sheet.add("epsilon_audited_gdp", gaussian_epsilon(mu, delta), m, **at)
    sheet.add("canary_guesses_right", metrics.proportion(best.right, best.made), **at)
    sheet.add("canary_auroc", metrics.bootstrap(lambda i: metrics.auroc(score[i], inside[i]), m, seed, inside), **at)
    if claim:
        at = at | {"attack_params": at["attack_params"] | {"unit": federation.task.private.level.removesuffix("s")}
                   | claim.relation}
        sheet.add("epsilon_claimed", claim.epsilon, rows, **at)
        sheet.add("epsilon_independent", claim.independent, rows, **at)
        sheet.add("delta", delta, rows, **at)
        terms = federation.task.terms(rows)
        curve = privacy_curve(terms.sigma, terms.rate, terms.steps * federation.rounds)
        level = 1 - (1 - attack.confidence) / len(counts)
        sheet.add("claim_refuted", any(refutes(g, *curve, level) for g in counts), m, **at)
