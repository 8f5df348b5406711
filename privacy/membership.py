"""Membership inference: telling training patients from others by how the model answers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from suite.art import art_estimator, art_fence
from suite.attack import Info, Leaked, MembershipAttack
from suite.attacks.hopskipjump import HopSkipJump
from suite.classifier import Classifier
from suite.shadows import log_odds


@dataclass(frozen=True)
class LossThreshold(MembershipAttack):
    """The loss of the true label: training rows have small losses. The reference any other attack must beat."""

    info: ClassVar[Info] = Info("Loss threshold", "Yeom, Giacomelli, Fredrikson and Jha 2018, arXiv 1709.01604",
                                "score", ("membership",), "one query a row",
                                "scores every row, so that the ROC stands in place of one threshold")

    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        return log_odds(classifier, x, y)  # they order rows as the loss does


@dataclass(frozen=True)
class RuleBased(MembershipAttack):
    """A row is a member if the model gets it right: the gap between training and test accuracy."""

    info: ClassVar[Info] = Info(
        "Gap attack", "Yeom, Giacomelli, Fredrikson and Jha 2018, arXiv 1709.01604; label-only: Choquette-Choo et al. "
        "2021, arXiv 2007.14321", "label-only", ("membership",), "one query a row",
        "not through ART, whose rule counts the classes among the scored rows and fails where one is absent")

    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        return (classifier.predict(x) == y).astype(np.float64)


@dataclass(frozen=True)
class ArtBlackBox(MembershipAttack):
    """A classifier that learns from known members and others what the model's answers to members look like (ART).

    Attributes:
        learner: The attack model: random forest, gradient boosting, tree, nearest neighbours. A linear one could not
            weigh the answer by the label.
    """

    info: ClassVar[Info] = Info("Learned membership inference", "Shokri, Stronati, Song and Shmatikov 2017, "
                                "arXiv 1610.05820", "score", ("membership",), "one query a row, one small fit",
                                "learns from known rows of the target instead of shadow models")
    learner: Literal["rf", "gb", "dt", "knn"] = "rf"

    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        from art.attacks.inference.membership_inference import MembershipInferenceBlackBox

        with art_fence(seed):
            attack = MembershipInferenceBlackBox(art_estimator(classifier, x.shape[1:]), attack_model_type=self.learner)
            attack.fit(known.members.x, known.members.y, known.others.x, known.others.y)
            return attack.infer(x, y, probabilities=True).astype(np.float64).ravel()


@dataclass(frozen=True)
class LabelOnly(MembershipAttack):
    """Distance to the decision boundary by HopSkipJump: training rows lie deeper. 0 where the model is wrong.

    Attributes:
        max_iter, init_eval, max_eval, init_size: As in `suite.attacks.hopskipjump.HopSkipJump`.
    """

    info: ClassVar[Info] = Info(
        "Boundary distance", "Choquette-Choo, Tramer, Carlini and Papernot 2021, arXiv 2007.14321; Li and Zhang 2021, "
        "arXiv 2007.15528", "label-only", ("membership",), "about 500 queries a row: score a sample of rows",
        "Linf in units of scale; the distance itself is the score, since ART's membership probability is not monotone "
        "in it; a row that nothing fools counts as the deepest, where ART gives it distance 0")
    max_iter: int = 10
    init_eval: int = 10
    max_eval: int = 40
    init_size: int = 20

    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        walk = HopSkipJump(max_iter=self.max_iter, init_eval=self.init_eval, max_eval=self.max_eval,
                           init_size=self.init_size)
        start = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(classifier.device)
        found = walk.raw(classifier, start, torch.from_numpy(y).to(classifier.device), seed)
        distance = classifier.space.distance(found, start).double().cpu().numpy()
        right = classifier.predict(x) == y
        unfooled = right & (distance == 0)
        deepest = distance.max(initial=0.0) + 1.0
        return np.where(right, np.where(unfooled, deepest, distance), 0.0)
