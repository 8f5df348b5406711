"""Stripes: images of plus or minus the whole budget, one sign a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from suite.attacks._search import Goal, Hunt, Query, worst_of
from suite.base.bounds import Count
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Kind, Reach

Direction = Literal["vertical", "horizontal"]


def striped(reach: Reach, generator: torch.Generator, direction: Direction = "vertical") -> Tensor:
    """(n, channels, height, width) images at the limits of their reach: at random the upper or the lower one, in each
    channel the same one for a whole column ("vertical") or row ("horizontal")."""
    shape = list(reach.x.shape)
    shape[2 if direction == "vertical" else 3] = 1
    up = torch.randint(2, shape, generator=generator, device=reach.x.device, dtype=torch.bool)
    return torch.where(up, reach.upper, reach.lower)


@dataclass(frozen=True)
class VerticalStripes(Query):
    """The worst of some random striped images ("vertical perturbation").

    The medical literature that reports on a "vertical perturbation" does not define it. The likeliest meaning, and
    the one taken here, is the vertical stripes with which Square Attack starts: ART's source describes that step as
    adding vertical stripe perturbations. It is not proven to be what those authors ran.

    Attributes:
        direction: "vertical": one sign for each column and channel; "horizontal": for each row and channel.
        draws: Random stripes tried for each image.
        early_stop: Return an image at its first stripes that fool the classifier, or unchanged where none do.
            Otherwise all draws are made and the one furthest on the wrong side is returned.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Vertical stripes", "the start of Square Attack: Andriushchenko, Croce, Flammarion and Hein 2019, "
        "arXiv 1912.00049, sec. 3.3", "score", ("evasion-query",), "`draws` queries, fewer with early stop",
        "tries many random stripes where Square Attack starts from one; that papers which report a \"vertical "
        "perturbation\" mean these stripes is likely, not proven")
    direction: Direction = "vertical"
    draws: Count = 100
    early_stop: bool = True

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        return worst_of(lambda reach: striped(reach, generator, self.direction), self.draws,
                        Hunt(classifier, reach, goal, self.early_stop))
