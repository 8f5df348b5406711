"""Pictures of what an attack did, for inputs that are pictures: kept beside the rows of its cell."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from suite.core.classifier import Classifier, TorchClassifier
from suite.core.data import Split, patients_of
from suite.evaluate.subject import Arrays

MOST = 3
"""Inputs that are shown of each attack: the first that it fooled, so that nobody chose the prettiest."""
FEW = 10
"""Of fewer images no mean is shown."""


def picture(model: Classifier, x: Tensor, x_adv: Tensor, fooled: np.ndarray, wrong: np.ndarray, y: np.ndarray,
            classes: tuple[str, ...]) -> Arrays:
    """Clean, attacked and amplified difference of some successes, with saliency and both answers.

    Args:
        model: Under attack.
        x, x_adv: (n, ...) inputs and their attacked versions.
        fooled, wrong: (n,) bool: fooled by the attack, or misjudged without one.
        y: (n,) true labels.
        classes: Names.

    Returns:
        Arrays `picture_*` of k <= 3 successes: "clean", "attacked", "difference" (grey is no change, the largest change
        is black or white), for networks "saliency" and "saliency_attacked", all (k, height, width[, 3]) uint8;
        "captions" (k,) str, and "gain" (k,) float64, by how much the difference is amplified. Empty where inputs are no
        pictures or none was fooled.
    """
    chosen = np.flatnonzero(fooled & ~wrong)[:MOST]
    if not len(chosen) or model.space.pictures(x[:1]) is None:
        return {}
    a, b = x[torch.from_numpy(chosen).to(x.device)], x_adv[torch.from_numpy(chosen).to(x.device)]
    most = (b - a).abs().flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (a.dim() - 1))
    shown = {"clean": a, "attacked": b, "difference": 0.5 + (b - a) / (2 * most)}
    if isinstance(model, TorchClassifier):
        shown |= {"saliency": saliency(model, a), "saliency_attacked": saliency(model, b)}
    said = [model.predict_proba(z.cpu().numpy()) for z in (a, b)]
    seen = {name: values.cpu().numpy() for name, values in model.space.visibility(a, b).items()}
    captions = [f"{classes[y[row]]}: " + " → ".join(f"{classes[p[i].argmax()]} {p[i].max():.0%}" for p in said)
                + (f", SSIM {seen['ssim'][i]:.3f}" if "ssim" in seen else "") for i, row in enumerate(chosen)]
    return {f"picture_{name}": model.space.pictures(z) for name, z in shown.items()} | {
        "picture_captions": np.array(captions), "picture_gain": (0.5 / most).flatten().double().cpu().numpy()}


def inverted(found: np.ndarray, start: np.ndarray, train: Split) -> Arrays:
    """What an inversion began with, made, and should have made; never an image of one patient.

    Args:
        found: (classes, ...) reconstructions.
        start: (...) where they began.
        train: The rows the model learned from.

    Returns:
        Arrays `picture_*` of the k classes of at least `FEW` patients, as the mean of fewer shows these: "start"
        (1, ...), "means" and "rebuilt" (k, ...), all uint8 as `picture` gives them, and "classes" (k,) str. Empty where
        inputs are no pictures or all classes are small.
    """
    people = patients_of(train)
    chosen = [k for k in range(len(train.classes)) if len(np.unique(people[train.y == k])) >= FEW]
    if not chosen or train.space.pictures(torch.from_numpy(start[None])) is None:
        return {}
    shown = {"start": start[None], "means": np.stack([train.x[train.y == k].mean(0) for k in chosen]),
             "rebuilt": found[chosen]}
    return {f"picture_{name}": train.space.pictures(torch.from_numpy(x)) for name, x in shown.items()} | {
        "picture_classes": np.array([train.classes[k] for k in chosen])}


def saliency(model: TorchClassifier, x: Tensor) -> Tensor:
    """(n, 1, height, width) in [0, 1]: size of the gradient of the answer's log-probability (Simonyan, Vedaldi and
    Zisserman 2013, arXiv 1312.6034), largest over channels, divided by its 99th percentile.
    """
    with model.frozen():
        _, _, grad = model.gradient(x, lambda logits: logits.log_softmax(1).amax(1))
    size = grad.abs().amax(1, keepdim=True)
    return (size / size.flatten(1).quantile(0.99, dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)).clamp(max=1)
