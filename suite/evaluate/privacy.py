"""Privacy: what the model's answers give away of what it was not told and of typical patients."""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np
import torch

from suite.base.errors import NotApplicable
from suite.core.attack import AttributeAttack, InversionAttack, ReconstructionAttack
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.evaluate.pictures import inverted
from suite.evaluate.subject import Arrays, Subject, measure
from suite.results import metrics
from suite.results.measurement import Sheet

LEFT_OUT = 50
"""Training rows at most that are left out, one at a time, to be rebuilt."""
REBUILT = 0.01
"""Share of a column's scale within which a value counts as rebuilt."""


@measure.register
def attribute(attack: AttributeAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """For every column: how often the attacker is right about training patients, with and without the model."""
    known, victims = subject.data.test, subject.data.train
    if rows := rows or subject.rows:
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
def reconstruction(attack: ReconstructionAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """How often the attack rebuilds a training row from all the others, against the mean of the others of its class.

    A row counts as rebuilt where its label is right and every column within `REBUILT` of the scale. Errors are root
    mean squares over columns, in units of scale. The model is the same for all rows: each is left out of what the
    attacker knows, not of the training.
    """
    train, space, started = subject.data.train, subject.data.space.to("cpu"), time.perf_counter()
    chosen = np.random.default_rng(0).permutation(len(train))[:min(rows or subject.rows or LEFT_OUT, LEFT_OUT)]
    found: dict[str, list[np.ndarray]] = {"": [], "_baseline": []}
    labels = []
    for i in chosen:
        known = train.take(np.delete(np.arange(len(train)), i))
        x, y = attack(subject.classifier, known, subject.seed)
        found[""].append(x)
        found["_baseline"].append(known.x[known.y == train.y[i]].mean(0))
        labels.append(y == train.y[i])
    truth, root = torch.from_numpy(train.x[chosen]), train.x[0].size ** 0.5
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - started}
    for suffix, rebuilt in found.items():
        x = torch.from_numpy(np.stack(rebuilt))
        near = (space.distance(x, truth) <= REBUILT).numpy() & (np.array(labels) | bool(suffix))
        far = space.distance(x, truth, "l2").double().numpy() / root
        sheet.add(f"rows_rebuilt{suffix}", metrics.proportion(near), **at)
        sheet.add(f"reconstruction_error{suffix}", float(far.mean()), len(far), **at)
    return {}


@measure.register
def inversion(attack: InversionAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """How much the reconstruction of each class is like its patients, against the mean of all, which needs no model.

    By distance to the mean of the class; by what another model says, which learned from the test patients; and of
    images by structural similarity, to the mean of the class and to the training image of the class that is nearest
    (which is never shown).
    """
    train, began = subject.data.train, time.perf_counter()
    start = train.x.mean(0)
    subject.classifier.queries = 0
    found = attack(subject.classifier, start, subject.seed)
    at = {"attack_params": asdict(attack), "seconds": time.perf_counter() - began,
          "queries": float(subject.classifier.queries)}
    confidence, judge = subject.classifier.predict_proba(found), evaluator(subject)
    if judge is not None:
        sheet.add("inversion_evaluator_accuracy", metrics.proportion(judge.predict(train.x) == train.y), **at)
    for prefix, x in (("inversion", found), ("inversion_prior", np.repeat(start[None], len(found), axis=0))):
        scores = {"distance": closeness(x, train)["distance"], **likeness(x, train)}
        if judge is not None:
            scores["recognized"] = judge.predict_proba(x).diagonal()
        for k, name in enumerate(train.classes):
            for score, values in scores.items():
                sheet.add(f"{prefix}_{score}[{name}]", float(values[k]), int((train.y == k).sum()), **at)
    for k, name in enumerate(train.classes):
        sheet.add(f"inversion_confidence[{name}]", float(confidence[k, k]), 1, **at)
    return {"reconstructions": found} | (inverted(found, start, train) if subject.pictures else {})


def evaluator(subject: Subject) -> Classifier | None:
    """A model of the target's recipe, undefended, that has learned from the test patients instead; None where it cannot
    be trained.

    It shares no weights with the target and no patient that either has learned from, so an input that only the target
    likes does not convince it; both were stopped by the validation split.
    """
    test = subject.data.test
    if len(np.unique(test.y)) < len(test.classes):
        return None
    try:
        return subject.recipe.fit(test, subject.data.val, subject.seed + 1, subject.device)
    except NotApplicable:
        return None


def likeness(reconstructions: np.ndarray, train: Split) -> dict[str, np.ndarray]:
    """How similar the reconstruction of each class looks to that class; empty where inputs are no pictures.

    Args:
        reconstructions: (classes, ...) float32 in data units.
        train: As for `closeness`.

    Returns:
        "ssim_mean" and "ssim_nearest", each (classes,): structural similarity (`Space.visibility`) to the mean image of
        the class, and to its training image at the least L2 distance.
    """
    space, found = train.space.to("cpu"), torch.from_numpy(reconstructions)
    if "ssim" not in space.visibility(found[:1], found[:1]):
        return {}
    means, nearest = [], []
    for k in range(len(train.classes)):
        own = torch.from_numpy(train.x[train.y == k])
        means.append(own.mean(0))
        nearest.append(own[(own - found[k]).flatten(1).norm(dim=1).argmin()])
    return {name: space.visibility(found, torch.stack(x))["ssim"].numpy()
            for name, x in (("ssim_mean", means), ("ssim_nearest", nearest))}


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
