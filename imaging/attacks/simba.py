"""SimBA: one orthonormal direction after the other, kept where it helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from imaging.transforms.dct import matrix
from suite.attacks._search import Goal, Query, norms, per_row
from suite.base.bounds import Count, Positive, Share
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Kind, Norm, Reach

Basis = Literal["dct", "pixel"]


@dataclass(frozen=True)
class SimBA(Query):
    """SimBA (Guo, Gardner, You, Wilson and Weinberger 2019, arXiv 1905.07121), within a bound in L2.

    Attributes:
        eps: L2 norm of the whole perturbation.
        basis: "dct" (cosines over the whole image, low frequencies first) or "pixel" (one value, in random order).
        steps: Most directions tried for each image; there are as many as an image has values.
        step: Length of a step (the paper's epsilon), in units of `eps`.
        frequencies: Share of each axis' frequencies that are tried first, in random order; in (0, 1].
        stride: By how much that share grows once all of it has been tried; in (0, 1].
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "SimBA", "Guo, Gardner, You, Wilson and Weinberger 2019, arXiv 1905.07121", "score", ("evasion-query",),
        "1 query and 1 or 2 for each of `steps` directions, fewer where an image is fooled",
        "projects onto the L2 ball of `eps` and measures steps in units of it, where the authors bound the number of "
        "steps only; each image has an order of its own; climbs the lead over the other labels instead of lowering a "
        "probability")
    eps: Positive = 1.0
    basis: Basis = "dct"
    steps: Count = 1000
    step: Positive = 0.2
    frequencies: Share = 0.25
    stride: Share = 0.25

    @property
    def norm(self) -> Norm:
        return "l2"

    def __post_init__(self) -> None:
        if self.basis not in ("dct", "pixel"):
            raise InputError(f"SimBA: basis must be dct or pixel, got {self.basis!r}")
        if not 0 < self.frequencies <= 1 or not 0 < self.stride <= 1:
            raise InputError(f"SimBA: frequencies and stride must lie in (0, 1], got {self.frequencies!r} and "
                             f"{self.stride!r}")

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        found, rows, x = reach.x.clone(), torch.arange(len(reach.x), device=reach.x.device), reach.x
        delta, order = torch.zeros_like(x), self._order(x, generator)
        lead = goal.lead(classifier.scores(x))
        bases = [(matrix(s) if self.basis == "dct" else torch.eye(s)).to(x) for s in x.shape[2:]]
        for k in range(order.shape[1] + 1):
            gone, left = (lead > 0).nonzero()[:, 0], (lead <= 0).nonzero()[:, 0]
            if len(gone):
                found[rows[gone]] = (x[gone] + delta[gone]).clamp_(0, 1)
                rows, x, delta, order, lead, goal = (*(t[left] for t in (rows, x, delta, order, lead)), goal.take(left))
            if not len(rows) or k == order.shape[1]:
                break
            open_ = torch.arange(len(rows), device=x.device)  # not improved yet
            for sign in (-1, 1):
                moved = self._moved(delta[open_], order[open_, k], bases, sign * self.step * self.eps)
                reached = goal.take(open_).lead(classifier.scores((x[open_] + moved).clamp_(0, 1)))
                better = reached > lead[open_]
                delta[open_] = torch.where(per_row(better, moved), moved, delta[open_])
                lead[open_] = torch.where(better, reached, lead[open_])
                open_ = open_[(~better).nonzero()[:, 0]]
                if not len(open_):
                    break
        return found

    def _moved(self, delta: Tensor, direction: Tensor, bases: list[Tensor], step: float) -> Tensor:
        """Perturbations, overwritten, after a step along the direction of that number; pulled back into the ball."""
        _, _, height, width = delta.shape
        direction, column = direction // width, direction % width
        channel, row = direction // height, direction % height
        image = torch.arange(len(delta), device=delta.device)
        delta[image, channel] += step * bases[0][row, :, None] * bases[1][column, None]
        return delta.mul_((self.eps / norms(delta)).clamp_(max=1))

    def _order(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(n, steps) directions of each image: positions in a flat image or spectrum."""
        n, channels, height, width = x.shape
        ring = torch.zeros(height, width, device=x.device)
        if self.basis == "dct":
            row, column = (torch.arange(s, device=x.device) / s for s in (height, width))
            beyond = torch.maximum(row[:, None], column) - self.frequencies
            ring = ((beyond / self.stride).floor() + 1).clamp_(min=0)
        rank = torch.rand(n, channels, height, width, generator=generator, device=x.device) + ring
        return rank.flatten(1).argsort(1)[:, :self.steps]
