"""MemGuard: answers bent until they say nothing of membership to the defender's own attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.defense import Front
from suite.core.odds import SURE
from suite.defenses.post_training.answers import Discretion

TEMPERATURES = np.r_[1.0, np.geomspace(0.125, 8, 49)]
"""Among which an answer is bent; unbent first, so that it stays so where nothing is better."""


@dataclass(frozen=True)
class MemGuard(Front):
    """Each answer is sharpened or flattened until the defender's attack cannot tell whether it is about a member.

    The defender's attack is a logistic regression on the log odds of the most probable classes, their squares, cubes
    and products, fitted to what the model answers about its training rows and about validation rows. No label changes.
    It protects from attacks that judge answers as they come; shadow models behind the same defense, or labels alone,
    see through it (Choquette-Choo et al. 2021, arXiv 2007.14321; Song and Mittal 2021, arXiv 2003.10595).

    Attributes:
        distortion: Greatest L1 distance of what is told from the model's own probabilities, in (0, 2].
    """

    info: ClassVar[Info] = Info(
        "MemGuard", "Jia, Salem, Backes, Zhang and Gong 2019, arXiv 1909.10594", threats=("membership",),
        cost="probabilities off by up to the distortion",
        departs="looks along the temperature of an answer for the noise that the paper finds by gradient steps, and "
                "bounds the distortion of each answer, where the paper bounds its mean by telling some as they are")
    distortion: Annotated[float, Field(strict=True, gt=0, le=2)] = 0.5

    def wrap(self, classifier: Classifier, train: Split, val: Split) -> Classifier:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures, StandardScaler

        answers = [torch.from_numpy(np.asarray(classifier.predict_proba(s.x), np.float64)) for s in (train, val)]
        seen = np.repeat([1, 0], [len(train), len(val)])
        attack = make_pipeline(StandardScaler(), PolynomialFeatures(3, include_bias=False), StandardScaler(),
                               LogisticRegression(class_weight="balanced", max_iter=1000))
        attack.fit(_sorted_odds(torch.cat(answers)), seen)
        return _Bent(self.distortion, attack).wrap(classifier, train, val)


@dataclass(frozen=True)
class _Bent(Discretion):
    """MemGuard with its attack."""

    distortion: float
    attack: Any

    def told(self, proba: Tensor) -> Tensor:
        full = proba.double().cpu().clamp(min=SURE)
        full = full / full.sum(1, keepdim=True)
        tried = torch.stack([(full.log() / t).softmax(1) for t in TEMPERATURES])
        chance = self.attack.predict_proba(_sorted_odds(tried.flatten(0, 1)))[:, 1].reshape(tried.shape[:2])
        doubt = torch.from_numpy(np.abs(chance - 0.5))
        doubt[(tried - full).abs().sum(2) > self.distortion] = torch.inf
        return tried[doubt.argmin(0), torch.arange(len(full))].to(proba)


def _sorted_odds(proba: Tensor) -> np.ndarray:
    """(n, at most 3) log odds of the most probable classes: what an attack that does not know the label sees."""
    top = proba.double().clamp(SURE, 1 - SURE).sort(1, descending=True).values[:, :3]
    return (top.log() - (-top).log1p()).numpy()
