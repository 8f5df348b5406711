"""Leakage patient by patient: how well each is found in shadow models that take turns as the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from suite.core.attack import ShadowScore
from suite.core.odds import Shadows
from suite.evaluate.subject import Arrays
from suite.results import metrics
from suite.results.measurement import Sheet
from suite.results.metrics import Estimate
from suite.shadows.patients import (
    ABOVE,
    auroc_interval,
    aurocs_without,
    by_person,
    expected_by_chance,
    patient_auroc,
    patient_tpr,
    scores_in_turn,
    shadows_needed,
    share_above,
    tpr_interval,
)

FPR = 0.01
"""False positive rate, over all patients and models, at which it is told in what share of models a patient is found."""


def measure_patients(attack: ShadowScore, shadows: Shadows, groups: Sequence[tuple[str, np.ndarray]], sheet: Sheet,
                     at: dict[str, Any], seed: int = 0) -> Arrays:
    """Add the average patient, the share of patients found almost surely, and the worst; also by subgroup, and where
    patients have several rows by the largest ("max") and the mean of the scores of these.

    Args:
        attack: Scores what one model answers by what others do.
        shadows: k models on n patients. Of fewer than four only `shadows_needed` is told: none is left to compare with.
        groups: `("sex=F", (n,) mask)`.
        sheet, at: Receive the rows, and what these have in common.
        seed: Of the permutations and of the bootstrap.

    Returns:
        "patient_auroc", (n,), by one row of each patient.
    """
    k, n = shadows.odds.shape
    pairs = k // 2
    sheet.add("shadows_needed[share]", shadows_needed(), k, **at)
    sheet.add("shadows_needed[patient]", shadows_needed(n), k, **at)
    if k < 4:
        return {}
    score = scores_in_turn(attack, shadows)
    auroc = patient_auroc(score, shadows.inside)
    sheet.add("patient_auroc[mean]", metrics.weighted(lambda w: w @ auroc / w.sum(1), n, seed), **at)
    without = aurocs_without(score, shadows.inside)
    low, high = _tail(sheet, auroc, without, "", at)
    for name, which in groups:
        of = {"subgroup": name, "people": int(which.sum()), **at}
        sheet.add(f"patients_above[{ABOVE}]", share_above(auroc[which], pairs, without[:, which]), **of)
        sheet.add("patient_auroc[worst]", _worst(auroc[which], low[which], high[which]), **of)
    sheet.add(f"patients_above_null[{ABOVE}]", expected_by_chance(attack, shadows, seed), **at)
    tpr = patient_tpr(score, shadows.inside, FPR)
    sheet.add(f"patient_tpr_at_fpr[{FPR}]", _worst(tpr, *tpr_interval(tpr, pairs, n)), **at)
    if shadows.owner is not None:
        every = scores_in_turn(attack, shadows.by_row)
        for how, of_all in by_person(every, shadows.owner, n).items():
            _tail(sheet, patient_auroc(of_all, shadows.inside), aurocs_without(of_all, shadows.inside), f"@{how}", at)
    return {"patient_auroc": auroc}


def _tail(sheet: Sheet, auroc: np.ndarray, without: np.ndarray, how: str,
          at: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Add the share of patients found almost surely and the worst; the joint intervals of all patients."""
    pairs = len(without)
    low, high = auroc_interval(auroc, pairs, len(auroc))
    sheet.add(f"patients_above[{ABOVE}{how}]", share_above(auroc, pairs, without), **at)
    sheet.add(f"patient_auroc[worst{how}]", _worst(auroc, low, high), **at)
    return low, high


def _worst(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> Estimate:
    """The largest of (n,) values with its joint interval, which holds whoever is chosen."""
    i = int(value.argmax())
    return Estimate(float(value[i]), float(low[i]), float(high[i]), len(value))
