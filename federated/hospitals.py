"""What a federation is to each of its hospitals: its rows, what it gets for taking part, and what that costs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from federated.aggregate import Mean
from federated.simulate import federate
from suite import metrics
from suite.data import Split
from suite.evaluate.subject import Subject
from suite.measurement import Sheet
from suite.shadows import patients_of

if TYPE_CHECKING:
    from federated.defense import FederatedTraining
    from federated.task import Task


def tell_hospitals(defense: FederatedTraining, subject: Subject, sheet: Sheet) -> None:
    """Add rows for each hospital, in the subgroup that names it.

    "hospital_rows" and "hospital_patients" it trains on; "label_share[...]" among them, and "label_distance", half the
    sum of differences from the shares at all others; "local_accuracy" on its own test patients of a model that it
    trains alone, for as many passes; "federated_accuracy" of the common one; "personal_accuracy" of that after
    `defense.personal` more epochs on its own rows; "federation_gain" and "personal_gain", paired differences of the
    second to the first and of the third to the second; the AUROC of each, where it has test patients of both of two
    classes; "bytes_sent" to and from it, and "work_seconds" of its own training, where there is a log.
    """
    train, test = subject.data.train, subject.data.test
    federation = defense.federation(subject.recipe, train, subject.data.val, subject.seed, subject.device)
    task, counts = federation.task, np.stack([np.bincount(s.y, minlength=len(s.classes)) for s in federation.rows])
    log = _last(subject.log)
    for k, (name, rows) in enumerate(zip(federation.names, federation.rows, strict=True)):
        at = {"subgroup": f"{defense.column}={name}"}
        sheet.add("hospital_rows", float(len(rows)), len(rows), **at)
        sheet.add("hospital_patients", float(len(np.unique(patients_of(rows)))), len(rows), **at)
        for label, count in zip(rows.classes, counts[k], strict=True):
            sheet.add(f"label_share[{label}]", metrics.proportion(int(count), len(rows)), **at)
        if len(counts) > 1:
            others = np.delete(counts, k, 0).sum(0)
            apart = abs(counts[k] / counts[k].sum() - others / others.sum()).sum() / 2
            sheet.add("label_distance", float(apart), len(rows), **at)
        if log:
            sheet.add("bytes_sent", float(log["sent"][k]), federation.rounds, **at)
            sheet.add("work_seconds", float(log["worked"][k]), federation.rounds, **at)
        own = test.take(np.flatnonzero(test.subgroups[defense.column] == name))
        if len(own):
            _compare(own, task, subject, _alone(task, rows, federation.rounds, subject.shelf),
                     _fitted(defense, task, subject, rows, k), sheet, at)


def _compare(own: Split, task: Task, subject: Subject, local: np.ndarray, personal: np.ndarray, sheet: Sheet,
             at: dict[str, str]) -> None:
    """Three models on a hospital's own test rows."""
    models = {"local": task.classifier(local), "federated": subject.classifier, "personal": task.classifier(personal)}
    right = {}
    for who, model in models.items():
        right[who] = model.predict(own.x) == own.y
        sheet.add(f"{who}_accuracy", metrics.proportion(right[who]), **at)
        if len(own.classes) == 2 and len(np.unique(own.y)) == 2:
            score = model.predict_proba(own.x)[:, 1]
            sheet.add(f"{who}_auroc", metrics.weighted(metrics.resampled_auroc(score, own.y == 1), len(own),
                                                       subject.seed, own.y), **at)
    sheet.add("federation_gain", metrics.paired(right["federated"], right["local"]), **at)
    sheet.add("personal_gain", metrics.paired(right["personal"], right["federated"]), **at)


def _fitted(defense: FederatedTraining, task: Task, subject: Subject, rows: Split, number: int) -> np.ndarray:
    """The federation's parameters after more epochs at one hospital."""
    came = task.weights(subject.classifier)
    if not defense.personal:
        return came
    return replace(task, epochs=defense.personal, proximal=0.0).train(came, rows, number, defense.rounds + 1)


def _alone(task: Task, rows: Split, rounds: int, shelf: Path | None) -> np.ndarray:
    """What a hospital trains without the others, in as many rounds; kept on the shelf, as it is the same behind every
    rule."""
    alone = replace(task, proximal=0.0)
    key = sha256(repr((replace(alone, device=""), rounds, rows.rows.tolist())).encode())
    key.update(rows.x.tobytes() + rows.y.tobytes())
    file = shelf and shelf / f"alone-{key.hexdigest()[:32]}.npy"
    if file and file.is_file():
        return np.load(file)
    weights = federate(alone, [rows], Mean(), rounds)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.npy")
        np.save(draft, weights)
        draft.replace(file)
    return weights


def _last(log: Path | None) -> dict:
    """The last entry of a log; empty where there is none."""
    if log is None or not log.is_file():
        return {}
    return json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
