"""HopSkipJump: walks along the decision boundary towards the input, and sees labels only."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from suite.attacks._search import Goal, norms, per_row
from suite.base.bounds import Count, Label, Positive, Unbounded
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.attack import EvasionAttack
from suite.core.batches import MOST, in_batches
from suite.core.classifier import Classifier
from suite.core.space import Lp, Norm, Space

HALVINGS = 20
"""A step shrinks at most so many times until it fools the model; then the row stays where it is."""
BEYOND = 1e-4
"""Share of the distance by which a result lies beyond the boundary, if it may: another batch size rounds sums in
another way, and may judge a point on the very boundary anew."""

CACHED = 2**20
"""Numbers in the points asked at once on a CPU: more would leave its caches, and take twice as long."""


@dataclass(frozen=True)
class HopSkipJump(EvasionAttack):
    """HopSkipJump (Chen, Jordan and Wainwright 2020, arXiv 1904.02144): the smallest perturbation, from labels alone.

    Each step estimates the normal of the boundary from random points around one on it, moves along the normal as far as
    the model stays fooled, and searches back to the boundary on the way to the input. All rows walk side by side.

    Attributes:
        eps: Distance beyond which a result is given up; the walk itself knows no budget.
        target: Label to reach; `None` for any wrong one.
        norm: "linf" or "l2": what is made small.
        max_iter: Steps along the boundary.
        init_eval, max_eval: Points asked for the first estimate of the normal (step t takes sqrt(t) times as many), and
            at most.
        init_size: Uniform random inputs tried as a start, and as many of the other attacked inputs.
        delta: How far those points lie from the boundary, in L2, as a share of the distance to the input.
    """

    info: ClassVar[Info] = Info(
        "HopSkipJump", "Chen, Jordan and Wainwright 2020, arXiv 1904.02144", "label-only", ("evasion-query",),
        "at most about `max_iter` x (`max_eval` + 20) queries a row",
        "measures in units of scale and asks about the nearest possible input; starts at the nearest of some random "
        "inputs and of the other attacked inputs that fools the model; the points that estimate the normal lie further "
        "off than in the paper, so that trees and float32 answer too; gives the nearest point of the whole walk",
        strong=True, strong_from=("max_iter", 20))
    eps: Unbounded = float("inf")
    target: Label | None = None
    norm: Lp = "linf"
    max_iter: Count = 20
    init_eval: Count = 20
    max_eval: Count = 100
    init_size: Count = 50
    delta: Positive = 0.01

    minimal: ClassVar[bool] = True

    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0,
                 starts: Tensor | None = None) -> Tensor:
        """As `EvasionAttack.__call__`.

        Args:
            classifier, x, y, seed: As there.
            starts: (n, ...) inputs to begin at, in place of those that the attack looks for; a row whose start does not
                fool the model is left as it is.
        """
        return self._within(classifier.space, classifier, x, y, seed, starts)

    def raw(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        """The same by an attacker who knows the range of each feature, and nothing else of what is possible.

        Returns:
            (n, ...) float32 inputs in the box of the space.
        """
        space = classifier.space
        return self._within(Space(space.lower, space.upper, space.scale), classifier, x, y, seed, None)

    def _within(self, space: Space, classifier: Classifier, x: Tensor, y: Tensor, seed: int,
                starts: Tensor | None) -> Tensor:
        self.check(classifier)
        generator = torch_generator(seed, classifier.device)

        def attack(x: Tensor, y: Tensor, *starts: Tensor) -> Tensor:
            found, side = x.clone(), _Side(classifier, space, x, Goal(classifier, y, self.target), self.norm)
            labels = classifier.judge(x)
            rows = (~side.goal.met(labels)).nonzero()[:, 0]
            if not len(rows):
                return found
            if starts:
                z = side.take(rows).inside(starts[0][rows])
                fooled = side.take(rows).fooled(z)
            else:
                z, fooled = self._starts(side, labels, rows, generator)
            rows = rows[fooled]
            if len(rows):
                found[rows] = self._walk(side.take(rows), z[fooled], generator)
            return found

        with torch.no_grad():
            return in_batches(classifier, attack, x.detach(), y, *(() if starts is None else (starts,)))

    def _starts(self, side: _Side, labels: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For each of the `rows` the nearest input of a pool that fools the model, and whether one does.

        Each row asks in the order of distance and stops at the first that fools, but asks last about other attacked
        inputs whose own `labels` do not.
        """
        x, device = side.x, side.x.device
        lower, upper = (v.expand(x.shape[1:]) for v in (side.space.lower, side.space.upper))
        share = torch.rand((self.init_size, *x.shape[1:]), generator=generator, device=device)
        others = torch.randperm(len(x), generator=generator, device=device)[:self.init_size]
        pool, mine = torch.cat([torch.lerp(lower, upper, share), x[others]]), side.take(rows)
        distance = torch.stack([mine.distance(mine.inside(other.expand_as(mine.x))) for other in pool])
        hopeless = ~mine.goal.met(labels[others][:, None])
        distance[self.init_size:] += hopeless * (1 + distance.amax())
        z, left = mine.x.clone(), torch.arange(len(rows), device=device)
        for nearest in distance.argsort(0):
            asked = mine.take(left)
            tried = asked.inside(pool[nearest[left]])
            fooled = asked.fooled(tried)
            z[left] = torch.where(per_row(fooled, z), tried, z[left])
            left = left[(~fooled).nonzero()[:, 0]]
            if not len(left):
                break
        found = torch.ones(len(rows), dtype=torch.bool, device=device)
        found[left] = False
        return z, found

    def _walk(self, side: _Side, z: Tensor, generator: torch.Generator) -> Tensor:
        """(n, ...) possible inputs that fool the model, from (n, ...) `z` that do."""
        best, nearest = side.x.clone(), side.x.new_full((len(z),), self.eps)
        closeness = 0.1 * self.delta / z[0].numel() ** 0.5  # well within the reach of the random points
        for t in range(self.max_iter + 1):
            z = side.search(z, math.ceil(-math.log2(closeness)))
            possible = side.possible(z)
            distance = side.distance(possible)
            closer = distance <= nearest
            best, nearest = torch.where(per_row(closer, z), possible, best), torch.where(closer, distance, nearest)
            if t < self.max_iter:
                normal = self._normal(side, z, min(int(self.init_eval * (t + 1) ** 0.5), self.max_eval), generator)
                step = normal.sign() if self.norm == "linf" else normal / norms(normal)
                z = side.stride(z, step * per_row(side.distance(z) / (t + 1) ** 0.5, z))
        beyond = side.inside(side.x + (1 + BEYOND) * (best - side.x))
        possible = side.possible(beyond)
        further = side.fooled(beyond) & (side.distance(possible) <= self.eps)
        return torch.where(per_row(further, possible), possible, best)

    def _normal(self, side: _Side, z: Tensor, evals: int, generator: torch.Generator) -> Tensor:
        """(n, ...) the estimated normal of the boundary at `z`, in units of scale, towards what fools the model."""
        n, ones = len(z), (1,) * (z.dim() - 1)
        length = self.delta * norms((z - side.x) / side.scale)
        drawn, turned, ahead = torch.zeros_like(z), torch.zeros_like(z), z.new_zeros(n)
        most = side.classifier.batch or MOST
        if z.device.type == "cpu":
            most = min(most, CACHED // z[0].numel())
        at_once = max(most // n, 1)
        for start in range(0, evals, at_once):
            m = min(at_once, evals - start)
            many = side.take(torch.arange(n, device=z.device).repeat(m))
            u = torch.randn(many.x.shape, generator=generator, device=z.device) * (many.reach.lower < many.reach.upper)
            center = z.repeat(m, *ones)
            points = many.inside(center + u / norms(u) * length.repeat(m, *ones) * side.scale)
            u = ((points - center) / side.scale).view(m, *z.shape)
            sign = many.fooled(points).view(m, n) * 2.0 - 1
            drawn, turned = drawn + u.sum(0), turned + torch.einsum("mn,mn...->n...", sign, u)
            ahead = ahead + sign.sum(0)
        share = ahead / evals
        return turned - per_row(torch.where(share.abs() < 1, share, 0), z) * drawn


class _Side:
    """Some rows, and on which side of the boundary points are, each judged at the nearest possible input."""

    def __init__(self, classifier: Classifier, space: Space, x: Tensor, goal: Goal, norm: Norm) -> None:
        self.classifier, self.space, self.x, self.goal, self.norm = classifier, space, x, goal, norm
        self.scale, self.reach = space.scale, space.reach(x, float("inf"))

    def take(self, rows: Tensor) -> Self:
        """The same of some of the rows (positions, which may repeat)."""
        taken = copy.copy(self)
        taken.reach, taken.goal = self.reach.take(rows), self.goal.take(rows)
        taken.x = taken.reach.x
        return taken

    def inside(self, z: Tensor) -> Tensor:
        return torch.clamp(z, self.reach.lower, self.reach.upper)

    def possible(self, z: Tensor) -> Tensor:
        return self.reach.snap(self.inside(z))

    def fooled(self, z: Tensor) -> Tensor:
        """(n,) bool; one query a row."""
        return self.goal.met(self.classifier.judge(self.possible(z)))

    def distance(self, z: Tensor) -> Tensor:
        return self.space.distance(z, self.x, self.norm)

    def search(self, z: Tensor, halvings: int) -> Tensor:
        """The point nearest to the rows, on the way there from `z`, at which binary search still sees them fooled."""
        whole = self.distance(z) if self.norm == "linf" else torch.ones_like(self.x.flatten(1)[:, 0])
        near, far, start = torch.zeros_like(whole), whole, z
        for _ in range(halvings):
            middle = (near + far) / 2
            if self.norm == "linf":
                reach = per_row(middle, z) * self.scale
                tried = self.x + torch.clamp(start - self.x, -reach, reach)
            else:
                tried = torch.lerp(self.x, start, per_row(middle, z))
            fooled = self.fooled(tried)
            near, far = torch.where(fooled, near, middle), torch.where(fooled, middle, far)
            z = torch.where(per_row(fooled, z), tried, z)
        return z

    def stride(self, z: Tensor, step: Tensor) -> Tensor:
        """`z` moved by `step`, in units of scale, or by the first of its halves that leaves the model fooled."""
        z, left = z.clone(), torch.arange(len(z), device=z.device)
        for k in range(HALVINGS):
            asked = self.take(left)
            tried = asked.inside(z[left] + step[left] * 0.5**k * self.scale)
            fooled = asked.fooled(tried)
            z[left] = torch.where(per_row(fooled, z), tried, z[left])
            left = left[(~fooled).nonzero()[:, 0]]
            if not len(left):
                break
        return z
