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

from federated.curious import Decomposition, FedMIA, UpdateMembership, View, Watch
from federated.defense import Federation
from federated.properties import LabelMix
from suite import metrics
from suite.data import Split, joined
from suite.errors import InputError
from suite.evaluate.membership import FEWEST, FPRS
from suite.evaluate.subject import Arrays, Subject, measure
from suite.measurement import Sheet

__all__ = ["Decomposition", "FedMIA", "LabelMix"]  # registered as of here, so that whoever loads them can measure them


def watched(subject: Subject) -> tuple[Federation, View]:
    """A federation of the subject's hospitals, carried out again, and what the server has seen of it."""
    federation = subject.defense.federation(subject.recipe, subject.data.train, subject.data.val, subject.seed,
                                            subject.device)
    watch = Watch(len(federation.names))
    federation.train(watch, subject.log)
    return federation, watch.view.summed() if subject.defense.secure else watch.view


@measure.register
def membership(attack: UpdateMembership, subject: Subject, sheet: Sheet, _: int | None = None) -> Arrays:
    """The training patients of each hospital are told from its own test patients, by its updates.

    Figures for all hospitals together are of the ranks that candidates have within their hospital: the server knows
    which update is whose, so it need not compare scores of one hospital with those of another. Where it sees only the
    mean, all candidates are scored at once, and then ranked within their hospitals as well.

    Kept: "score", the rank within the hospital in (0, 1], "member", and "row", numbers in the source.
    """
    began = time.perf_counter()
    federation, view = watched(subject)
    test, column = subject.data.test, subject.defense.column
    sets = [_candidates(rows, test.take(np.flatnonzero(test.subgroups[column] == name)))
            for name, rows in zip(federation.names, federation.rows, strict=True)]
    scores = _scores(attack, subject, federation, view, [rows for rows, _ in sets])
    ranks = [rankdata(score) / max(len(score), 1) for score in scores]
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - began}
    for name, score, (_, member) in zip(federation.names, scores, sets, strict=True):
        if min(member.sum(), (~member).sum()) >= FEWEST:
            sheet.add("membership_auroc", _auroc(score, member, subject.seed), subgroup=f"{column}={name}", **at)
    score, member = np.concatenate(ranks), np.concatenate([inside for _, inside in sets])
    sheet.add("membership_auroc", _auroc(score, member, subject.seed), **at)
    floor = 1 / max((~member).sum(), 1)
    sheet.add("resolvable_fpr", floor, int((~member).sum()), **at)
    for fpr in FPRS:
        if fpr >= floor:
            sheet.add(f"tpr_at_fpr[{fpr:g}]", metrics.bootstrap(
                lambda i, f=fpr: metrics.tpr_at_fpr(score[i], member[i], f), len(score), subject.seed, member), **at)
    return {"score": score, "member": member, "row": np.concatenate([rows.rows for rows, _ in sets])}


def _candidates(train: Split, test: Split) -> tuple[Split, np.ndarray]:
    """A hospital's training rows and then its test rows, those left out that equal a training row, and which are the
    former."""
    there = {row.tobytes() for row in train.x}
    others = test.take(np.array([row.tobytes() not in there for row in test.x], bool))
    return joined(train, others), np.repeat([True, False], [len(train), len(others)])


def _scores(attack: UpdateMembership, subject: Subject, federation: Federation, view: View,
            sets: list[Split]) -> list[np.ndarray]:
    """Scores of the candidates of each hospital."""
    if not subject.defense.secure:
        return [attack(view, federation.task, rows, k) for k, rows in enumerate(sets)]
    score = attack(view, federation.task, reduce(joined, sets), 0)
    return np.split(score, np.cumsum([len(rows) for rows in sets])[:-1])


def _auroc(score: np.ndarray, member: np.ndarray, seed: int) -> metrics.Estimate:
    if not 0 < member.sum() < len(member):
        raise InputError("no test patients of any hospital, from whom its training patients could be told")
    return metrics.weighted(metrics.resampled_auroc(score, member), len(score), seed, member)


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
