"""Gradient attacks of a fixed budget: one step, many steps, with random starts, with momentum.

All of them climb a continuous iterate and judge it, value and gradient alike, at the nearest possible input
(straight through the rounding, as in BPDA), so what they return is possible by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._search import Goal, Hunt, Search, per_row, project, random_start, restarted, uphill
from suite.base.bounds import Count, NonNegative, Positive
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.space import Lp, Reach

_DEPARTS = ("climbs the log odds of being fooled, whose direction is that of cross-entropy but does not vanish where "
            "the model is sure; judges each step at the nearest possible input")


@dataclass(frozen=True)
class FGSM(Search):
    """Fast gradient sign method (Goodfellow, Shlens and Szegedy 2014, arXiv 1412.6572): one full step.

    Attributes:
        norm: "linf" (sign of the gradient) or "l2" (its direction, as in Miyato et al. 2015, arXiv 1507.00677).
    """

    info: ClassVar[Info] = Info(
        "FGSM", "Goodfellow, Shlens and Szegedy 2014, arXiv 1412.6572", "white-box", ("evasion",),
        "1 forward and input-gradient pass", _DEPARTS)
    norm: Lp = "linf"

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        scale = classifier.space.scale
        _, grad = goal.gradient(classifier, reach.x)
        z = uphill(grad, reach, scale, self.norm).mul_(scale * self.eps).add_(reach.x)
        return reach.snap(project(z, reach, scale, self.eps, self.norm), self.norm == "l2")


@dataclass(frozen=True)
class BIM(Search):
    """Basic iterative method (Kurakin, Goodfellow and Bengio 2016, arXiv 1607.02533): small steps from the input.

    Attributes:
        norm: "linf" or "l2".
        early_stop: Return a row at its first iterate that fools the classifier, or unchanged where none does. Otherwise
            all steps are taken and the iterate furthest on the wrong side is returned: for transfer, for training and
            for scores under attack.
        steps: Number of steps, at least 1.
        step: Length of a step, in units of `eps`.
    """

    info: ClassVar[Info] = Info(
        "BIM", "Kurakin, Goodfellow and Bengio 2016, arXiv 1607.02533", "white-box", ("evasion",),
        "`steps` forward and input-gradient passes and 1 forward pass, fewer with early stop", _DEPARTS)
    norm: Lp = "linf"
    early_stop: bool = True
    steps: Count = 10
    step: Positive = 0.1

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        return self._climb(classifier, reach, goal, reach.x)[0]

    def _climb(self, classifier: TorchClassifier, reach: Reach, goal: Goal, z: Tensor,
               decay: float = 0.0) -> tuple[Tensor, Tensor]:
        scale, inward = classifier.space.scale, self.norm == "l2"
        hunt = Hunt(classifier, reach, goal, self.early_stop)
        # one length a cell, as broadcasting over a few columns costs more than the arithmetic
        pace = self.step * self.eps * scale
        pace = pace.expand_as(z).contiguous() if pace.dim() else pace
        velocity = torch.zeros_like(z) if decay else None
        for _ in range(self.steps):
            possible = hunt.reach.snap(z, inward)
            logits, grad = hunt.goal.gradient(classifier, possible)
            left = hunt.note(possible, logits)
            if left is not None:
                z, grad = z[left], grad[left]
                pace = pace[:len(z)] if pace.dim() else pace
                velocity = velocity[left] if decay else None
                if not len(z):
                    return hunt.best()
            if decay:
                size = (grad * scale).flatten(1).abs().sum(1).clamp_(min=1e-30)
                grad = velocity.mul_(decay).add_(grad.div_(per_row(size, grad))).clone()
            ahead = uphill(grad, hunt.reach, scale, self.norm)
            z = torch.addcmul(z, ahead, pace, out=ahead)  # not into `z`, which the hunt may keep
            z = project(z, hunt.reach, scale, self.eps, self.norm)
        return hunt.finish(hunt.reach.snap(z, inward))


@dataclass(frozen=True)
class PGD(BIM):
    """Projected gradient descent (Madry et al. 2017, arXiv 1706.06083): BIM from random points of the ball.

    Attributes:
        restarts: Random starts, at least 1; all but the first only for the rows that are not fooled yet.
    """

    info: ClassVar[Info] = Info(
        "PGD", "Madry, Makelov, Schmidt, Tsipras and Vladu 2017, arXiv 1706.06083", "white-box", ("evasion",),
        "`restarts` x (`steps` forward and input-gradient passes and 1 forward pass), fewer with early stop", _DEPARTS)
    steps: Count = 40
    restarts: Count = 1

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        def climb(reach: Reach, goal: Goal) -> tuple[Tensor, Tensor]:
            start = random_start(reach, classifier.space.scale, self.eps, self.norm, generator)
            return self._climb(classifier, reach, goal, start)

        return restarted(climb, reach, [goal] * self.restarts)


@dataclass(frozen=True)
class MIFGSM(BIM):
    """Momentum iterative FGSM (Dong et al. 2017, arXiv 1710.06081): BIM along a running sum of gradients.

    Attributes:
        decay: Share of the running sum that each step keeps.
    """

    info: ClassVar[Info] = Info(
        "MI-FGSM", "Dong, Liao, Pang, Su, Zhu, Hu and Li 2017, arXiv 1710.06081", "white-box", ("evasion",),
        "`steps` forward and input-gradient passes and 1 forward pass, fewer with early stop", _DEPARTS)
    decay: NonNegative = 1.0

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        return self._climb(classifier, reach, goal, reach.x, self.decay)[0]
