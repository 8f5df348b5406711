"""What is under attack, and the function that measures an attack on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path

import numpy as np
import torch

from suite.base.errors import InputError
from suite.base.limits import SMALLEST_GROUP
from suite.core.attack import Attack, EvasionAttack
from suite.core.classifier import Classifier
from suite.core.data import Dataset, Split, patients_of
from suite.core.defense import Defense
from suite.core.recipe import Recipe
from suite.models.artifacts import Fitted
from suite.results import metrics
from suite.results.measurement import Sheet

Arrays = dict[str, np.ndarray]
CERTIFIED = 100
"""Rows to certify at most: a certificate takes more than a thousand passes a row."""
HELD_VALUES = 2 ** 20
"""Values of attacked inputs that one cell keeps at most, 4 MB: 445 images of 28 pixels in colour, 64 of 128 in grey."""
HELD_ROWS = 32
"""Attacked inputs that are kept however large they are."""


@dataclass(frozen=True)
class Subject:
    """A trained model, how it was made, and the terms of the measurement.

    Attributes:
        classifier: The model.
        recipe, defense: What trained it, so that poisoning can train it again.
        data: All splits; attacks are measured on `test`.
        eps, budgets: Main budget, and all budgets in rising order, in Linf.
        norms: The same of other norms, `{"l2": (eps, budgets)}`; Linf's where a norm is missing.
        rows: Test rows to attack at most.
        seed: Of the measurement.
        device: Where new models are trained.
        shelf: Folder for what attacks on the same model share; None for nowhere.
        log: File for what the trainings of an attack tell of themselves; None for nowhere.
        pictures: Whether images of patients may be kept beside the rows.
        smallest_group: People of a subgroup below which nothing is told about it.
    """

    classifier: Classifier
    recipe: Recipe
    defense: Defense
    data: Dataset
    eps: float
    budgets: tuple[float, ...]
    rows: int | None = None
    seed: int = 0
    device: str = "cpu"
    norms: Mapping[str, tuple[float, tuple[float, ...]]] = field(default_factory=dict)
    shelf: Path | None = None
    log: Path | None = None
    pictures: bool = False
    smallest_group: int = SMALLEST_GROUP

    @property
    def training_known(self) -> bool:
        """Whether it is known which rows the model learned from; see `suite.audit.layout.Layout.training_known`."""
        return not isinstance(self.recipe, Fitted) or "train" in self.data.declared

    def ladder(self, attack: EvasionAttack) -> tuple[float, tuple[float, ...]]:
        """Main budget and all budgets of an attack; one whose budget is no norm has its own and no other."""
        if attack.norm == "own":
            return attack.eps, (attack.eps,)
        return self.norms.get(attack.norm, (self.eps, self.budgets))

    def positions(self, limit: int | None = None) -> np.ndarray:
        """Which test rows to attack: all, or a random subset that is the same for every attack and model.

        A smaller subset is part of every larger one, so that attacks on few rows can be compared with attacks on many.
        """
        n = len(self.data.test)
        size = min(n, *(k for k in (limit, self.rows) if k is not None)) if limit or self.rows else n
        return np.sort(np.random.default_rng(0).permutation(n)[:size])

    def test(self, limit: int | None = None) -> Split:
        """The test rows at `positions`."""
        return self.data.test.take(self.positions(limit))

    @property
    def held(self) -> int:
        """Of how many test rows the attacked inputs are kept, those at `positions(held)`: all of tables, fewer of large
        images, so that a run of many attacks is no burden to a disk."""
        return max(HELD_ROWS, HELD_VALUES // max(self.data.test.x[0].size, 1))


@singledispatch
def measure(attack: Attack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Carry out an attack and add what it did to the sheet.

    Args:
        attack: Dispatched on its kind.
        subject: What is attacked.
        sheet: Receives the rows.
        rows: Attack at most this many test rows.

    Returns:
        Arrays to keep beside the rows.
    """
    raise InputError(f"{type(attack).__name__} is of no kind that can be measured")


