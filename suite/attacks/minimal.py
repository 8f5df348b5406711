"""Attacks that look for the smallest perturbation, in L2 of scaled features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attack import Info
from suite.attacks._search import Goal, Search, per_row
from suite.classifier import TorchClassifier
from suite.space import Norm, Reach, Space


@dataclass(frozen=True)
class _Minimal(Search):
    """Base: a search without a budget, unless the caller sets one.

    Attributes:
        eps: L2 distance, in units of the space's scale, beyond which it need not look.
    """

    eps: float = float("inf")

    minimal: ClassVar[bool] = True

    @property
    def norm(self) -> Norm:
        return "l2"


@dataclass(frozen=True)
class DeepFool(_Minimal):
    """DeepFool (Moosavi-Dezfooli, Fawzi and Frossard 2015, arXiv 1511.04599): walk to the linearised boundary, repeat.

    Attributes:
        steps: Most steps for a row.
        overshoot: Share by which each step goes beyond the linearised boundary.
        candidates: With many classes, how many of the best wrong labels are considered.
    """

    info: ClassVar[Info] = Info(
        "DeepFool", "Moosavi-Dezfooli, Fawzi and Frossard 2015, arXiv 1511.04599", "white-box", ("evasion",),
        "a few forward passes, each with one input-gradient pass for each candidate label, of the rows not yet fooled",
        "searches scaled features; a feature at its limit, or immutable, leaves the linearisation; judges each step at "
        "the nearest possible input")
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        space, found = classifier.space, reach.x.clone()
        rows, z = torch.arange(len(found), device=found.device), reach.x
        for _ in range(self.steps):
            possible = reach.snap(z)
            lead, gaps, grads = goal.rivals(classifier, possible, self.candidates)
            fooled = lead > 0
            step, length = self._shortest(gaps, grads, z, reach, space.scale)
            # rows of length 0 have nowhere to go
            left = ((length > 0) & ~fooled).nonzero()[:, 0]
            if len(left) < len(rows):
                self._keep_near(found, rows, fooled, possible, reach, space)
                if not len(left):
                    return found
                rows, z, step, reach, goal = rows[left], z[left], step[left], reach.take(left), goal.take(left)
            z = torch.clamp(step.add_(z), reach.lower, reach.upper)
        with torch.no_grad():
            possible = reach.snap(z)
            self._keep_near(found, rows, goal.lead(classifier.logits(possible)) > 0, possible, reach, space)
        return found

    def _shortest(self, gaps: Tensor, grads: list[Tensor], z: Tensor, reach: Reach,
                  scale: Tensor) -> tuple[Tensor, Tensor]:
        """(n, ...) the shortest step, in data units, beyond one of the linearised boundaries; and (n,) its length."""
        step = length = None
        for gap, grad in zip(gaps, grads, strict=True):
            # a feature that cannot go where the gradient points is no part of the way there
            slope = grad * torch.where(grad > 0, reach.upper, reach.lower).ne(z) * scale
            size = slope.flatten(1).norm(dim=1)
            way = (gap.abs() + 1e-4) * (1 + self.overshoot) / size
            ahead = slope * per_row((way / size).nan_to_num_(0, 0, 0), z) * scale
            way = way.nan_to_num_(0, 0, 0)
            if step is None:
                step, length = ahead, way
            else:
                nearer = (way > 0) & ((way < length) | (length == 0))
                step, length = torch.where(per_row(nearer, z), ahead, step), torch.where(nearer, way, length)
        return step, length

    def _keep_near(self, found: Tensor, rows: Tensor, fooled: Tensor, possible: Tensor, reach: Reach,
                   space: Space) -> None:
        """Write the inputs that fool, and are near enough, into `found`."""
        if self.eps < float("inf"):
            fooled = fooled & (space.distance(possible, reach.x, "l2") <= self.eps)
        good = fooled.nonzero()[:, 0]
        found[rows[good]] = possible[good]


@dataclass(frozen=True)
class CarliniWagnerL2(_Minimal):
    """The L2 attack of Carlini and Wagner (2016, arXiv 1608.04644): distance plus `c` times the margin, by Adam.

    Attributes:
        steps: Adam steps for each `c`.
        search: Values of `c` tried in the binary search.
        c: The first of them.
        lr: Learning rate of the first step, in units of the space's scale; it falls linearly to 0.
        kappa: Lead over the true label that is asked for, in logits; what is returned need only be wrong.
    """

    info: ClassVar[Info] = Info(
        "Carlini-Wagner L2", "Carlini and Wagner 2016, arXiv 1608.04644", "white-box", ("evasion",),
        "at most `search` x `steps` forward and input-gradient passes",
        "searches scaled features, inside the limits of each row; judges each step at the nearest possible input; rows "
        "whose loss no longer falls leave the inner loop (the paper's code stops the whole batch)")
    steps: int = 100
    search: int = 6
    c: float = 1.0
    lr: float = 0.05
    kappa: float = 0.0

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        found, n = reach.x.clone(), len(reach.x)
        nearest = found.new_full((n,), self.eps)
        c, low, high = found.new_full((n,), self.c), found.new_zeros(n), found.new_full((n,), torch.inf)
        for _ in range(self.search):
            better, distance, fooled = self._descend(classifier, reach, goal, c)
            closer = fooled & (distance <= nearest)
            found = torch.where(per_row(closer, found), better, found)
            nearest = torch.where(closer, distance, nearest)
            low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
            c = torch.where(high.isinf(), c * 10, (low + high) / 2)
        return found

    def _descend(self, classifier: TorchClassifier, reach: Reach, goal: Goal,
                 c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For one `c` a row: the nearest input that fools, its distance, and whether there is one."""
        scale = classifier.space.scale
        found, nearest = reach.x.clone(), torch.full_like(c, torch.inf)
        rows, limit = torch.arange(len(c), device=c.device), torch.full_like(c, torch.inf)
        middle, half = (reach.lower + reach.upper) / 2, (reach.upper - reach.lower) / 2
        w = torch.atanh(((reach.x - middle) / half.clamp(min=1e-12)).clamp(-1, 1) * 0.999999)
        pace = scale / half.clamp(min=1e-12)  # so that a step of Adam is `lr` in units of scale
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        for k in range(1, self.steps + 1):
            bent = torch.tanh(w)
            z = torch.clamp(middle + half * bent, reach.lower, reach.upper)
            possible = reach.snap(z)
            logits, grad = goal.gradient(classifier, possible, "margin")
            lead, delta = goal.lead(logits), (z - reach.x) / scale
            distance = ((possible - reach.x) / scale).flatten(1).norm(dim=1)
            hit = (lead > 0) & (distance < nearest[rows])
            found[rows[hit]], nearest[rows[hit]] = possible[hit], distance[hit]
            # d(loss)/dw by hand: through the rounding as if it were not there, and through the tanh
            pull = per_row(c * (lead < self.kappa), z)
            slope = (2 * delta / scale - pull * grad).mul_(half).mul_(1 - bent * bent)
            mean.mul_(0.9).add_(slope, alpha=0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=0.001)
            rate = self.lr * (1 - (k - 1) / self.steps) / (1 - 0.9**k)
            w = w - rate * pace * mean / ((square / (1 - 0.999**k)).sqrt_() + 1e-8)
            if k % max(self.steps // 10, 1) == 0:
                loss = delta.flatten(1).square().sum(1) + c * (self.kappa - lead).clamp_(min=0)
                left = (loss < 0.9999 * limit).nonzero()[:, 0]
                if len(left) < len(rows):
                    if not len(left):
                        break
                    rows, c, loss, w, mean, square = (t[left] for t in (rows, c, loss, w, mean, square))
                    middle, half, pace = middle[left], half[left], pace[left]
                    reach, goal = reach.take(left), goal.take(left)
                limit = loss
        return found, nearest, nearest < torch.inf
