"""What a federation is to each of its hospitals: its rows, what it gets for taking part, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from suite.core.classifier import Classifier
from suite.core.data import Split, patients_of
from suite.evaluate.subject import Subject
from suite.results import metrics
from suite.results.measurement import Sheet
from suite.results.seal import keep, read_kept

OfHospital = Callable[[Split, int], Classifier]
"""`(training rows of a hospital, its number) -> a model of its own`."""


def tell_hospitals(column: str, subject: Subject, sheet: Sheet, alone: OfHospital,
                   personal: OfHospital | None = None) -> None:
    """Add rows for each hospital, in the subgroup that names it.

    "hospital_rows" and "hospital_patients" it trains on; "label_share[...]" among them, and "label_distance", half the
    sum of differences from the shares at all others; "federated_accuracy" on its own test patients, and
    "local_accuracy" and "personal_accuracy" of its own models; "federation_gain" and "personal_gain", paired
    differences of the common model to the local one and of the personal one to the common one; the AUROC of each, where
    it has test patients of both of two classes; "bytes_sent" to and from it, and "work_seconds" of its own training,
    where there is a log. Of a hospital with fewer people than `Subject.smallest_group`, to train or to test on, only
    the numbers of rows and patients are told.

    Args:
        column: Subgroup that names the hospital of a row.
        subject: The federation's model.
        sheet: Receives the rows.
        alone: What a hospital trains without the others.
        personal: What it makes of the federation's model with its own rows; None where nobody knows how.
    """
    train, test = subject.data.train, subject.data.test
    names, whose = np.unique(train.subgroups[column], return_inverse=True)
    counts = np.zeros((len(names), len(train.classes)), np.int64)
    np.add.at(counts, (whose, train.y), 1)
    log = _last(subject.log)
    for k, name in enumerate(names.tolist()):
        rows = train.take(np.flatnonzero(whose == k))
        many = len(np.unique(patients_of(rows)))
        at = {"subgroup": f"{column}={name}", "people": many}
        sheet.add("hospital_rows", float(len(rows)), len(rows), **at)
        sheet.add("hospital_patients", float(many), len(rows), **at)
        for label, count in zip(rows.classes, counts[k].tolist(), strict=True) if (
                many >= subject.smallest_group) else ():
            sheet.add(f"label_share[{label}]", metrics.proportion(count, len(rows)), **at)
        if len(counts) > 1:
            others = counts.sum(0) - counts[k]
            sheet.add("label_distance", float(abs(counts[k] / len(rows) - others / others.sum()).sum() / 2), len(rows),
                      **at)
        if log:
            sheet.add("bytes_sent", float(log["sent"][k]), len(rows), **at)
            sheet.add("work_seconds", float(log["worked"][k]), len(rows), **at)
        own = test.take(np.flatnonzero(test.subgroups[column] == name))
        if (tested := len(np.unique(patients_of(own)))) >= subject.smallest_group:
            at |= {"people": min(many, tested)}
            models = {"local": alone(rows, k), "federated": subject.classifier}
            _compare(own, models | ({"personal": personal(rows, k)} if personal else {}), subject.seed, sheet, at)


def _compare(own: Split, models: dict[str, Classifier], seed: int, sheet: Sheet, at: dict[str, Any]) -> None:
    """Models on a hospital's own test rows."""
    right = {}
    for who, model in models.items():
        right[who] = model.predict(own.x) == own.y
        sheet.add(f"{who}_accuracy", metrics.proportion(right[who]), **at)
        if len(own.classes) == 2 and len(np.unique(own.y)) == 2:
            score = model.predict_proba(own.x)[:, 1]
            sheet.add(f"{who}_auroc", metrics.weighted(metrics.resampled_auroc(score, own.y == 1), len(own), seed,
                                                       own.y), **at)
    sheet.add("federation_gain", metrics.paired(right["federated"], right["local"]), **at)
    if "personal" in right:
        sheet.add("personal_gain", metrics.paired(right["personal"], right["federated"]), **at)


def kept(shelf: Path | None, about: str, rows: Split, made: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that depends on `about` and some rows alone: from the shelf, or else made and put there."""
    key = sha256(about.encode() + rows.rows.tobytes() + rows.x.tobytes() + rows.y.tobytes()).hexdigest()[:32]
    file = shelf and shelf / f"alone-{key}.npy"
    if file and (found := read_kept(file)) is not None:
        return found
    array = made()
    if file:
        keep(file, array)
    return array


def _last(log: Path | None) -> dict[str, Any]:
    """The last entry of a log; empty where there is none."""
    lines = log.read_text(encoding="utf-8").splitlines() if log and log.is_file() else []
    return json.loads(lines[-1]) if lines else {}
