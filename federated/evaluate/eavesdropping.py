"""Measuring what a curious server learns of each hospital, by watching a federation from its first round to its last.

Under a defense that is `secure`, the server sees the mean of all updates of a round, and no single one.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import reduce
from typing import Any

import numpy as np
from scipy.stats import rankdata

from federated.attacks.curious import Decomposition, FedMIA, UpdateMembership, View, Watch
from federated.attacks.properties import LabelMix
from federated.training.defense import Federation
from suite.base.errors import InputError
from suite.core.data import Split, joined
from suite.evaluate.membership import FEWEST, SCORED, tell_rates, told_apart
from suite.evaluate.subject import Arrays, Subject, measure, people
from suite.results.measurement import Sheet

__all__ = ["Decomposition", "FedMIA", "LabelMix"]  # registered as of here, so that whoever loads them can measure them

AT_ONCE = 4000
"""Candidates that are scored at once, at most: decomposition solves a linear system of as many unknowns."""
NUMBERS = 2**28
"""Numbers in the gradients of all of these, at most: 1 GiB."""


def watched(subject: Subject) -> tuple[Federation, View]:
    """A federation of the subject's hospitals, carried out again, and what the server has seen of it."""
    federation = subject.defense.federation(subject.recipe, subject.data.train, subject.data.val, subject.seed,
                                            subject.device)
    watch = Watch(len(federation.names))
    federation.train(watch, subject.log)
    return federation, watch.view.summed() if subject.defense.secure else watch.view


@measure.register
def membership(attack: UpdateMembership, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """The training patients of each hospital are told from its own test patients, by its updates.

    Figures for all hospitals together are of the ranks that candidates have within their hospital: the server knows
    which update is whose, so it need not compare scores of one hospital with those of another. Where it sees only the
    mean, all candidates are scored at once, and then ranked within their hospitals as well.

    Of a hospital with many rows, candidates are drawn by the seed: `SCORED` at most of its training rows, and as many
    of the others, and fewer if `AT_ONCE` or `NUMBERS` says so, which counts for all hospitals together where they are
    scored at once. Then `Decomposition` sees part of a hospital's rows, and finds less than it would with all.

    Args:
        attack, subject, sheet: As of every measurement.
        rows: Training rows of each hospital that are scored, at most, and others.

    Kept: "score", the rank within the hospital in (0, 1], "member", and "row", numbers in the source.
    """
    began = time.perf_counter()
    federation, view = watched(subject)
    test, column, most = subject.data.test, subject.defense.column, _most(rows, subject, federation)
    rng = np.random.default_rng([subject.seed, 9])
    sets = [_candidates(train, test.take(np.flatnonzero(test.subgroups[column] == name)), most, rng)
            for name, train in zip(federation.names, federation.rows, strict=True)]
    if all(member.all() for _, member in sets):
        raise InputError("no test patients of any hospital, from whom its training patients could be told")
    scores = _scores(attack, subject, federation, view, [candidates for candidates, _ in sets])
    ranks = [rankdata(score) / max(len(score), 1) for score in scores]
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - began}
    for name, score, (among, member) in zip(federation.names, scores, sets, strict=True):
        if min(member.sum(), (~member).sum()) >= FEWEST:
            few = min(people(among, member), people(among, ~member))
            sheet.add("membership_auroc", told_apart(score, member, subject.seed), subgroup=f"{column}={name}",
                      people=few, **at)
    score, member = np.concatenate(ranks), np.concatenate([inside for _, inside in sets])
    sheet.add("membership_auroc", told_apart(score, member, subject.seed), **at)
    tell_rates(score, member, subject.seed, sheet, at)
    return {"score": score, "member": member, "row": np.concatenate([candidates.rows for candidates, _ in sets])}


def _most(rows: int | None, subject: Subject, federation: Federation) -> int:
    """Training rows of each hospital that are scored, and other rows, at most."""
    together = len(federation.rows) if subject.defense.secure else 1
    room = min(AT_ONCE, NUMBERS // federation.task.size) // (2 * together)
    return min(k for k in (rows, subject.rows, SCORED, max(room, 1)) if k)


def _candidates(train: Split, test: Split, most: int, rng: np.random.Generator) -> tuple[Split, np.ndarray]:
    """A hospital's training rows and then its test rows, those left out that equal a training row, `most` of either at
    most, and which are the former."""
    there = {row.tobytes() for row in train.x}
    others = test.take(np.array([row.tobytes() not in there for row in test.x], bool))
    members, others = (split.take(np.sort(rng.permutation(len(split))[:most])) for split in (train, others))
    return joined(members, others), np.repeat([True, False], [len(members), len(others)])


def _scores(attack: UpdateMembership, subject: Subject, federation: Federation, view: View,
            sets: list[Split]) -> list[np.ndarray]:
    """Scores of the candidates of each hospital."""
    if not subject.defense.secure:
        return [attack(view, federation.task, rows, k) for k, rows in enumerate(sets)]
    score = attack(view, federation.task, reduce(joined, sets), 0)
    return np.split(score, np.cumsum([len(rows) for rows in sets])[:-1])


@measure.register
def label_mix(attack: LabelMix, subject: Subject, sheet: Sheet, _: int | None = None) -> Arrays:
    """How far the estimated shares of classes at each hospital are from the true ones, on average over classes, and how
    far the shares in all of the federation are: those every hospital may know.

    Validation rows are the server's own. Of the mean of all updates, one estimate is made, and held against each.
    """
    began = time.perf_counter()
    federation, view = watched(subject)
    counts = np.stack([np.bincount(rows.y, minlength=len(rows.classes)) for rows in federation.rows])
    truth, prior = counts / counts.sum(1, keepdims=True), counts.sum(0) / counts.sum()
    seen = view.counts.shape[1]
    guesses = np.stack([attack(view, federation.task, subject.data.val, k, subject.seed) for k in range(seen)])
    errors, guessing = abs(guesses - truth).mean(1), abs(prior - truth).mean(1)
    at: dict[str, Any] = {"attack_params": asdict(attack), "seconds": time.perf_counter() - began}
    for k, name in enumerate(federation.names):
        own = at | {"subgroup": f"{subject.defense.column}={name}"}
        sheet.add("label_mix_error", float(errors[k]), len(federation.rows[k]), **own)
        sheet.add("label_mix_error_baseline", float(guessing[k]), len(federation.rows[k]), **own)
    sheet.add("label_mix_error", float(errors.mean()), len(errors), **at)
    sheet.add("label_mix_error_baseline", float(guessing.mean()), len(errors), **at)
    return {}
