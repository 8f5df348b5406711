"""What a defense buys and costs, patient by patient: paired differences are much sharper than two intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from suite import metrics
from suite.data import Split
from suite.evaluate.subject import Arrays
from suite.measurement import Sheet


@dataclass(frozen=True)
class Outcome:
    """What the cells of one model behind one defense left: of training (`pred`), and of the worst case (may be empty).
    """

    fit: Arrays
    worst: Arrays


def measure_gains(sheet: Sheet, test: Split, plain: Outcome, defended: Outcome, eps: float, attack: str,
                  seed: int = 0) -> None:
    """Add `gain[...]` rows: the defended model less the plain one, on the same test patients.

    Args:
        sheet: Receives the rows.
        test: The test split.
        plain, defended: The model without a defense, and behind one.
        eps: The budget at which the worst cases were taken.
        attack: Name of the worst case in rows.
        seed: Of the bootstrap.
    """
    before, after, y = plain.fit["pred"], defended.fit["pred"], test.y
    sheet.add("gain[accuracy]", metrics.paired(after == y, before == y, seed))

    def balanced(i: np.ndarray) -> float:
        return metrics.balanced_accuracy(after[i], y[i]) - metrics.balanced_accuracy(before[i], y[i])

    sheet.add("gain[balanced_accuracy]", metrics.bootstrap(balanced, len(y), seed, y))
    if plain.worst and defended.worst:
        _, mine, theirs = np.intersect1d(defended.worst["positions"], plain.worst["positions"], return_indices=True)
        gain = metrics.paired(defended.worst["robust"][mine], plain.worst["robust"][theirs], seed)
        sheet.add("gain[robust_accuracy]", gain, attack=attack, attack_params={"eps": eps})
