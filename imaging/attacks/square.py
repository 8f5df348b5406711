"""Square Attack: random search, square by square, at the limits of the budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import ClassVar

import torch
from torch import Tensor

from imaging.attacks.stripes import striped
from suite.attacks._search import Goal, Query, norms
from suite.base.bounds import Count, Share
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Kind, Lp, Reach

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Steps, of 10,000, after which the share of an image that a square covers is halved."""
BLOCK = 64
"""Steps whose random numbers are drawn at once."""
TILES = 5
"""Bumps along the shorter edge of the image from which the search in L2 starts."""


@dataclass(frozen=True)
class Square(Query):
    """Square Attack (Andriushchenko, Croce, Flammarion and Hein 2019, arXiv 1912.00049), in Linf or L2.

    In Linf it starts from vertical stripes; each step sets one square of each image to the upper or lower limit, in
    each channel at random. In L2 it starts from bumps side by side, each half up and half down; each step takes the
    change of one square away and spends it, with what clipping left of the budget, on a bump in another square. A step
    is kept where the lead of the wrong labels grows.

    Attributes:
        norm: "linf" or "l2".
        queries: Queries for each image, at least 1; the schedule of the squares is stretched to them.
        p_init: Share of an image that the first squares cover, in (0, 1]. 0.8 is the choice of AutoAttack, and
            so of most published numbers; 0.05, the paper's for undefended ImageNet networks in Linf, was much weaker on
            the small network of our benchmark.
        early_stop: Return an image as soon as it fools the classifier, or unchanged where it does not. Otherwise all
            queries are made and the image furthest on the wrong side is returned.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Square Attack", "Andriushchenko, Croce, Flammarion and Hein 2019, arXiv 1912.00049", "score",
        ("evasion-query",), "`queries` queries, fewer with early stop",
        "squares also reach the last row and column, and the bumps of the start all of the image, which the authors' "
        "code leaves out; each image has squares of its own in L2, too", strong=True, strong_from=("queries", 1000))
    norm: Lp = "linf"
    queries: Count = 1000
    p_init: Share = 0.8
    early_stop: bool = True

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise InputError(f"Square: norm must be linf or l2, got {self.norm!r}")
        if self.queries < 1 or not 0 < self.p_init <= 1:
            raise InputError(f"Square: queries must be at least 1 and p_init in (0, 1], got {self.queries!r} and "
                             f"{self.p_init!r}")

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        found, rows = reach.x.clone(), torch.arange(len(reach.x), device=reach.x.device)
        walk = Limits(reach, generator) if self.norm == "linf" else Bumps(reach, self.eps, generator)
        lead = goal.lead(classifier.scores(walk.images))
        for step in self._steps(walk):
            if self.early_stop and lead.max() > 0:
                gone, left = (lead > 0).nonzero()[:, 0], (lead <= 0).nonzero()[:, 0]
                found[rows[gone]] = walk.images[gone]
                if not len(left):
                    return found
                rows, lead, goal = rows[left], lead[left], goal.take(left)
                walk.take(left)
            reached = goal.lead(classifier.scores(walk.ask(*step)))
            walk.answer(reached > lead)
            lead = torch.maximum(lead, reached)
        if not self.early_stop:
            return walk.images
        gone = (lead > 0).nonzero()[:, 0]
        found[rows[gone]] = walk.images[gone]
        return found

    def _steps(self, walk: Limits | Bumps) -> Iterator[tuple[Tensor, ...]]:
        """What `walk.ask` takes, for each step: row k of what was drawn serves whichever image is then the k-th."""
        _, _, height, width = walk.images.shape
        for side, steps in groupby(self._side(k, height, width) for k in range(self.queries - 1)):
            left = len(list(steps))
            for start in range(0, left, BLOCK):
                yield from walk.draw(side, min(BLOCK, left - start))

    def _side(self, step: int, height: int, width: int) -> int:
        share = self.p_init / 2 ** bisect_left(HALVINGS, int(step / self.queries * 10000))
        return min(max(round((share * height * width) ** 0.5), 1), height, width)


class _Standing:
    """Images as they stand in a search: the first of `state`, (kinds, n, ...), beside what else is known of them.

    Attributes:
        images: (n, channels, height, width).
    """

    shape: torch.Size
    state: Tensor

    @property
    def images(self) -> Tensor:
        return self.state[0].view(-1, *self.shape[1:])

    def take(self, rows: Tensor) -> None:
        """Go on with some of the images (positions)."""
        self.state = self.state[:, rows]


class Limits(_Standing):
    """Images of which each pixel is at the upper or the lower limit of its reach (Linf), and squares that change them.
    """

    def __init__(self, reach: Reach, generator: torch.Generator) -> None:
        self.shape, self.generator = reach.x.shape, generator
        # of the images only squares are ever written; their limits
        self.state = torch.stack([striped(reach, generator), reach.lower, reach.upper]).flatten(2)

    def draw(self, side: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """For each of so many steps, a square of each image, and what to write there.

        Yields:
            `(cells, corner, up, other)`: (channels * side ** 2,) positions in a flat image of the square in its first
            corner, (n,) how far each image's square is from there, (n, channels, 1) bool which channels go to the upper
            limit, and likewise which of them go the other way if that turns out to change nothing.
        """
        n, channels, height, width = self.shape
        whole = {"generator": self.generator, "device": self.state.device}
        channel, cells = torch.arange(channels, device=self.state.device)[:, None], _cells(side, width, self.state)
        corner = _corners((steps, n), side, height, width, **whole)
        up = torch.randint(2, (steps, n, channels, 1), dtype=torch.bool, **whole)
        other = torch.randint(1, 2**channels, (steps, n, 1, 1), **whole) >> channel & 1 == 1
        yield from zip(repeat((channel * (height * width) + cells).flatten()), corner, up, other, strict=False)

    def ask(self, cells: Tensor, corner: Tensor, up: Tensor, other: Tensor) -> Tensor:
        """The images with other squares; `answer` must follow."""
        n, z = self.state.shape[1], self.state[0]
        square = corner[:n, None] + cells
        old, low, high = self.state.gather(2, square.expand(3, -1, -1)).view(3, n, self.shape[1], -1)
        same = (torch.where(up[:n], high, low) == old).flatten(1).all(1)  # would ask what it has asked before
        new = torch.where(up[:n] ^ (other[:n] & same[:, None, None]), high, low)
        z.scatter_(1, square, new.flatten(1))
        self.asked = square, old, new
        return self.images

    def answer(self, better: Tensor) -> None:
        """Keep the last squares where they are (n,) `better`."""
        square, old, new = self.asked
        self.state[0].scatter_(1, square, torch.where(better[:, None, None], new, old).flatten(1))


class Bumps(_Standing):
    """Images as far away as an L2 budget allows, and bumps that change them. As `Limits`."""

    def __init__(self, reach: Reach, eps: float, generator: torch.Generator) -> None:
        self.shape, self.eps, self.generator = reach.x.shape, eps, generator
        start = self._start(reach.x)
        z = torch.clamp(reach.x + start * (eps / norms(start)), reach.lower, reach.upper)
        self.state = torch.stack([z, reach.x, reach.lower, reach.upper]).flatten(3)  # (4, n, channels, pixels)

    def draw(self, side: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """As `Limits.draw`.

        Yields:
            `(cells, to, away, sign, turned, bump)`: (side ** 2,) positions in a flat channel of the square in its first
            corner, (n,) how far from there the squares of each image are that get a bump and that lose theirs,
            (n, channels, 1) the signs of the bumps, (n, 1, 1) bool which of them lie on their side, and
            (2, side ** 2) the bump upright and on its side.
        """
        n, channels, height, width = self.shape
        side = min(max(side | 1, 3), height, width)  # odd where there is room, so that a bump has a middle
        whole = {"generator": self.generator, "device": self.state.device}
        to, away = (_corners((steps, n), side, height, width, **whole) for _ in range(2))
        sign = torch.randint(2, (steps, n, channels, 1), **whole) * 2.0 - 1
        turned = torch.randint(2, (steps, n, 1, 1), dtype=torch.bool, **whole)
        cells, bump = _cells(side, width, self.state), _bump(side).to(self.state)
        both = torch.stack([bump, bump.T]).flatten(1)
        yield from zip(repeat(cells), to, away, sign, turned, repeat(both), strict=False)

    def ask(self, cells: Tensor, to: Tensor, away: Tensor, sign: Tensor, turned: Tensor, bump: Tensor) -> Tensor:
        """The images with a bump elsewhere; `answer` must follow."""
        z, x, lower, upper = self.state
        n, channels, _ = z.shape
        to, away = ((corner[:n, None] + cells)[:, None].expand(-1, channels, -1) for corner in (to, away))
        delta = z - x
        there = delta.gather(2, to)
        rest = delta.scatter(2, away, 0.0).scatter_(2, to, 0.0)
        # the two squares' own share of the budget in each channel, and a part of what clipping left of it
        spent = delta.square().sum(2, keepdim=True)
        spare = (self.eps**2 - spent.sum(1, keepdim=True)).clamp_(min=0) / channels
        free = spent + spare - rest.square().sum(2, keepdim=True)
        new = torch.where(turned[:n], bump[1], bump[0]) * sign[:n] + there / _length(there)
        new *= free.clamp_(min=0).sqrt() / _length(new)
        moved = rest.scatter_(2, to, new)
        self.asked = torch.clamp(x + moved.mul_((self.eps / norms(moved)).clamp_(max=1)), lower, upper)
        return self.asked.view(-1, *self.shape[1:])

    def answer(self, better: Tensor) -> None:
        rows = better.nonzero()[:, 0]
        self.state[0, rows] = self.asked[rows]

    def _start(self, x: Tensor) -> Tensor:
        """Bumps side by side, each with a sign of its own in each channel, and upright or on its side."""
        n, channels, height, width = x.shape
        whole, side = {"generator": self.generator, "device": x.device}, max(min(height, width) // TILES, 1)
        down, across = -(-height // side), -(-width // side)
        sign = torch.randint(2, (n, channels, down, across, 1, 1), **whole) * 2.0 - 1
        turned = torch.randint(2, (n, 1, down, across, 1, 1), dtype=torch.bool, **whole)
        bump = _bump(side).to(x)
        tiles = torch.where(turned, bump.T, bump) * sign
        return tiles.transpose(3, 4).reshape(n, channels, down * side, across * side)[..., :height, :width]


def _cells(side: int, width: int, like: Tensor) -> Tensor:
    """(side ** 2,) positions of the first square in a flat channel of that width."""
    i = torch.arange(side, device=like.device)
    return (i[:, None] * width + i).flatten()


def _corners(shape: tuple[int, ...], side: int, height: int, width: int, **whole: object) -> Tensor:
    """Positions, in a flat channel, of the first pixels of random squares that lie in the image."""
    corner = torch.randint(height - side + 1, shape, **whole) * width
    return corner.add_(torch.randint(width - side + 1, shape, **whole))


def _length(z: Tensor) -> Tensor:
    return z.norm(dim=2, keepdim=True).clamp_(min=1e-12)


def _bump(side: int) -> Tensor:
    """(side, side) of length 1: a hill in the upper half and a hollow in the lower one (eta in sec. 3.4)."""
    both = torch.cat([_hill(side // 2, side), -_hill(side - side // 2, side)])
    return both / both.norm()


def _hill(height: int, width: int) -> Tensor:
    """(height, width) of length 1: concentric squares on top of each other, the k-th smallest 1 / k ** 2 high."""
    row, column = (torch.arange(s) - s // 2 for s in (height, width))
    away = torch.maximum(row.abs()[:, None], column.abs())
    above = torch.arange(1.0, max(height, width) // 2 + 2).pow(-2).flip(0).cumsum(0).flip(0)
    return above[away] / above[away].norm()
