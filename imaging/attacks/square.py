"""Square Attack: random search for squares at the limits of the budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import ClassVar

import torch
from torch import Tensor

from imaging.attacks.stripes import striped
from suite.attack import Info
from suite.attacks._search import Goal, Query
from suite.classifier import Classifier
from suite.errors import InputError
from suite.space import Kind, Reach

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Steps, of 10,000, after which the share of an image that a square covers is halved."""
BLOCK = 64
"""Steps whose random numbers are drawn at once."""


@dataclass(frozen=True)
class Square(Query):
    """Square Attack in Linf (Andriushchenko, Croce, Flammarion and Hein 2019, arXiv 1912.00049).

    Starts from vertical stripes; each step sets one square of each image to the upper or lower limit, in each channel
    at random, and keeps it where the lead of the wrong labels grows.

    Attributes:
        queries: Queries for each image, at least 1; the schedule of the squares is stretched to them.
        p_init: Share of an image that the first squares cover, in (0, 1]. 0.8 is the choice of AutoAttack, and
            so of most published numbers; 0.05, the paper's for undefended ImageNet networks, was much weaker on
            the small network of our benchmark.
        early_stop: Return an image as soon as it fools the classifier, or unchanged where it does not. Otherwise all
            queries are made and the image furthest on the wrong side is returned.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Square Attack", "Andriushchenko, Croce, Flammarion and Hein 2019, arXiv 1912.00049", "score",
        ("evasion-query",), "`queries` queries, fewer with early stop",
        "squares also reach the last row and column, which the authors' code leaves out")
    queries: int = 1000
    p_init: float = 0.8
    early_stop: bool = True

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p_init <= 1:
            raise InputError(f"Square: queries must be at least 1 and p_init in (0, 1], got {self.queries!r} and "
                             f"{self.p_init!r}")

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        found, rows, shape = reach.x.clone(), torch.arange(len(reach.x), device=reach.x.device), reach.x.shape[1:]
        # the images still under attack, of which only squares are ever written, and their limits
        state = torch.stack([striped(reach, generator), reach.lower, reach.upper]).flatten(2)
        lead = goal.lead(classifier.scores(state[0].view(-1, *shape)))
        for cells, corner, up, other in self._squares(reach.x, generator):
            if self.early_stop and lead.max() > 0:
                gone, left = (lead > 0).nonzero()[:, 0], (lead <= 0).nonzero()[:, 0]
                found[rows[gone]] = state[0, gone].view(-1, *shape)
                if not len(left):
                    return found
                rows, state, lead, goal = rows[left], state[:, left], lead[left], goal.take(left)
            n, z = len(lead), state[0]  # row k of what was drawn serves whichever image is now the k-th
            square = corner[:n, None] + cells
            old, low, high = state.gather(2, square.expand(3, -1, -1)).view(3, n, shape[0], -1)
            same = (torch.where(up[:n], high, low) == old).flatten(1).all(1)  # would ask what it has asked before
            new = torch.where(up[:n] ^ (other[:n] & same[:, None, None]), high, low)
            z.scatter_(1, square, new.flatten(1))
            reached = goal.lead(classifier.scores(z.view(-1, *shape)))
            z.scatter_(1, square, torch.where((reached > lead)[:, None, None], new, old).flatten(1))
            lead = torch.maximum(lead, reached)
        if not self.early_stop:
            return state[0].view_as(found)
        gone = (lead > 0).nonzero()[:, 0]
        found[rows[gone]] = state[0, gone].view(-1, *shape)
        return found

    def _squares(self, x: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each step, a square of each image, and what to write there.

        Yields:
            `(cells, corner, up, other)`: (channels * side ** 2,) positions in a flat image of the square in its first
            corner, (n,) how far each image's square is from there, (n, channels, 1) bool which channels go to the upper
            limit, and likewise which of them go the other way if that turns out to change nothing.
        """
        n, channels, height, width = x.shape
        whole = {"generator": generator, "device": x.device}
        channel = torch.arange(channels, device=x.device)[:, None]
        for side, steps in groupby(self._side(k, height, width) for k in range(self.queries - 1)):
            i = torch.arange(side, device=x.device)
            cells = (channel * (height * width) + (i[:, None] * width + i).flatten()).flatten()
            left = len(list(steps))
            for start in range(0, left, BLOCK):
                block = min(BLOCK, left - start), n
                corner = torch.randint(height - side + 1, block, **whole) * width
                corner += torch.randint(width - side + 1, block, **whole)
                up = torch.randint(2, (*block, channels, 1), dtype=torch.bool, **whole)
                other = torch.randint(1, 2**channels, (*block, 1, 1), **whole) >> channel & 1 == 1
                yield from zip(repeat(cells), corner, up, other, strict=False)

    def _side(self, step: int, height: int, width: int) -> int:
        share = self.p_init / 2 ** bisect_left(HALVINGS, int(step / self.queries * 10000))
        return min(max(round((share * height * width) ** 0.5), 1), height, width)
