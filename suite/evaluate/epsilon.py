"""Differential privacy: what a training gives away at least, beside what is claimed for it."""

from __future__ import annotations

import time
from dataclasses import asdict

from suite.core.attack import PrivacyAudit
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.evaluate.subject import Arrays, Subject, measure, relation
from suite.results import metrics
from suite.results.measurement import Sheet

CLAIMS = ("epsilon_claimed", "epsilon_independent", "epsilon_replace_one", "delta")
"""Notes of a model that are told beside the audit of its training."""


@measure.register
def epsilon(attack: PrivacyAudit, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Lower bounds on epsilon of the same training with canaries made of test rows, and what is claimed for it.

    The model trained with canaries is thrown away, so nobody is measured on rows that it has learned from.
    """
    def retrain(train: Split, seed: int) -> Classifier:
        return subject.defense(subject.recipe, train, subject.data.val, seed, subject.device)

    started = time.perf_counter()
    found = attack(retrain, subject.classifier, subject.data.train, subject.test(rows), subject.seed)
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - started}
    n, score, inside = len(found.inside), found.score, found.inside
    sheet.add("epsilon_audited", found.epsilon, n, **at)
    sheet.add("epsilon_audited_gdp", found.epsilon_gdp, n, **at)
    if found.refuted is not None:
        sheet.add("claim_refuted", found.refuted, n, **at)
    sheet.add("canaries", n, n, **at)
    sheet.add("canary_guesses_right", metrics.proportion(found.right, found.made), **at)
    sheet.add("canary_auroc", metrics.bootstrap(lambda i: metrics.auroc(score[i], inside[i]), n, subject.seed, inside),
              **at)
    for name, value in ({"delta": found.delta} | found.model.notes).items():
        if name in CLAIMS:
            sheet.add(name, float(value), **at | {"attack_params": at["attack_params"] | relation(found.model)})
    return {"canary_score": score, "inside": inside}
