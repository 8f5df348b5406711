"""ZOO: the attack of Carlini and Wagner where there are no gradients, from differences of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attack import Info
from suite.attacks._search import Goal, Query
from suite.batches import MOST
from suite.classifier import Classifier
from suite.space import Norm, Reach


@dataclass(frozen=True)
class Zoo(Query):
    """Zeroth-order optimisation (Chen et al. 2017, arXiv 1708.03999): distance plus `c` times the margin, descended by
    Adam in a few random coordinates at a time, whose slopes are measured.

    Attributes:
        eps: L2 distance, in units of the space's scale, beyond which it need not look.
        steps: Steps for each `c`.
        search: Values of `c` tried in the binary search.
        c: The first of them.
        lr: Length of a step of Adam, in units of scale.
        h: Half width of the differences, in units of scale: wide enough for trees, which are flat nearby.
        coordinates: Features measured and changed in each step.
        kappa: Lead over the true label that is asked for; what is returned need only be wrong.
    """

    info: ClassVar[Info] = Info(
        "ZOO", "Chen, Zhang, Sharma, Yi and Hsieh 2017, arXiv 1708.03999", "score", ("evasion-query",),
        "at most `search` x `steps` x (2 x `coordinates` + 1) queries a row",
        "searches scaled features and judges each point at the nearest possible input; only the margin is measured, as "
        "the slope of the distance is known; every point that is asked may be the result; a wider difference; no "
        "resizing and no importance sampling")
    eps: float = float("inf")
    steps: int = 20
    search: int = 3
    c: float = 10.0
    lr: float = 0.02
    h: float = 0.05
    coordinates: int = 128
    kappa: float = 0.0

    minimal: ClassVar[bool] = True

    @property
    def norm(self) -> Norm:
        return "l2"

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        found = reach.x.clone()
        lead = goal.lead(classifier.scores(found))
        rows = (lead <= 0).nonzero()[:, 0]
        if len(rows):
            probe = _Probe(classifier, reach.take(rows), goal.take(rows), self.eps)
            c = found.new_full((len(rows),), self.c)
            low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
            for _ in range(self.search):
                fooled = self._descend(probe, lead[rows], c, generator)
                low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
                c = torch.where(high.isinf(), c * 10, (low + high) / 2)
            found[rows] = probe.found
        return found

    def _descend(self, probe: _Probe, lead: Tensor, c: Tensor, generator: torch.Generator) -> Tensor:
        """Descend from the inputs, with one `c` a row; (n,) bool: where something on the way fooled the model."""
        lower, upper = probe.lower, probe.upper
        z, mean, square, times = (torch.zeros_like(lower) for _ in range(4))
        fooled = torch.zeros_like(c, dtype=torch.bool)
        for _ in range(self.steps):
            # each row draws its own features; frozen ones come last
            drawn = torch.rand(z.shape, generator=generator, device=z.device) + (lower < upper)
            some = drawn.topk(min(self.coordinates, z.shape[1])).indices
            at, least, most = (v.gather(1, some) for v in (z, lower, upper))
            low, high = torch.maximum(at - self.h, least), torch.minimum(at + self.h, most)
            down, up = probe.around(z, some, low, high)
            pull = c * (lead < self.kappa)
            slope = 2 * at - pull[:, None] * (up - down) / (high - low).clamp(min=1e-12)
            t = times.gather(1, some) + 1
            m = torch.lerp(mean.gather(1, some), slope, 0.1)
            v = torch.lerp(square.gather(1, some), slope.square(), 0.001)
            step = self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            moved = torch.clamp(at - step, least, most)
            for whole, part in ((z, moved), (mean, m), (square, v), (times, t)):
                whole.scatter_(1, some, part)
            lead = probe.ask(z[:, None])[:, 0]
            fooled |= (lead > 0) | (down > 0).any(1) | (up > 0).any(1)
        return fooled


class _Probe:
    """Asks about points near some rows, and keeps the nearest possible input that fooled the model.

    Attributes:
        lower, upper: (n, features) least and greatest perturbation of each feature, in units of scale.
        found: (n, ...) the nearest possible inputs that fooled the model; the rows themselves where none did.
    """

    def __init__(self, classifier: Classifier, reach: Reach, goal: Goal, eps: float) -> None:
        self.classifier, self.space, self.goal, self.x = classifier, classifier.space, goal, reach.x
        self.lower, self.upper = (((v - reach.x) / self.space.scale).flatten(1) for v in (reach.lower, reach.upper))
        self.found, self._nearest = reach.x.clone(), reach.x.new_full((len(reach.x),), eps)

    def around(self, z: Tensor, some: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the model is fooled at the neighbors of points.

        Args:
            z: (n, features) perturbations, in units of scale.
            some: (n, k) positions of features.
            low, high: (n, k) the values that those features take in the neighbors, one feature at a time.

        Returns:
            The leads, (n, k) at `low` and at `high`.
        """
        at_once = max((self.classifier.batch or MOST) // len(z), 1)
        leads = []
        for place, value in zip(some.repeat(1, 2).split(at_once, 1), torch.cat([low, high], 1).split(at_once, 1),
                                strict=True):
            near = z[:, None].repeat(1, place.shape[1], 1).scatter_(2, place[..., None], value[..., None])
            leads.append(self.ask(near))
        return torch.cat(leads, 1).chunk(2, 1)

    def ask(self, z: Tensor) -> Tensor:
        """(n, m) leads at the possible inputs nearest to (n, m, features) perturbations."""
        n, m, _ = z.shape
        rows = torch.arange(n, device=z.device).repeat_interleave(m)
        x = self.x[rows]
        possible = self.space.snap(x + z.reshape(x.shape) * self.space.scale, x)
        lead = self.goal.take(rows).lead(self.classifier.scores(possible))
        distance = self.space.distance(possible, x, "l2").masked_fill_(lead <= 0, torch.inf)
        nearest, which = distance.view(n, m).min(1)
        closer = ((nearest <= self._nearest) & nearest.isfinite()).nonzero()[:, 0]
        self.found[closer] = possible[closer * m + which[closer]]
        self._nearest[closer] = nearest[closer]
        return lead.view(n, m)
