"""Detection: what a detector finds of the attacks that fooled a model, and what is left of that once they know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from suite.attacks._search import Search
from suite.attacks.apgd import APGD
from suite.attacks.gradient import PGD
from suite.base.errors import InputError, NotApplicable
from suite.core.batches import in_batches
from suite.core.classifier import TorchClassifier
from suite.core.detector import Detector, exceeded
from suite.defenses.post_training.guard import GuardedModule
from suite.detectors import TorchDetector
from suite.evaluate.evasion import SLACK, fools
from suite.evaluate.subject import Arrays, Subject
from suite.evaluate.worst_case import CONTROL, Part, withstood
from suite.results import metrics
from suite.results.measurement import Sheet
from suite.results.metrics import Estimate
from suite.training.features import Penultimate
from suite.training.randomized import Randomized

FPRS = (0.01, 0.05)
"""Shares of clean inputs that may be alarms; at the last one stands the detector that adaptive attacks meet."""
POINTS, FITTED = 100, 1000
"""Inputs of each kind on a map of features, and clean ones that say how it lies."""
ADAPTIVE = "adaptive"
"""What stands in the `attack` field of rows about the attack that knows the detector."""


def measure_detection(name: str, detector: Detector, subject: Subject, sheet: Sheet, parts: list[Part],
                      rows: int | None = None) -> Arrays:
    """Fit a detector on clean training rows, set its alarm on validation rows, and hold test rows up to it.

    Args:
        name: Registered name of the detector; rows are named after it, as in `detection_auroc[mahalanobis]`.
        detector: Not fitted; its hyper-parameters.
        subject: The model that it watches over.
        sheet: Receives the rows.
        parts: Finished evasion cells on that model. Their successes at the main budget are what is to be found.
        rows: Test rows at most for the attack that knows the detector.

    Returns:
        The detector's scores: of the clean test rows, "clean", and of each attack's successes, "found0" and so on. For
        networks, a map of their features as well: "map_clean", "map_detected" and "map_missed", (k, 2) float32 each,
        k <= 100, and "map_share" (2,), the share of the clean rows' variance along each axis.
    """
    if not parts:
        raise InputError("every evasion attack on this model failed")
    model, data = subject.classifier, subject.data
    # of fewer inputs than that, not one may be an alarm: the threshold would be the greatest score
    rates = [fpr for fpr in FPRS if fpr * len(data.val) >= 1]
    if FPRS[-1] not in rates:
        raise InputError(f"an alarm at {FPRS[-1]:.0%} of clean inputs takes at least {1 / FPRS[-1]:.0f} validation "
                         f"inputs to set; there are {len(data.val)}")
    # its own copy, as fitting leaves a mark; what learns from an attack learns from one of the main budget
    detector = replace(detector, **{"eps": subject.eps} if detector.fitted_on else {})
    described = {"detector": asdict(detector)} | ({"fitted_on": detector.fitted_on} if detector.fitted_on else {})
    detector.fit(data.train.x, data.train.y, model)
    held_out, clean = detector.score(data.val.x), detector.score(data.test.x)
    thresholds = {fpr: exceeded(held_out, fpr) for fpr in rates}
    for fpr, threshold in thresholds.items():
        sheet.add(f"detection_fpr[{name}@{fpr}]", metrics.proportion(clean > threshold), attack_params=described)
    # nobody attacked either: far from 0.5, the detector tells apart what it must not
    sheet.add(f"detection_leak[{name}]", _auroc(held_out, clean, subject.seed), attack_params=described)
    arrays, successes = {"clean": clean}, []
    for number, (part, eps, inputs) in enumerate(_successes(parts, subject)):
        found = detector.score(inputs)
        at = {"attack": part.name, "knowledge": part.attack.info.knowledge,
              "attack_params": asdict(part.attack) | described | {"eps": eps}}
        sheet.add(f"detection_auroc[{name}]", _auroc(clean, found, subject.seed), **at)
        for fpr, threshold in thresholds.items():
            sheet.add(f"detection_tpr[{name}@{fpr}]", metrics.proportion(found > threshold), **at)
        arrays[f"found{number}"] = found
        if part.name not in (CONTROL, detector.fitted_on):
            successes.append((inputs, found > thresholds[FPRS[-1]]))
    if isinstance(model, TorchClassifier) and isinstance(detector, TorchDetector) and not model.rejects:
        _adaptive(name, detector, thresholds[FPRS[-1]], held_out, described, subject, sheet, parts, rows)
    if isinstance(model, TorchClassifier) and successes:
        arrays |= feature_map(model, data.test.x, *map(np.concatenate, zip(*successes, strict=True)), subject.seed)
    return arrays


def feature_map(model: TorchClassifier, clean: np.ndarray, attacked: np.ndarray, detected: np.ndarray,
                seed: int) -> Arrays:
    """Where clean, detected and missed inputs lie for the network: its penultimate features along the two directions in
    which those of clean inputs vary most (principal components).

    Args:
        model: The network; one without linear layers, or that draws several times, has no such map.
        clean: (n, ...) inputs, n >= 2.
        attacked: (m, ...) inputs of successful attacks.
        detected: (m,) bool: what the detector sounds an alarm for.
        seed: Chooses the inputs that are shown.

    Returns:
        Arrays `map_*` as `measure_detection` gives them; empty where there is nothing to show.
    """
    generator = np.random.default_rng(seed)

    def features(x: np.ndarray) -> np.ndarray:
        look = Penultimate(model.module)
        with torch.no_grad():
            return in_batches(model, lambda part: look(part.to(model.device)).cpu(), torch.from_numpy(x)).numpy()

    def some(x: np.ndarray, most: int) -> np.ndarray:
        return x[np.sort(generator.permutation(len(x))[:most])]

    try:
        fitted = features(some(clean, FITTED))
    except NotApplicable:
        return {}
    if not len(attacked) or fitted.shape[1] < 2:
        return {}
    middle = fitted.mean(0)
    _, size, axes = np.linalg.svd(fitted - middle, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2].sum(1, keepdims=True))  # which way an axis points is no matter of chance
    shown = {"clean": some(fitted, POINTS)} | {
        name: features(some(attacked[which], POINTS)) for name, which in (("detected", detected), ("missed", ~detected))
        if which.any()}
    return {f"map_{name}": ((found - middle) @ axes.T).astype(np.float32) for name, found in shown.items()} | {
        "map_share": size[:2] ** 2 / max(float((size ** 2).sum()), 1e-12)}


def _successes(parts: list[Part], subject: Subject) -> Iterator[tuple[Part, float, np.ndarray]]:
    """Each attack with its main budget, and what it turned from right to wrong within it, as far as that was kept."""
    for part in parts:
        eps = subject.ladder(part.attack)[0]
        yield part, eps, part.arrays["x_adv"][part.arrays["distance"][part.arrays["kept"]] <= eps + SLACK]


def _auroc(clean: np.ndarray, suspicious: np.ndarray, seed: int) -> Estimate:
    score, positive = np.concatenate([clean, suspicious]), np.repeat([False, True], [len(clean), len(suspicious)])
    if not len(suspicious):
        return Estimate(np.nan, np.nan, np.nan, 0)
    return metrics.weighted(metrics.resampled_auroc(score, positive), len(score), seed, positive)


class _Scaled(nn.Module):
    """A detector's score in units of its spread on clean inputs: about as large as logits, so that neither drowns the
    other in the gradient."""

    def __init__(self, module: nn.Module, unit: float) -> None:
        super().__init__()
        self.module, self.unit = module, unit

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) / self.unit


def behind(model: TorchClassifier, detector: TorchDetector, threshold: float, unit: float = 1.0) -> TorchClassifier:
    """The model behind a detector: what scores above the threshold is refused.

    Args:
        model: One that refuses nothing itself.
        detector: Fitted.
        threshold: Of its score.
        unit: The refusing logit rises by one with so much of the score.
    """
    guarded = GuardedModule(model.module, _Scaled(detector.module, unit), threshold / unit)
    for part in guarded.modules():
        if isinstance(part, Randomized):  # an attack meets the same draws whatever was attacked before
            part.chance.passes = 0
    return TorchClassifier(guarded, len(model.classes_), model.space, rejects=True, device=model.device,
                           recipe=model.recipe, batch=model.batch)


def adaptive_attacks(eps: float) -> tuple[Search, ...]:
    """What is tried by an attacker who knows the detector (Carlini and Wagner 2017, arXiv 1705.07263): being detected
    is one more way for the attack to fail, and it climbs whichever fails most, or both at once."""
    return PGD(eps=eps, steps=100, step=0.05), APGD(eps=eps, loss="margin"), APGD(eps=eps)


def _adaptive(name: str, detector: TorchDetector, threshold: float, held_out: np.ndarray, described: dict,
              subject: Subject, sheet: Sheet, parts: list[Part], rows: int | None) -> None:
    """How many rows are misjudged: without the detector, by what does not know it, and by what does."""
    rows = min(rows or subject.held, subject.held)  # of which all successes were kept
    model, test, eps = subject.classifier, subject.test(rows), subject.eps
    fooled, blind = np.zeros((2, len(subject.data.test)), bool)
    for part in parts:
        kept = part.arrays["kept"]
        hit = part.arrays["linf"][kept] <= eps + SLACK
        where, unseen = part.arrays["positions"][kept[hit]], detector.score(part.arrays["x_adv"][hit]) <= threshold
        fooled[where], blind[where[unseen]] = True, True
    spread = float(np.subtract(*np.quantile(held_out, [0.75, 0.25])))
    guarded = behind(model, detector, threshold, spread if spread > 0 else 1.0)
    x, y = (torch.from_numpy(a).to(model.device) for a in (test.x, test.y))
    right = model.predict(test.x) == test.y
    _, met = withstood(parts, fooled, eps)
    unaware = met.any()
    if unaware:  # whom no other attack was tried on is no row that one got past the detector, or not
        right &= met[subject.positions(rows)]
    fooled, blind = (found[subject.positions(rows)] for found in (fooled, blind))
    adaptive = blind.copy()  # who knows the detector may still do as if they did not
    for attack in adaptive_attacks(eps):
        left = right & ~adaptive
        if left.any():
            todo = torch.from_numpy(left).to(model.device)
            adaptive[left] = fools(guarded, attack(guarded, x[todo], y[todo], subject.seed), y[todo])
    at = {"attack": ADAPTIVE, "knowledge": "white-box",
          "attack_params": {"eps": eps, "fpr": FPRS[-1]} | described}
    kinds = {"unguarded": fooled | adaptive, "blind": blind} if unaware else {}
    for metric, found in (kinds | {"adaptive": adaptive}).items():
        sheet.add(f"{metric}_evasion[{name}]", metrics.proportion(found[right]), **at)
