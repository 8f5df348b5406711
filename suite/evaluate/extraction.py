"""Model extraction: how good the copy is, whether its weaknesses are the victim's, and whether the theft is noticed."""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np
import torch

from suite.attacks.gradient import PGD
from suite.attacks.noise import RandomNoise
from suite.core.attack import ExtractionAttack
from suite.core.classifier import REJECTED, Classifier, TorchClassifier
from suite.core.data import Split
from suite.evaluate.prada import PRADA
from suite.evaluate.subject import Arrays, Subject, measure
from suite.results import metrics
from suite.results.measurement import Sheet
from suite.results.metrics import Estimate

BUDGETS = (25, 50, 100, 200, 400)
"""Rows asked in all."""
TRANSFERRED = 200
"""Test rows at most that are turned against the victim."""
STREAMS = 20
"""Honest streams: the rows of a split in so many random orders."""


@measure.register
def extraction(attack: ExtractionAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Fidelity and accuracy of the copy against the number of rows asked; the thief owns the validation inputs.

    Beside each copy stands what the thief could have without the victim: a surrogate of the same kind trained on the
    true labels of as many rows of its own. On an easy task that agrees with the victim too, and "fidelity_gain",
    patient by patient, is what the answers were worth.

    At the largest budget also what adversarial examples for the copy do to the victim, where the copy is a network, and
    after how many queries PRADA raises the alarm, beside how often it does so of test patients in random order. It is
    calibrated on the validation rows in random order: it lets those pass by construction, also when a thief asks them,
    and has seen no honest stream that is longer.
    """
    pool, test, victim = subject.data.val, subject.data.test, subject.classifier
    truth = victim.predict(test.x)
    for budget in BUDGETS:
        victim.queries, started, told = 0, time.perf_counter(), _Told(victim)
        copy = attack(told, pool, budget, subject.seed)
        at = {"attack_params": asdict(attack) | {"budget": budget}, "queries": float(victim.queries),
              "seconds": time.perf_counter() - started}
        pred = np.asarray(copy.predict_proba(test.x)).argmax(1)
        sheet.add("fidelity", metrics.proportion(pred == truth), **at)
        sheet.add("surrogate_accuracy", metrics.proportion(pred == test.y), **at)
        own = _own(attack, pool, budget, subject.seed, test)
        sheet.add("fidelity_of_own_labels", metrics.proportion(own == truth), **at)
        sheet.add("accuracy_of_own_labels", metrics.proportion(own == test.y), **at)
        sheet.add("fidelity_gain", metrics.paired(pred == truth, own == truth), **at)
    sheet.add("fidelity_of_guessing", _majority(truth, test))
    if isinstance(copy, TorchClassifier):
        chosen = subject.test(TRANSFERRED if rows is None else min(rows, TRANSFERRED))
        sheet.extend(transferred(copy, victim, chosen, subject.eps, subject.seed), **at)
    # as the paper, if the streams that it is calibrated on are long enough to be judged for half of their length
    watch = PRADA(least=max(3, min(PRADA.least, len(pool) // 2))).calibrated(_honest(victim, pool, subject.seed))
    alarm = watch.alarm(told.x / _scale(pool), told.labels)
    if alarm is not None:
        sheet.add("alarm_after", float(alarm), len(told.x), **at)
    # without an interval, since the streams are of the same patients
    false = [watch.alarm(*stream) is not None for stream in _honest(victim, test, subject.seed)]
    sheet.add("false_alarms", float(np.mean(false)), STREAMS, **at)
    return {}


def _own(attack: ExtractionAttack, pool: Split, budget: int, seed: int, test: Split) -> np.ndarray:
    """(n,) what a surrogate says of the test rows that has seen no answer, but the true labels of `budget` rows of the
    pool, or of all where they are fewer."""
    mine = pool.take(np.random.default_rng(seed).permutation(len(pool))[:budget])
    made = attack.surrogate(mine.x, np.eye(len(pool.classes))[mine.y], pool, seed)
    return np.asarray(made.predict_proba(test.x)).argmax(1)


class _Told:
    """The victim as the thief sees it; remembers what was asked, (n, ...) `x`, and the `labels` of the answers."""

    def __init__(self, victim: Classifier) -> None:
        self.victim, self._asked, self._labels = victim, [], []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        proba = self.victim.predict_proba(x)
        self._asked.append(x)
        self._labels.append(proba.argmax(1))
        return proba

    @property
    def x(self) -> np.ndarray:
        return np.concatenate(self._asked)

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate(self._labels)


def transferred(copy: TorchClassifier, victim: Classifier, test: Split, eps: float, seed: int) -> dict[str, Estimate]:
    """Shares of the rows that the victim judges rightly, of which it then gets wrong: "transfer_back", what PGD makes
    of them on the copy, and "transfer_noise", noise of the same size. A refusal is no error."""
    right = test.take(victim.predict(test.x) == test.y)
    x, y = torch.from_numpy(right.x).to(copy.device), torch.from_numpy(right.y).to(copy.device)

    def wrong(made: torch.Tensor) -> Estimate:
        said = victim.predict(made.cpu().numpy())
        return metrics.proportion((said != right.y) & (said != REJECTED))

    # the furthest on the wrong side of the copy, since the victim draws the line elsewhere
    return {"transfer_back": wrong(PGD(eps, early_stop=False)(copy, x, y, seed)),
            "transfer_noise": wrong(RandomNoise(eps, draws=1, early_stop=False)(copy, x, y, seed))}


def _honest(victim: Classifier, split: Split, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What PRADA sees of clients who ask about the rows of a split in random order."""
    rng, x, labels = np.random.default_rng(seed), split.x / _scale(split), victim.predict_proba(split.x).argmax(1)
    orders = (rng.permutation(len(x))[:BUDGETS[-1]] for _ in range(STREAMS))  # no longer than the thief's
    return [(x[order], labels[order]) for order in orders]


def _scale(split: Split) -> np.ndarray:
    return split.space.scale.cpu().numpy()


def _majority(truth: np.ndarray, test: Split) -> Estimate:
    """Fidelity of always saying what the victim says most often."""
    return metrics.proportion(truth == np.bincount(truth[truth >= 0], minlength=len(test.classes)).argmax())
