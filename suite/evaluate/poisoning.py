"""Poisoning: what training on touched rows does to a model, against the same model trained on clean rows."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from suite.core.attack import Poisoned, PoisoningAttack
from suite.core.classifier import Classifier
from suite.evaluate.subject import Arrays, Subject, measure
from suite.results import metrics
from suite.results.measurement import Sheet


@measure.register
def poisoning(attack: PoisoningAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Train on the poisoned rows and measure on clean test rows; for a backdoor also on triggered ones."""
    started = time.perf_counter()
    poisoned = attack(subject.data.train, subject.seed)
    victim = subject.defense(subject.recipe, poisoned.train, subject.data.val, subject.seed, subject.device)
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - started}
    sheet.add("poisoned_share", metrics.proportion(poisoned.mask), **at)
    return {"mask": poisoned.mask} | measure_victim(victim, poisoned, subject, sheet, at)


def measure_victim(victim: Classifier, poisoned: Poisoned | None, subject: Subject, sheet: Sheet,
                   at: dict[str, Any]) -> Arrays:
    """What became of a model that was trained under an attack, against the one that was not.

    Args:
        victim: Trained under attack.
        poisoned: What it, or a part of it, has learned from, where that may plant a backdoor.
        subject: With the model that was not attacked.
        sheet: Receives the rows.
        at: Further fields of each row.

    Returns:
        "pred", and "hit" of a backdoor.
    """
    test = subject.data.test
    pred, before = victim.predict(test.x), subject.classifier.predict(test.x)
    under = metrics.classification(test.y, pred, victim.predict_proba(test.x), test.classes, subject.seed)
    sheet.extend({f"attacked_{name}": value for name, value in under.items()}, **at)
    sheet.add("accuracy_change", metrics.paired(pred == test.y, before == test.y), **at)
    sheet.add("balanced_accuracy_change",
              metrics.balanced_change(pred == test.y, before == test.y, test.y, subject.seed), **at)
    if len(test.classes) == 2:
        for name, k in (("sensitivity", 1), ("specificity", 0)):
            own = test.y == k
            sheet.add(f"{name}_change", metrics.paired(pred[own] == k, before[own] == k), **at)
    if poisoned is None or poisoned.trigger is None:
        return {"pred": pred}
    return {"pred": pred, "hit": _backdoor(poisoned, victim, subject, sheet, at)}


def _backdoor(poisoned: Poisoned, victim: Classifier, subject: Subject, sheet: Sheet,
              at: dict[str, Any]) -> np.ndarray:
    """Success among rows that are not of the target class, and what the trigger alone does to the clean model."""
    test = subject.data.test
    others = test.y != poisoned.target
    triggered = poisoned.trigger(test.x[others])
    hit = victim.predict(triggered) == poisoned.target
    base = subject.classifier.predict(triggered) == poisoned.target
    sheet.add("attack_success_rate", metrics.proportion(hit), **at)
    sheet.add("base_rate", metrics.proportion(base), **at)
    sheet.add("lift", metrics.paired(hit, base), **at)
    return hit
