"""Measuring how many patients a curious server rebuilds from the first update of a hospital, by how many it is of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from federated.aggregation.private import RecordDP, Terms
from federated.attacks.gradient_inversion import GradientInversion, InvertingGradients, TabLeak
from federated.evaluate.rebuilt import Rebuilt, baselines, matched
from federated.task.local import seen
from federated.task.task import Task, draws
from federated.training.defense import Federation
from suite.core.data import Split
from suite.evaluate.subject import Arrays, Subject, measure
from suite.results import metrics
from suite.results.measurement import Sheet

SIZES = (1, 4, 16)
"""Patients of a hospital whose update is looked into."""
PATIENTS = 16
"""Patients that are looked for in all, of each size, at most."""

TABLES, IMAGES = TabLeak(restarts=4, iterations=150), InvertingGradients(iterations=200)


@measure.register
def inversion(attack: GradientInversion, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Hospitals of few patients each send the update of one round, and these are looked for in it.

    The worst case: the first round, in which the model has learned nothing, and a server that knows how many patients
    of which class there are and in which order the hospital took them, as it all follows from a seed. It begins at
    validation rows. The patients are real ones of the federation's hospitals, which send as the defense says: under
    record-level DP with the noise, and at the delta, of the hospital that they are from, so that these
    are steps of it for which no others were drawn.

    Where the server sees only the mean of all hospitals, it looks for all their patients at once, as if one hospital
    had them and took as many steps. Of one step that is exact but for what each hospital has of its own: weights of
    classes, where the recipe balances them, and what it draws for augmentation and dropout. Of several steps it is
    not, as each hospital moves away from the others.

    For tables "patients_rebuilt" is the share of rows with every column right to 1 % of its scale, and "cells_rebuilt"
    that of their cells; for images "rebuilt_ssim" and "rebuilt_psnr". What somebody would have right who only knows
    validation rows ends with "_baseline": as many of them, each several times if they are fewer, or of images their
    mean. `attack_params["patients"]` says how many a hospital has.

    Args:
        attack, subject, sheet: As of every measurement.
        rows: Patients that are looked for, of each size, at most, but at least one of each hospital whose update the
            server does not see by itself; `PATIENTS` where None. Sizes that would take more are left out.
    """
    federation = subject.defense.federation(subject.recipe, subject.data.train, subject.data.val, subject.seed,
                                            subject.device)
    several = len(federation.rows) if subject.defense.secure else 1
    most = max(rows or PATIENTS, several)
    for size in SIZES:
        if size * several > most:
            break
        began = time.perf_counter()
        found = [_rebuilt(attack, federation, group, subject)
                 for group in _groups(federation, size, several, most // (size * several), subject.seed)]
        _tell([one for one, _ in found], [guess for _, guess in found], sheet,
              {"attack_params": asdict(attack) | {"patients": size}, "seconds": time.perf_counter() - began})
    return {}


@dataclass(frozen=True)
class _Part:
    """Some patients of a hospital that are looked for.

    Attributes:
        rows: Theirs.
        whole: How many the hospital has.
    """

    rows: Split
    whole: int


@dataclass(frozen=True)
class _Kept(RecordDP):
    """The noise of a hospital, at a part of its rows.

    Attributes:
        own: Terms of the whole hospital.
    """

    own: Terms = field(kw_only=True)

    def terms(self, rows: int, batch: int, epochs: int) -> Terms:
        return super().terms(rows, batch, epochs)._replace(sigma=self.own.sigma, delta=self.own.delta)


def _groups(federation: Federation, size: int, several: int, groups: int, seed: int) -> Iterator[list[_Part]]:
    """Groups of `several` hospitals whose updates the server sees together, each with `size` patients."""
    rng, sites = np.random.default_rng([seed, 8]), len(federation.rows)
    left = [rng.permutation(len(rows)) for rows in federation.rows]
    hospital = 0
    for _ in range(groups):
        group = []
        for _ in range(several):
            rows, order = federation.rows[hospital % sites], left[hospital % sites]
            turn = hospital // sites % max(len(order) // size, 1)
            group.append(_Part(rows.take(np.sort(order[turn * size:(turn + 1) * size])), len(rows)))
            hospital += 1
        yield group


def _sending(task: Task, whole: int) -> Task:
    """What a part of a hospital with so many rows trains."""
    if not isinstance(task.private, RecordDP):
        return task
    own = task.terms(whole)
    return replace(task, private=_Kept(**asdict(task.private) | {"delta": own.delta, "public_rows": None}, own=own))


def _pooled(task: Task, hospitals: int) -> Task:
    """What one hospital with the rows of so many trains, in as many steps, and without noise, which nobody knows."""
    return replace(task, private=None, batch=task.batch * hospitals)


def _rebuilt(attack: GradientInversion, federation: Federation, group: list[_Part],
             subject: Subject) -> tuple[Rebuilt, Rebuilt]:
    """Reconstructions of the patients of a group, and guesses at them, both beside the truth."""
    task, came, val = federation.task, federation.task.initial(), subject.data.val
    update = np.mean([seen(_sending(task, part.whole), came, part.rows, k, 1) for k, part in enumerate(group)], 0,
                     np.float64).astype(np.float32)
    x, y = (np.concatenate([getattr(part.rows, name) for part in group]) for name in ("x", "y"))
    found = attack(_pooled(task, len(group)), came, update, len(y), y, subject.seed,
                   draws(task, 0, 1) if len(group) == 1 else None, val.x)
    enough = val.take(np.tile(np.arange(len(val)), -(-len(y) // len(val))))
    guess = baselines(enough, len(y), subject.seed)["mean" if x.ndim > 2 else "others"]
    space = subject.data.space.to("cpu")
    return matched(found, x, space), matched(guess, x, space)


def _tell(found: list[Rebuilt], guesses: list[Rebuilt], sheet: Sheet, at: dict) -> None:
    for suffix, of in (("", found), ("_baseline", guesses)):
        right = np.concatenate([one.right for one in of])
        if not of[0].visible:
            sheet.add(f"patients_rebuilt{suffix}", metrics.proportion(right.all(1)), **at)
            sheet.add(f"cells_rebuilt{suffix}", float(right.mean()), len(right), **at)
        for name in ("ssim", "psnr") if of[0].visible else ():
            values = np.concatenate([one.visible[name] for one in of])
            sheet.add(f"rebuilt_{name}{suffix}", float(values.mean()), len(values), **at)
