"""FAB: the nearest adversarial input by repeated projection onto the linearised boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._boundary import NUDGE
from suite.attacks._search import Goal, Search, norms, per_row
from suite.base.bounds import Count, Unbounded, Whole
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.space import Lp, Norm, Reach

UNSEEN = 6
"""Steps of Newton's method on a device other than the CPU between two looks at whether it has arrived: mostly 3 or 4
get there."""


@dataclass(frozen=True)
class FAB(Search):
    """Fast adaptive boundary attack (Croce and Hein 2019, arXiv 1907.02044).

    Attributes:
        eps: Distance, in units of the space's scale, beyond which it need not look.
        norm: "linf" or "l2".
        early_stop: Be content with the first input within `eps`, however much nearer another might be.
        steps: Points judged from each start, at least 1.
        restarts: Starts, at least 1: first the input itself, then random points around it for each row that was not
            found nearby (`early_stop`) or may have something nearer.
        candidates: With many classes, of how many of the best wrong labels the nearest boundary is sought.
        rivals: With many classes, cross the boundary to each of so many of the likeliest wrong labels in turn (FAB-T);
            0 for whichever boundary is nearest.
    """

    info: ClassVar[Info] = Info(
        "FAB", "Croce and Hein 2019, arXiv 1907.02044", "white-box", ("evasion",),
        "at most `restarts` x `steps` forward passes, each with one input-gradient pass for each candidate label, and "
        "5 forward passes; `rivals` times that when it is set",
        "one pass a step instead of two: the boundary is linearised at the point that was judged, before it is pulled "
        "back to the input; searches scaled features; a row that has found nothing nearer for 20 steps leaves",
        strong=True, strong_from=("steps", 20))
    eps: Unbounded = float("inf")
    norm: Lp = "linf"
    early_stop: bool = False
    steps: Count = 100
    restarts: Count = 1
    candidates: Count = 10
    rivals: Whole = 0

    minimal: ClassVar[bool] = True
    bias: ClassVar[float] = 0.1
    """Most weight of the input itself against the last point (alpha_max)."""
    beyond: ClassVar[float] = 1.05
    """How far a step goes, in units of the distance to the boundary (eta)."""
    back: ClassVar[float] = 0.9
    """Share of the way from the input that is left when a point that fools is pulled back (beta)."""
    patience: ClassVar[int] = 20

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        reach = classifier.space.reach(reach.x, torch.inf)  # the way to a near point may lead through a far one
        found, nearest = reach.x.clone(), reach.x.new_full((len(reach.x),), torch.inf)
        goals = goal.apart(classifier.scores(reach.x), self.rivals) if self.rivals else [goal]
        for k, aim in ((k, aim) for aim in goals for k in range(self.restarts)):
            left = (nearest > (self.eps if self.early_stop else 0)).nonzero()[:, 0]
            if not len(left):
                break
            part = reach.take(left)
            start = self._around(classifier, part, nearest[left], generator) if k else part.x
            again, distance = self._walk(classifier, part, aim.take(left), start)
            if not self.early_stop:
                again, distance = self._tighten(classifier, part, goal.take(left), again, distance)
            closer = distance < nearest[left]
            found[left] = torch.where(per_row(closer, again), again, found[left])
            nearest[left] = torch.minimum(nearest[left], distance)
        return torch.where(per_row(nearest <= self.eps, found), found, reach.x)

    def _around(self, classifier: TorchClassifier, reach: Reach, nearest: Tensor, generator: torch.Generator) -> Tensor:
        """Random points half as far away as need be looked."""
        draw = torch.randn if self.norm == "l2" else torch.rand
        way = draw(reach.x.shape, generator=generator, device=reach.x.device)
        way = way / norms(way) if self.norm == "l2" else 2 * way - 1
        whole = way[0].numel() ** 0.5 if self.norm == "l2" else 1.0  # where neither budget nor distance is finite
        radius = nearest.clamp(max=min(self.eps, whole)) / 2
        return torch.clamp(reach.x + per_row(radius, way) * way * classifier.space.scale, reach.lower, reach.upper)

    def _walk(self, classifier: TorchClassifier, reach: Reach, goal: Goal, z: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest point that fools on the way from `z`, and its distance: infinite where there is none."""
        space, enough = classifier.space, self.eps if self.early_stop else 0.0
        found, nearest = reach.x.clone(), z.new_full((len(z),), torch.inf)
        rows, since = torch.arange(len(z), device=z.device), torch.zeros(len(z), device=z.device)
        for _ in range(self.steps):
            possible = reach.snap(z)
            lead, gaps, slopes = goal.rivals(classifier, possible, self.candidates)
            distance = space.distance(possible, reach.x, self.norm)
            fools = lead > NUDGE / 2
            improved = fools & (distance < 0.999 * nearest[rows])
            since = torch.where(improved | nearest[rows].isinf(), 0, since + 1)
            closer = fools & (distance < nearest[rows])
            found[rows] = torch.where(per_row(closer, possible), possible, found[rows])
            nearest[rows] = torch.where(closer, distance, nearest[rows])
            gap, slope = nearest_plane(gaps, slopes, space.scale, self.norm)
            stay = (nearest[rows] > enough) & (since < self.patience)
            if not stay.all():
                left = stay.nonzero()[:, 0]
                if not len(left):
                    break
                rows, since, z, lead, gap, slope = (t[left] for t in (rows, since, z, lead, gap, slope))
                reach, goal = reach.take(left), goal.take(left)
            z = self._step(reach, space.scale, z, lead, NUDGE - gap, slope)
        return found, nearest

    def _step(self, reach: Reach, scale: Tensor, z: Tensor, lead: Tensor, gap: Tensor, slope: Tensor) -> Tensor:
        """From `z` and from the input to the plane `slope . (p - z) = gap`, a little beyond, and between the two."""
        back = torch.where(lead > 0, self.back, 1.0)
        here = torch.lerp(reach.x, z, per_row(back, z))
        along = torch.linalg.vecdot(slope.flatten(1), (z - reach.x).flatten(1))
        there, ahead = (nearest_on_plane(p, slope, g, reach, scale, self.norm)
                        for p, g in ((here, gap + (1 - back) * along), (reach.x, gap + along)))
        a, b = (size((q - p) / scale, self.norm) for p, q in ((here, there), (reach.x, ahead)))
        bias = per_row((a / (a + b)).nan_to_num_(0).clamp_(max=self.bias), z)
        z = torch.lerp(torch.lerp(here, there, self.beyond), torch.lerp(reach.x, ahead, self.beyond), bias)
        return torch.clamp(z, reach.lower, reach.upper)

    def _tighten(self, classifier: TorchClassifier, reach: Reach, goal: Goal, found: Tensor,
                 distance: Tensor) -> tuple[Tensor, Tensor]:
        """Three steps of the secant method along the way from the input to what was found (sec. 3.4)."""
        rows = ((distance > 0) & (distance < torch.inf)).nonzero()[:, 0]
        if not len(rows):
            return found, distance
        x, z, best, reach, goal = reach.x[rows], found[rows], found[rows], reach.take(rows), goal.take(rows)
        below, above = (goal.lead(classifier.scores(t)) - NUDGE / 2 for t in (x, z))
        near, far = torch.zeros_like(above), torch.ones_like(above)
        for _ in range(3):
            share = near + (far - near) * (below / (below - above)).nan_to_num_(1)
            share = share + 0.05 * (far - share)  # so as to fool, rather than to stand on the boundary
            possible = reach.snap(torch.lerp(x, z, per_row(share, z)))
            lead = goal.lead(classifier.scores(possible)) - NUDGE / 2
            fools = lead > 0
            best = torch.where(per_row(fools, z), possible, best)
            far, above = torch.where(fools, share, far), torch.where(fools, lead, above)
            near, below = torch.where(fools, near, share), torch.where(fools, below, lead)
        found[rows], distance[rows] = best, classifier.space.distance(best, x, self.norm)
        return found, distance


