"""Attacks that look for the smallest perturbation, in L2 of scaled features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._boundary import step
from suite.attacks._search import Goal, Search, overwrite, per_row
from suite.base.bounds import Count, LearningRate, NonNegative, Positive, Unbounded
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.space import Norm, Reach


@dataclass(frozen=True)
class _Minimal(Search):
    """Base: a search without a budget, unless the caller sets one.

    Attributes:
        eps: L2 distance, in units of the space's scale, beyond which it need not look.
    """

    eps: Unbounded = float("inf")

    minimal: ClassVar[bool] = True

    @property
    def norm(self) -> Norm:
        return "l2"


@dataclass(frozen=True)
class DeepFool(_Minimal):
    """DeepFool (Moosavi-Dezfooli, Fawzi and Frossard 2015, arXiv 1511.04599): walk to the linearised boundary, repeat.

    Attributes:
        steps: Most steps for a row.
        overshoot: Share by which a step goes beyond the linearised boundary. From the sixth on it grows by half from
            step to step, for the few rows that rounding keeps from crossing.
        candidates: With many classes, how many of the best wrong labels are considered.
    """

    info: ClassVar[Info] = Info(
        "DeepFool", "Moosavi-Dezfooli, Fawzi and Frossard 2015, arXiv 1511.04599", "white-box", ("evasion",),
        "a few forward passes, each with one input-gradient pass for each candidate label, of fewer and fewer rows",
        "searches scaled features; a feature at its limit, or immutable, leaves the linearisation; judges each step at "
        "the nearest possible input; the overshoot grows after five steps")
    steps: Count = 50
    overshoot: NonNegative = 0.02
    candidates: Count = 10

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        space, z = classifier.space, reach.x.clone(memory_format=torch.contiguous_format)
        rows, square = torch.arange(len(z), device=z.device), space.scale.square().expand(z.shape[1:]).contiguous()
        for k in range(self.steps):
            possible = reach.snap(z)
            possible = possible if len(rows) == len(z) else possible[rows]
            _, gaps, grads = goal.rivals(classifier, possible, self.candidates)
            left = step(z, rows, gaps, grads, reach, square, 1 + self.overshoot * 1.5 ** max(k - 4, 0))
            if len(left) < len(rows):
                rows, goal = rows[left], goal.take(left)
                if not len(rows):
                    break
        else:
            with torch.no_grad():
                failed = rows[goal.lead(classifier.logits(reach.snap(z)[rows])) <= 0]
            z[failed] = reach.x[failed]
        found = reach.snap(z)
        if self.eps == float("inf"):
            return found
        return torch.where(per_row(space.distance(found, reach.x, "l2") <= self.eps, found), found, reach.x)


CLOSE = 0.05
"""Share of a perturbation that may be too much once the search of Carlini and Wagner has ended: it is bisected."""
HALVINGS = 6


@dataclass(frozen=True)
class CarliniWagnerL2(_Minimal):
    """The L2 attack of Carlini and Wagner (2016, arXiv 1608.04644): distance plus `c` times the margin, by Adam.

    Attributes:
        steps: Adam steps for each `c`.
        search: Values of `c` tried in the binary search.
        c: The first of them, in units of the least with which a linear model would be fooled.
        lr: Length of the first step, as a share of the distance to the linearised boundary, or of 2 features' scale
            between all features if that is longer (which it is on few columns only: whole numbers must be leapt over);
            it falls linearly to 0.
        kappa: Lead over the true label that is asked for, in logits; what is returned need only be wrong.
    """

    info: ClassVar[Info] = Info(
        "Carlini-Wagner L2", "Carlini and Wagner 2016, arXiv 1608.04644", "white-box", ("evasion",),
        "at most `search` x `steps` + 1 forward and input-gradient passes, and 6 forward passes",
        "the first `c` and the learning rate come from the linearisation at each input; searches scaled "
        "features, inside the limits of each row; judges each step at the nearest possible input; rows whose loss no "
        "longer falls leave the inner loop (the paper's code stops the whole batch); the results are drawn towards the "
        "input as far as they stay wrong", strong=True, strong_from=("steps", 50))
    steps: Count = 100
    search: Count = 6
    c: Positive = 3.0
    lr: LearningRate = 0.3
    kappa: NonNegative = 0.0

    fastest: ClassVar[float] = 0.1
    """Most that a first step moves any feature, in units of its scale, however flat the model is."""

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        found, n = reach.x.clone(), len(reach.x)
        nearest = found.new_full((n,), self.eps)
        low, high = found.new_zeros(n), found.new_full((n,), torch.inf)
        logits, grad = goal.gradient(classifier, reach.x, "margin")
        steep = torch.linalg.vector_norm((grad * classifier.space.scale).flatten(1), dim=1).clamp_(min=1e-12)
        away = goal.lead(logits).abs() / steep  # how far a linear model would have to be moved, and its least `c`
        c, size = self.c * 2 * away / steep, found[0].numel()
        rate = (self.lr * (away / size**0.5).clamp_(min=2 / size)).clamp_(max=self.fastest)
        for _ in range(self.search):
            better, distance, fooled = self._descend(classifier, reach, goal, c, rate)
            closer = fooled & (distance <= nearest)
            overwrite(found, closer, better)
            nearest = torch.where(closer, distance, nearest)
            low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
            c = torch.where(high.isinf(), c * 10, (low + high) / 2)
        return self._drawn(classifier, reach, goal, found, nearest)

    def _drawn(self, classifier: TorchClassifier, reach: Reach, goal: Goal, found: Tensor, nearest: Tensor) -> Tensor:
        """What was found, where Adam hovers about the border, as near to it as bisection comes."""
        rows = (found != reach.x).flatten(1).any(1).nonzero()[:, 0]
        reach, goal, best, nearest = reach.take(rows), goal.take(rows), found[rows], nearest[rows]
        delta, low, high = best - reach.x, torch.full_like(nearest, 1 - CLOSE), torch.ones_like(nearest)
        for _ in range(HALVINGS if len(rows) else 0):
            share = (low + high) / 2
            z = reach.snap(torch.clamp(torch.addcmul(reach.x, delta, per_row(share, delta)), reach.lower, reach.upper))
            fooled = goal.lead(classifier.scores(z)) > 0
            distance = classifier.space.distance(z, reach.x, "l2")
            better = fooled & (distance < nearest)
            overwrite(best, better, z)
            nearest = torch.where(better, distance, nearest)
            low, high = torch.where(fooled, low, share), torch.where(fooled, share, high)
        return found.index_copy_(0, rows, best)

    def _descend(self, classifier: TorchClassifier, reach: Reach, goal: Goal, c: Tensor,
                 rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For one `c` a row: the nearest input that fools, its distance, and whether there is one."""
        scale = classifier.space.scale
        found, shortest = reach.x.clone(), torch.full_like(c, torch.inf)
        best, nearest = found.clone(), shortest  # of the rows that still descend
        rows, limit = torch.arange(len(c), device=c.device), shortest
        middle, half = (reach.lower + reach.upper) / 2, (reach.upper - reach.lower) / 2
        w = torch.atanh(((reach.x - middle) / half.clamp(min=1e-12)).clamp(-1, 1) * 0.999999)
        pace = per_row(rate, w) * scale / half.clamp(min=1e-12)  # so that a step of Adam is `rate` in units of scale
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        for k in range(1, self.steps + 1):
            bent = torch.tanh(w)
            z = torch.addcmul(middle, half, bent)
            z = torch.clamp(z, reach.lower, reach.upper, out=z)
            possible = reach.snap(z)
            logits, grad = goal.gradient(classifier, possible, "margin")
            lead, delta = goal.lead(logits), (z - reach.x).div_(scale)
            distance = delta if possible is z else (possible - reach.x).div_(scale)
            distance = torch.linalg.vector_norm(distance.flatten(1), dim=1)
            closer = (lead > 0) & (distance < nearest)
            overwrite(best, closer, possible)
            nearest = torch.where(closer, distance, nearest)
            # d(loss)/dw by hand: through the rounding as if it were not there, and through the tanh
            pull = per_row(c * (lead < self.kappa), z)
            slope = (delta * (2 / scale)).addcmul_(pull, grad, value=-1).mul_(half)
            slope.addcmul_(slope * bent, bent, value=-1)
            mean.lerp_(slope, 0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=0.001)
            share = (1 - (k - 1) / self.steps) / (1 - 0.9**k)
            w.addcdiv_(mean * pace, (square / (1 - 0.999**k)).sqrt_().add_(1e-8), value=-share)
            if k % max(self.steps // 10, 1) == 0:
                loss = delta.flatten(1).square().sum(1) + c * (self.kappa - lead).clamp_(min=0)
                left = (loss < 0.9999 * limit).nonzero()[:, 0]
                if len(left) < len(rows):
                    if not len(left):
                        break
                    found[rows], shortest[rows] = best, nearest
                    rows, best, nearest, c, loss, w, mean, square, middle, half, pace = (
                        t[left] for t in (rows, best, nearest, c, loss, w, mean, square, middle, half, pace))
                    reach, goal = reach.take(left), goal.take(left)
                limit = loss
        found[rows], shortest[rows] = best, nearest
        return found, shortest, shortest < torch.inf