@singledispatch
def measure_training(defense: Defense, subject: Subject, sheet: Sheet) -> None:
    """Add to the rows of a training what is particular to its defense, dispatched on it; nothing for most."""


def measure_clean(subject: Subject, sheet: Sheet) -> Arrays:
    """Performance without an attack, in all and by subgroup, and whether the model has collapsed."""
    test, model = subject.data.test, subject.classifier
    pred, proba = model.predict(test.x), model.predict_proba(test.x)
    sheet.extend(metrics.classification(test.y, pred, proba, test.classes, subject.seed))
    sheet.add("collapsed", metrics.collapsed(pred, test.y), len(test))
    if subject.training_known:
        train = subject.data.train
        sheet.add("train_accuracy", metrics.proportion(model.predict(train.x) == train.y))
    for name, value in model.notes.items():
        if isinstance(value, int | float):
            about = relation(model) if name.startswith("epsilon") else {}
            sheet.add(f"note[{name}]", float(value), attack_params=about)
    if model.certified_norm:
        _certify(subject, sheet)
    tell_withheld(test, subject.smallest_group, sheet)
    for label, members in subgroups(test, subject.smallest_group):
        sheet.add("accuracy", metrics.proportion(pred[members] == test.y[members]), subgroup=label,
                  people=people(test, members))
        sick = members & (test.y == 1)
        if len(test.classes) == 2 and (few := people(test, sick)) >= subject.smallest_group:
            sheet.add("sensitivity", metrics.proportion(pred[sick] == 1), subgroup=label, people=few)
    return {"pred": pred}


def relation(model: Classifier) -> dict[str, str]:
    """What stands beside each epsilon that a model claims: whose part is hidden, how neighbours differ, and how many of
    whom are taken to be public, declared or rounded."""
    names = ("unit", "neighbors", "public_rows", "public_rows_from")
    return {name: str(model.notes[name]) for name in names if name in model.notes}


def _certify(subject: Subject, sheet: Sheet) -> None:
    """The share of rows whose right label no attack within each budget can change, as the model itself proves it."""
    model, test = subject.classifier, subject.test(CERTIFIED)
    label, radius = model.certify(torch.from_numpy(test.x).to(model.device), subject.seed)
    right = label == test.y
    _, budgets = subject.norms.get(model.certified_norm, (subject.eps, subject.budgets))
    for eps in budgets:
        sheet.add("certified_accuracy", metrics.proportion(right & (radius >= eps)),
                  attack_params={"norm": model.certified_norm, "eps": eps})
    if right.any():
        sheet.add("median_certified_radius", float(np.median(radius[right])), int(right.sum()),
                  attack_params={"norm": model.certified_norm})


def subgroups(split: Split, smallest: int) -> list[tuple[str, np.ndarray]]:
    """`("age=<30", mask)` for each value of each subgroup column that at least `smallest` people have: a figure about
    fewer could be about one of them whom somebody knows."""
    return [(label, members) for label, members in _valued(split) if people(split, members) >= smallest]


def people(split: Split, members: np.ndarray) -> int:
    """How many people some rows (a mask) are of."""
    return len(np.unique(patients_of(split)[members]))


def tell_withheld(split: Split, smallest: int, sheet: Sheet) -> None:
    """Add a row for each subgroup column of which values are withheld: how many, and not how many people have them."""
    for name in split.subgroups:
        own = [members for label, members in _valued(split) if label.startswith(f"{name}=")]
        if few := sum(people(split, members) < smallest for members in own):
            sheet.add(f"withheld_groups[{name}]", float(few))


def _valued(split: Split) -> list[tuple[str, np.ndarray]]:
    return [(f"{name}={value}", values == value) for name, values in split.subgroups.items()
            for value in dict.fromkeys(sorted(values.tolist()))]