def size(delta: Tensor, norm: Norm) -> Tensor:
    """(n,) norm of each row."""
    return torch.linalg.vector_norm(delta.flatten(1), torch.inf if norm == "linf" else 2, dim=1)


def nearest_plane(gaps: Tensor, slopes: list[Tensor], scale: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Of the planes `slope . (p - z) = -gap`, (rivals, n) of them, that nearest to each row: its gap and slope."""
    if len(slopes) == 1:
        return gaps[0], slopes[0]
    sizes = torch.stack([torch.linalg.vector_norm((s * scale).flatten(1), 1 if norm == "linf" else 2, dim=1)
                         for s in slopes])
    pick = (gaps.abs() / sizes).nan_to_num_(torch.inf).argmin(0)
    return gaps.gather(0, pick[None])[0], torch.stack(slopes)[pick, torch.arange(len(pick), device=pick.device)]


def nearest_on_plane(p: Tensor, slope: Tensor, gap: Tensor, reach: Reach, scale: Tensor, norm: Norm) -> Tensor:
    """The point q nearest to `p` with `slope . (q - p) = gap` between the limits of `reach`; exact.

    Where the limits keep it from the plane, the point between them that comes nearest to it.

    Args:
        p: (n, ...) points between the limits.
        slope, gap: (n, ...) and (n,) of a plane a row.
        scale: Unit in which distance is meant, of each feature.
        norm: "linf" or "l2".
    """
    steep = slope * scale * per_row(gap.sign(), p)  # gain by moving each feature by its unit
    room = torch.where(steep > 0, reach.upper - p, reach.lower - p).div_(scale)
    if norm == "linf":  # all features keep the same pace until they reach their limits
        rate, limit = steep.abs(), room.abs()
        pace = steep.sign()
    else:  # each moves in proportion to what it gains
        rate, limit = steep.square(), (room / steep).nan_to_num_(0, 0, 0)
        pace = steep
    t = smallest(rate.flatten(1), limit.flatten(1), gap.abs())
    return p + torch.minimum(per_row(t, p), limit).mul_(pace).mul_(scale)


def smallest(rate: Tensor, limit: Tensor, gap: Tensor) -> Tensor:
    """(n,) smallest t >= 0 with `sum(rate * min(t, limit)) = gap`, infinite where there is none.

    The sum is concave in t and its slope changes only where a limit is reached, so Newton's method from 0 arrives at
    the exact solution, from below, after passing some of the (n, features) limits, with no need to sort them.
    """
    limit = limit.clamp(max=torch.finfo(limit.dtype).max)
    t = torch.zeros_like(gap)
    while True:
        # what has arrived stays where it is: on a device, a few steps too many cost less than waiting for each
        for _ in range(1 if t.device.type == "cpu" else UNSEEN):
            before = t
            moving = rate * (limit > t[:, None])
            gained = torch.linalg.vecdot(rate - moving, limit)
            ahead = torch.maximum(t, ((gap - gained) / moving.sum(1)).nan_to_num_(torch.inf, torch.inf, 0))
            t = torch.where(gap > 0, ahead, 0)
        if torch.equal(t, before):
            return t
