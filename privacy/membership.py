"""Membership inference without shadow models: telling training patients from others by how the model answers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from suite.attacks.art.border import art_estimator, art_fence
from suite.attacks.query.hopskipjump import HopSkipJump
from suite.base.bounds import Count, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.attack import Leaked, MembershipAttack
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.odds import log_odds

FEWEST = 10
"""Known rows of each kind below which nothing is learned from them."""


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

        _enough(self, known.members, known.others)
        with art_fence(seed):
            attack = MembershipInferenceBlackBox(art_estimator(classifier, x.shape[1:]), attack_model_type=self.learner)
            attack.fit(known.members.x, known.members.y, known.others.x, known.others.y)
            return attack.infer(x, y, probabilities=True).astype(np.float64).ravel()


@dataclass(frozen=True)
class LabelOnly(MembershipAttack):
    """Distance to the decision boundary by HopSkipJump: training rows lie deeper. 0 where the model is wrong.

    Attributes:
        max_iter, init_eval, max_eval, init_size: As in `suite.attacks.query.hopskipjump.HopSkipJump`.
    """

    info: ClassVar[Info] = Info(
        "Boundary distance", "Choquette-Choo, Tramer, Carlini and Papernot 2021, arXiv 2007.14321; Li and Zhang 2021, "
        "arXiv 2007.15528", "label-only", ("membership",), "about 500 queries a row: score a sample of rows",
        "Linf in units of scale; the distance itself is the score, since ART's membership probability is not monotone "
        "in it; a row that nothing fools counts as the deepest, where ART gives it distance 0")
    max_iter: Count = 10
    init_eval: Count = 10
    max_eval: Count = 40
    init_size: Count = 20

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


@dataclass(frozen=True)
class NoiseRobustness(MembershipAttack):
    """How much random noise a row's label withstands: training rows lie deeper. 0 where the model is wrong.

    Attributes:
        draws: Noisy copies of a row at each level.
        levels: Standard deviations of the noise, in units of the space's scale; the score is the share of all copies,
            brought to possible inputs, that keep the label.
    """

    info: ClassVar[Info] = Info(
        "Noise robustness", "Choquette-Choo, Tramer, Carlini and Papernot 2021, arXiv 2007.14321, sec. 4.3",
        "label-only", ("membership",), "`draws` queries a level and row, 200 in all",
        "several levels of noise at once, where the paper tunes one on models of the attacker's; no boundary walk")
    draws: Count = 50
    levels: tuple[Positive, ...] = (0.05, 0.1, 0.2, 0.4)

    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        generator, space = torch_generator(seed, classifier.device), classifier.space
        start = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(classifier.device)
        label = torch.from_numpy(y).to(classifier.device)
        reach, right = space.reach(start, float("inf")), classifier.judge(start) == label
        kept = torch.zeros(len(x), dtype=torch.float64, device=classifier.device)
        for level in self.levels:
            for _ in range(self.draws):
                noise = torch.randn(start.shape, generator=generator, device=classifier.device)
                noisy = torch.clamp(start + level * space.scale * noise, reach.lower, reach.upper)
                kept += (classifier.judge(reach.snap(noisy)) == label) & right
        return (kept / (self.draws * len(self.levels))).cpu().numpy()


@dataclass(frozen=True)
class QuantileRegression(MembershipAttack):
    """How unusual it is for a stranger like this one that the model is so sure: a regression, fitted on known others.

    The log odds of a label are taken to be normal given the row: gradient-boosted trees predict their mean from the
    row's values and its label, and the size of their deviation. The score is the deviation in units of its size.

    Attributes:
        components: Most values of a row that the regression sees; of larger rows, so many principal components.
    """

    info: ClassVar[Info] = Info(
        "Quantile regression", "Bertran, Tang, Kearns, Morgenstern, Roth and Wu 2023, arXiv 2307.03694", "score",
        ("membership",), "one query a row, two small fits on the known others",
        "a normal distribution for all quantiles, as in the paper's sec. 4; trees for a network")
    components: Count = 16

    def __call__(self, classifier: Classifier, known: Leaked, x: np.ndarray, y: np.ndarray,
                 seed: int = 0) -> np.ndarray:
        from sklearn.decomposition import PCA
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.model_selection import cross_val_predict

        def regression() -> HistGradientBoostingRegressor:
            return HistGradientBoostingRegressor(max_iter=50, max_depth=3, min_samples_leaf=10, random_state=seed)

        _enough(self, known.others)
        others, seen, asked = known.others, known.others.x.reshape(len(known.others), -1), x.reshape(len(x), -1)
        if seen.shape[1] > self.components:
            shrink = PCA(min(self.components, *seen.shape), random_state=seed).fit(seen)
            seen, asked = shrink.transform(seen), shrink.transform(asked)
        seen, asked = (np.column_stack([rows, label]) for rows, label in ((seen, others.y), (asked, y)))
        odds = log_odds(classifier, others.x, others.y)
        # deviations from predictions of rows that were not fitted, or they would look too small
        deviation = np.log(np.abs(odds - cross_val_predict(regression(), seen, odds, cv=5)) + 1e-6)
        mean, size = (regression().fit(seen, target).predict(asked) for target in (odds, deviation))
        return (log_odds(classifier, x, y) - mean) / np.exp(size)


def _enough(attack: MembershipAttack, *known: Split) -> None:
    """Refuse to learn from too few rows."""
    least = min(map(len, known))
    if least < FEWEST:
        raise InputError(f"{type(attack).__name__} learns from rows whose membership it knows, and needs {FEWEST} of "
                         f"each kind: there are {least}")
