"""Privacy: what the model's answers give away of what it was not told and of typical patients."""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np
import torch

from suite import metrics
from suite.attack import AttributeAttack, InversionAttack
from suite.data import Split
from suite.evaluate.subject import Arrays, Subject, measure
from suite.measurement import Sheet


@measure.register
def attribute(attack: AttributeAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """For every column: how often the attacker is right about training patients, with and without the model."""
    known, victims = subject.data.test, subject.data.train
    if rows:
        victims = victims.take(np.random.default_rng(0).permutation(len(victims))[:rows])
    for column, name in enumerate(subject.data.features):
        started = time.perf_counter()
        guess, baseline = attack(subject.classifier, known, victims, column, subject.seed)
        truth = (victims.x[:, column] > np.median(known.x[:, column])).astype(np.int64)
        right, without = guess == truth, baseline == truth
        at = {"attack_params": asdict(attack) | {"column": name}, "seconds": time.perf_counter() - started}
        sheet.add("attribute_accuracy", metrics.proportion(right), **at)
        sheet.add("attribute_baseline", metrics.proportion(without), **at)
        sheet.add("attribute_gain", metrics.paired(right, without), **at)
    return {}


@measure.register
def inversion(attack: InversionAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """How near the reconstruction of each class comes to the mean patient of that class, against knowing nothing."""
    train = subject.data.train
    subject.classifier.queries, started = 0, time.perf_counter()
    found = attack(subject.classifier, train.x.mean(0), subject.seed)
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - started,
          "queries": float(subject.classifier.queries)}
    confidence, far = subject.classifier.predict_proba(found), closeness(found, train)
    for k, name in enumerate(train.classes):
        n = int((train.y == k).sum())
        sheet.add(f"inversion_confidence[{name}]", float(confidence[k, k]), 1, **at)
        sheet.add(f"inversion_distance[{name}]", float(far["distance"][k]), n, **at)
        sheet.add(f"inversion_prior_distance[{name}]", float(far["prior"][k]), n, **at)
    return {"reconstructions": found}


def closeness(reconstructions: np.ndarray, train: Split) -> dict[str, np.ndarray]:
    """How close reconstructions come to the typical training input of their class.

    Args:
        reconstructions: (classes, ...) in data units, as an `InversionAttack` returns them.
        train: The rows the model learned from, with at least one of each class.

    Returns:
        "distance" and "prior", each (classes,) float64: L2 distance to the mean of the class in units of scale, divided
        by the root of the number of features; from the reconstruction, and from the mean of all rows, which needs no
        model. A reconstruction that is no closer than the prior has told the attacker nothing.
    """
    space = train.space.to("cpu")
    means = torch.from_numpy(np.stack([train.x[train.y == k].mean(0) for k in range(len(train.classes))]))
    prior = torch.from_numpy(train.x.mean(0)).expand_as(means)
    root = means[0].numel() ** 0.5
    return {"distance": (space.distance(torch.from_numpy(reconstructions), means, "l2") / root).double().numpy(),
            "prior": (space.distance(prior, means, "l2") / root).double().numpy()}
