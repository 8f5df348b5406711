"""Measuring how many patients a curious server rebuilds from the first update of a hospital, by how many it is of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from federated.defense import Federation
from federated.gradient_inversion import GradientInversion, InvertingGradients, TabLeak
from federated.local import draws, seen
from federated.rebuilt import Rebuilt, baselines, matched
from suite import metrics
from suite.data import Split
from suite.evaluate.subject import Arrays, Subject, measure
from suite.measurement import Sheet

SIZES = (1, 4, 16)
"""Patients of a hospital whose update is looked into."""
PATIENTS = 16
"""Patients that are looked for in all, of each size."""

TABLES, IMAGES = TabLeak(restarts=4, iterations=150), InvertingGradients(iterations=200)


@measure.register
def inversion(attack: GradientInversion, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Hospitals of few patients each send the update of one round, and these are looked for in it.

    The worst case: the first round, in which the model has learned nothing, and a server that knows how many patients
    of which class there are and in which order the hospital took them, as it all follows from a seed. It begins at
    validation rows. The patients are real ones of the federation's hospitals, which send as the defense says; where the
    server sees only the mean of all hospitals, it looks for all their patients at once.

    For tables "patients_rebuilt" is the share of rows with every column right to 1 % of its scale, and "cells_rebuilt"
    that of their cells; for images "rebuilt_ssim" and "rebuilt_psnr". What somebody would have right who only knows
    validation rows ends with "_baseline": as many of them, or of images their mean. `attack_params["patients"]` says
    how many a hospital has.

    Args:
        attack, subject, sheet: As of every measurement.
        rows: Patients that are looked for, of each size, at most.
    """
    federation = subject.defense.federation(subject.recipe, subject.data.train, subject.data.val, subject.seed,
                                            subject.device)
    for size in SIZES:
        if size > (rows or PATIENTS):
            break
        began = time.perf_counter()
        found = [_rebuilt(attack, federation, group, subject)
                 for group in _groups(federation, size, rows or PATIENTS, subject)]
        _tell([one for one, _ in found], [guess for _, guess in found], sheet,
              {"attack_params": asdict(attack) | {"patients": size}, "seconds": time.perf_counter() - began})
    return {}


def _groups(federation: Federation, size: int, most: int, subject: Subject) -> Iterator[list[Split]]:
    """Hospitals of `size` patients whose updates the server sees together: one, or all of them."""
    rng, sites = np.random.default_rng([subject.seed, 8]), len(federation.rows)
    several = sites if subject.defense.secure else 1
    left = [rng.permutation(len(rows)) for rows in federation.rows]
    hospital = 0
    for _ in range(max(most // (size * several), 1)):
        group = []
        for _ in range(several):
            rows, order = federation.rows[hospital % sites], left[hospital % sites]
            turn = hospital // sites % max(len(order) // size, 1)
            group.append(rows.take(np.sort(order[turn * size:(turn + 1) * size])))
            hospital += 1
        yield group


def _rebuilt(attack: GradientInversion, federation: Federation, group: list[Split],
             subject: Subject) -> tuple[Rebuilt, Rebuilt]:
    """Reconstructions of the patients of a group, and guesses at them, both beside the truth."""
    task, came, val = federation.task, federation.task.initial(), subject.data.val
    update = np.mean([seen(task, came, rows, k, 1) for k, rows in enumerate(group)], 0, np.float64).astype(np.float32)
    x, y = (np.concatenate([getattr(rows, name) for rows in group]) for name in ("x", "y"))
    found = attack(replace(task, private=None), came, update, len(y), y, subject.seed, draws(task, 0, 1), val.x)
    guess = baselines(val, len(y), subject.seed)["mean" if x.ndim > 2 else "others"]
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
