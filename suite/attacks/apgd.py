"""Auto-PGD: gradient ascent with momentum that halves its own step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._search import (
    Goal,
    Hunt,
    Loss,
    Search,
    overwrite,
    per_row,
    project,
    random_start,
    restarted,
    uphill,
)
from suite.base.bounds import Count, Whole
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.space import Lp, Reach


@dataclass(frozen=True)
class APGD(Search):
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690): the step starts at twice the budget and needs no tuning.

    The paper's second loss, DLR, divides the margin by the distance between the first and the third logit, so that
    scaling the logits cannot hide the gradient. It needs three classes; for two, the margin over the distance between
    the logits is constant. Neither is needed here: cross-entropy is climbed as log odds, and the margin undivided. The
    gradient of neither vanishes as the logits grow, and steps are normalised, so their scale cancels. For two classes
    the two losses are the same.

    Attributes:
        norm: "linf" or "l2".
        early_stop: As for `suite.attacks.gradient.BIM`.
        steps: Number of steps of each start, at least 1.
        restarts: Random starts, at least 1; all but the first only for the rows that are not fooled yet.
        loss: "ce", cross-entropy as log odds, or "margin", the best wrong logit less that of the label.
        rivals: With many classes, climb towards each of so many of the likeliest wrong labels in turn (APGD-T), one
            more forward pass and `rivals` times the rest; 0 for any.
    """

    info: ClassVar[Info] = Info(
        "APGD", "Croce and Hein 2020, arXiv 2003.01690", "white-box", ("evasion",),
        "`restarts` x (`steps` forward and input-gradient passes and 1 forward pass), fewer with early stop",
        "climbs log odds instead of cross-entropy, and the plain margin instead of DLR, which two classes do not "
        "have; judges each step at the nearest possible input", strong=True, strong_from=("steps", 20))
    norm: Lp = "linf"
    early_stop: bool = True
    steps: Count = 100
    restarts: Count = 1
    loss: Loss = "ce"
    rivals: Whole = 0

    momentum: ClassVar[float] = 0.75
    rise: ClassVar[float] = 0.75
    """Share of the steps between two checkpoints that must raise the loss, or the step is halved."""

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        def climb(reach: Reach, goal: Goal) -> tuple[Tensor, Tensor]:
            start = random_start(reach, classifier.space.scale, self.eps, self.norm, generator)
            return self._climb(classifier, Hunt(classifier, reach, goal, self.early_stop), start)

        goals = goal.apart(classifier.scores(reach.x), self.rivals) if self.rivals else [goal]
        return restarted(climb, reach, [aim for aim in goals for _ in range(self.restarts)])

    def _climb(self, classifier: TorchClassifier, hunt: Hunt, z: Tensor) -> tuple[Tensor, Tensor]:
        scale, inward, checkpoints = classifier.space.scale, self.norm == "l2", _checkpoints(self.steps)
        before, best, best_grad = z, torch.empty_like(z), torch.empty_like(z)
        most = checked = z.new_full((len(z),), -torch.inf)  # greatest loss: of all steps, up to the last checkpoint
        loss = -most  # of the last step; the first one is no rise
        step = z.new_full((len(z),), 2 * self.eps)
        halved = torch.ones_like(step, dtype=torch.bool)
        rises, since = torch.zeros_like(step), 0
        for k in range(self.steps):
            possible = hunt.reach.snap(z, inward)
            logits, grad = hunt.goal.gradient(classifier, possible, self.loss)
            value = hunt.goal.loss(logits, self.loss)
            left = hunt.note(possible, logits)
            if left is not None:
                if not len(left):
                    return hunt.best()
                z, before, best, grad, best_grad = (t[left] for t in (z, before, best, grad, best_grad))
                value, loss, most, checked, step, halved, rises = (
                    t[left] for t in (value, loss, most, checked, step, halved, rises))
            rises, loss = rises + (value > loss), value
            overwrite(best, value > most, z)
            overwrite(best_grad, value > most, grad)
            most = value.maximum(most)
            if k in checkpoints:
                # too few steps up, or a stretch of full-length steps without a new best: too long a stride
                halve = (rises < self.rise * (k - since)) | (~halved & (most <= checked))
                step, halved, checked = torch.where(halve, step / 2, step), halve, most
                wide = per_row(halve, z)
                z, grad = torch.where(wide, best, z), torch.where(wide, best_grad, grad)
                loss, rises, since = torch.where(halve, most, loss), torch.zeros_like(rises), k
            ahead = uphill(grad, hunt.reach, scale, self.norm)
            ahead = torch.addcmul(z, ahead, per_row(step, z) * scale, out=ahead)
            ahead = project(ahead, hunt.reach, scale, self.eps, self.norm)
            if k:  # z + momentum (ahead - z) + (1 - momentum) (z - before)
                ahead = torch.lerp(z, ahead, self.momentum).add_(z - before, alpha=1 - self.momentum)
                ahead = project(ahead, hunt.reach, scale, self.eps, self.norm)
            z, before = ahead, z
        return hunt.finish(hunt.reach.snap(z, inward))


def _checkpoints(steps: int) -> set[int]:
    """The steps after which the stride is reconsidered: at first 22 % of all, then ever closer (sec. 3.1)."""
    points, gap = [0.0, 0.22], 0.22
    while points[-1] + max(gap - 0.03, 0.06) < 1:
        gap = max(gap - 0.03, 0.06)
        points.append(points[-1] + gap)
    return {math.ceil(round(p * steps, 6)) for p in points[1:]}
