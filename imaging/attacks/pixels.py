"""One pixel, or a few: what a stuck detector element could do at its worst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from suite.attacks._search import Goal, Query
from suite.base.bounds import Count, Positive, Several
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.batches import in_batches
from suite.core.classifier import Classifier
from suite.core.space import Kind, Norm, Reach


@dataclass(frozen=True)
class FewPixels(Query):
    """One-pixel attack (Su, Vargas and Sakurai 2017, arXiv 1710.08864): a few pixels, found by differential evolution.

    A member of the population is `eps` pixels, each a place and a value for every channel. Members of all images are
    judged together. In medicine: Tsai, Lin and Lee 2023 (Cancers 15(17):4228).

    Attributes:
        eps: Pixels that may change, a whole number of at least 1; all channels of a pixel count as one.
        population: Members for each image, at least 4.
        generations: Most generations after the first, random one.
        factor: Weight F of a difference between two members.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "One-pixel and few-pixel", "Su, Vargas and Sakurai 2017, arXiv 1710.08864", "score", ("evasion-query",),
        "`population` x (1 + `generations`) queries, fewer where an image is fooled",
        "climbs the lead over the other labels; a place outside the image is drawn again, a value is clipped")
    eps: Positive = 1.0
    population: Several = 400
    generations: Count = 100
    factor: Positive = 0.5

    @property
    def norm(self) -> Norm:
        return "l0"

    def __post_init__(self) -> None:
        if self.eps < 1 or self.eps % 1:
            raise InputError(f"FewPixels: eps counts pixels, a whole number of at least 1, got {self.eps!r}")
        if self.population < 4:
            raise InputError(f"FewPixels: population must be at least 4, got {self.population!r}")

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        if self.eps > reach.x[0, 0].numel():
            raise InputError(f"FewPixels: eps is {self.eps:g}, but an image has {reach.x[0, 0].numel()} pixels")
        x, found, draw = reach.x, reach.x.clone(), {"generator": generator, "device": reach.x.device}
        rows, shape = torch.arange(len(x), device=x.device), (len(x), self.population, int(self.eps))
        place = torch.rand(*shape, 2, **draw)  # in shares of the height and the width
        value = torch.randn(*shape, x.shape[1], **draw).mul_(127 / 255).add_(128 / 255).clamp_(0, 1)
        members = torch.cat([place, value], -1)
        fitness = self._judge(classifier, x, goal, rows, members)
        for generation in range(self.generations + 1):
            lead, best = fitness.max(1)
            gone, left = (lead > 0).nonzero()[:, 0], (lead <= 0).nonzero()[:, 0]
            if len(gone):
                found[rows[gone]] = painted(x[rows[gone]], members[gone, best[gone]])
                rows, members, fitness, goal = rows[left], members[left], fitness[left], goal.take(left)
            if not len(rows) or generation == self.generations:
                break
            children = self._children(members, draw)
            judged = self._judge(classifier, x, goal, rows, children)
            better = judged > fitness
            members = torch.where(better[..., None, None], children, members)
            fitness = torch.maximum(judged, fitness)
        return found

    def _judge(self, classifier: Classifier, x: Tensor, goal: Goal, rows: Tensor, members: Tensor) -> Tensor:
        """(rows, population) leads of the members of some rows of `x`, whose goal it is."""
        logits = in_batches(classifier, lambda row, pixels: classifier.scores(painted(x[row], pixels)),
                            rows.repeat_interleave(self.population), members.flatten(0, 1))
        return goal.lead(logits.unflatten(0, (-1, self.population)).transpose(0, 1)).T

    def _children(self, members: Tensor, draw: dict[str, Any]) -> Tensor:
        """DE/rand/1 without crossover: one random member plus a share of the difference of two others."""
        size, shape = self.population, members.shape[:2]
        one = torch.randint(size, shape, **draw)
        two = (one + torch.randint(1, size, shape, **draw)) % size
        three = torch.randint(size - 2, shape, **draw)  # skips the other two
        three += three >= torch.minimum(one, two)
        three += three >= torch.maximum(one, two)
        one, two, three = (members.take_along_dim(i[..., None, None], 1) for i in (one, two, three))
        children = one + self.factor * (two - three)
        place, again = children[..., :2], torch.rand(*children.shape[:-1], 2, **draw)
        children[..., :2] = torch.where((place >= 0) & (place < 1), place, again)
        children[..., 2:].clamp_(0, 1)
        return children


def painted(x: Tensor, pixels: Tensor) -> Tensor:
    """(n, channels, height, width) images `x`, overwritten by (n, k, 2 + channels) pixels: place, as shares of the
    height and the width in [0, 1), and values. Where two share a place, the last one shows."""
    x, image, (height, width) = x.clone(), torch.arange(len(x), device=x.device), x.shape[2:]
    for pixel in pixels.unbind(1):
        row, column = (pixel[:, 0] * height).long(), (pixel[:, 1] * width).long()
        x[image, :, row, column] = pixel[:, 2:]
    return x
