"""Random noise of the same norm: the control that every attack must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._search import Goal, Hunt, Query, random_start, worst_of
from suite.base.bounds import Count
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Lp, Reach


@dataclass(frozen=True)
class RandomNoise(Query):
    """The worst of some random possible inputs within the budget; a model that it fools needs no attacker.

    Attributes:
        norm: "linf" or "l2".
        draws: Random inputs tried for each row, at least 1.
        edge: Draw from the corners (Linf) or the sphere (L2), where noise does most, instead of from the whole ball.
        early_stop: Return a row at its first draw that fools the classifier, or unchanged where none does. Otherwise
            all draws are made and the one furthest on the wrong side is returned.
    """

    info: ClassVar[Info] = Info(
        "Random noise", "control, as in Fawzi, Moosavi-Dezfooli and Frossard 2016, arXiv 1608.08967", "score",
        ("evasion-query",), "`draws` queries, fewer with early stop")
    norm: Lp = "linf"
    draws: Count = 10
    edge: bool = True
    early_stop: bool = True

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        def draw(reach: Reach) -> Tensor:
            z = random_start(reach, classifier.space.scale, self.eps, self.norm, generator, self.edge)
            return reach.snap(z, self.norm == "l2")

        return worst_of(draw, self.draws, Hunt(classifier, reach, goal, self.early_stop))
