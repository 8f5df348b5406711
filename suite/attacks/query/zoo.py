"""ZOO: an attack in the manner of Carlini and Wagner where there are no gradients, from differences of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._search import Goal, Query
from suite.base.bounds import Count, LearningRate, NonNegative, Positive
from suite.base.info import Info
from suite.core.batches import MOST
from suite.core.classifier import Classifier
from suite.core.space import Lp, Reach


@dataclass(frozen=True)
class Zoo(Query):
    """Zeroth-order optimisation (Chen et al. 2017, arXiv 1708.03999): Adam in a few random coordinates at a time, whose
    slopes are measured.

    With "linf" it climbs the margin inside the budget and stops where it fools the model; with "l2" it descends the
    distance plus `c` times the margin, and gives the nearest input of the whole walk that fools the model.

    Attributes:
        eps: Budget, in units of the space's scale; with "l2" the distance beyond which it need not look.
        norm: "linf" or "l2".
        steps: Steps, with "l2" for each `c`.
        search: Values of `c` tried in the binary search ("l2" only).
        c: The first of them.
        lr: Length of a step of Adam, in units of scale.
        h: Half width of the differences, in units of scale: wide enough for trees, which are flat nearby.
        coordinates: Features measured and changed in each step.
        kappa: Lead over the true label that is asked for; what is returned need only be wrong ("l2" only).
    """

    info: ClassVar[Info] = Info(
        "ZOO", "Chen, Zhang, Sharma, Yi and Hsieh 2017, arXiv 1708.03999", "score", ("evasion-query",),
        "at most `steps` x (2 x `coordinates` + 1) + 1 queries a row, with \"l2\" `search` times as many",
        "Linf beside the paper's L2; searches scaled features and judges each point at the nearest possible input; "
        "only the margin is measured, as the slope of the distance is known; every point that is asked may be the "
        "result; a wider difference; no resizing and no importance sampling")
    eps: Positive = 0.1
    norm: Lp = "linf"
    steps: Count = 20
    search: Count = 3
    c: Positive = 10.0
    lr: LearningRate = 0.02
    h: Positive = 0.05
    coordinates: Count = 128
    kappa: NonNegative = 0.0

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        found = reach.x.clone()
        lead = goal.lead(classifier.scores(found))
        rows = (lead <= 0).nonzero()[:, 0]
        if len(rows):
            probe = _Probe(classifier, reach.take(rows), goal.take(rows), self.norm, self.eps)
            c = found.new_full((len(rows),), self.c)
            low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
            for _ in range(self.search if self.norm == "l2" else 1):
                fooled = self._descend(probe, lead[rows], c, generator)
                low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
                c = torch.where(high.isinf(), c * 10, (low + high) / 2)
            found[rows] = probe.found
        return found

    def _descend(self, probe: _Probe, lead: Tensor, c: Tensor, generator: torch.Generator) -> Tensor:
        """Descend from the inputs, with one `c` a row; (n,) bool: where something on the way fooled the model."""
        lower, upper, near = probe.lower, probe.upper, self.norm == "l2"
        z, mean, square, times = (torch.zeros_like(lower) for _ in range(4))
        fooled, rows = torch.zeros_like(c, dtype=torch.bool), torch.arange(len(c), device=c.device)
        free = lower < upper
        many = min(self.coordinates, int(free.sum(1).max()))
        for _ in range(self.steps):
            # each row draws its own features; frozen ones come last
            drawn = torch.rand(z.shape, generator=generator, device=z.device) + free
            some = drawn[rows].topk(many).indices
            here = rows[:, None], some
            at, least, most = (v[here] for v in (z, lower, upper))
            low, high = torch.maximum(at - self.h, least), torch.minimum(at + self.h, most)
            down, up = probe.around(z, rows, some, low, high)
            pull = (c * (lead <= self.kappa))[rows] if near else c[rows]
            slope = 2 * at * near - pull[:, None] * (up - down) / (high - low).clamp(min=1e-12)
            t = times[here] + 1
            m, v = torch.lerp(mean[here], slope, 0.1), torch.lerp(square[here], slope.square(), 0.001)
            step = self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            moved = torch.clamp(at - step, least, most)
            for whole, part in ((z, moved), (mean, m), (square, v), (times, t)):
                whole[here] = part
            lead[rows] = probe.ask(z[rows][:, None], rows)[:, 0]
            fooled[rows] |= (lead[rows] > 0) | (down > 0).any(1) | (up > 0).any(1)
            if not near:
                rows = (~fooled).nonzero()[:, 0]
                if not len(rows):
                    break
        return fooled


class _Probe:
    """Asks about points near some rows, and keeps the nearest possible input that fooled the model.

    Attributes:
        lower, upper: (n, features) least and greatest perturbation of each feature, in units of scale.
        found: (n, ...) the nearest possible inputs that fooled the model; the rows themselves where none did.
    """

    def __init__(self, classifier: Classifier, reach: Reach, goal: Goal, norm: Lp, eps: float) -> None:
        self.classifier, self.space, self.reach, self.goal, self.norm = classifier, classifier.space, reach, goal, norm
        self.lower, self.upper = (((v - reach.x) / self.space.scale).flatten(1) for v in (reach.lower, reach.upper))
        # the limits of the features are the budget in Linf, which rounding may exceed by a hair
        self.found, bound = reach.x.clone(), eps if norm == "l2" else float("inf")
        self._nearest = reach.x.new_full((len(reach.x),), bound)

    def around(self, z: Tensor, rows: Tensor, some: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the model is fooled at the neighbors of points.

        Args:
            z: (n, features) perturbations of all rows, in units of scale.
            rows: (m,) positions of the rows that ask.
            some: (m, k) positions of features.
            low, high: (m, k) the values that those features take in the neighbors, one feature at a time.

        Returns:
            The leads, (m, k) at `low` and at `high`.
        """
        at_once = max((self.classifier.batch or MOST) // len(rows), 1)
        leads = []
        for place, value in zip(some.repeat(1, 2).split(at_once, 1), torch.cat([low, high], 1).split(at_once, 1),
                                strict=True):
            near = z[rows][:, None].repeat(1, place.shape[1], 1).scatter_(2, place[..., None], value[..., None])
            leads.append(self.ask(near, rows))
        return torch.cat(leads, 1).chunk(2, 1)

    def ask(self, z: Tensor, rows: Tensor) -> Tensor:
        """(n, m) leads at the possible inputs nearest to (n, m, features) perturbations of the (n,) `rows`."""
        n, m, _ = z.shape
        many = rows.repeat_interleave(m)
        reach = self.reach.take(many)
        x = reach.x
        possible = reach.snap(torch.clamp(x + z.reshape(x.shape) * self.space.scale, reach.lower, reach.upper))
        lead = self.goal.take(many).lead(self.classifier.scores(possible))
        distance = self.space.distance(possible, x, self.norm).masked_fill_(lead <= 0, torch.inf)
        nearest, which = distance.view(n, m).min(1)
        closer = ((nearest <= self._nearest[rows]) & nearest.isfinite()).nonzero()[:, 0]
        self.found[rows[closer]] = possible[closer * m + which[closer]]
        self._nearest[rows[closer]] = nearest[closer]
        return lead.view(n, m)
