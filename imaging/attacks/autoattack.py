"""AutoAttack: attacks of different kinds in turn, each on the images that withstood those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from imaging.attacks.square import Square
from suite.attacks._search import Goal, Query
from suite.attacks.apgd import APGD
from suite.attacks.fab import FAB
from suite.base.bounds import Count, Label, Positive
from suite.base.info import Info
from suite.core.attack import GradientAttack
from suite.core.classifier import TorchClassifier
from suite.core.space import Kind, Lp


@dataclass(frozen=True)
class AutoAttack(GradientAttack):
    """AutoAttack in Linf or L2 (Croce and Hein 2020, arXiv 2003.01690): APGD-CE, APGD-T, FAB-T and Square.

    For two classes, which the published versions cannot take, the margin is that between the two logits. It is then
    the same objective as cross-entropy, so the second APGD is another random start.

    Attributes:
        norm: "linf" or "l2", in which `eps` is meant; its default is for Linf.
        target: Label to reach; `None` for any wrong one.
        steps: Of each APGD and FAB start.
        restarts: Starts of each.
        rivals: With more than two classes, to how many of the likeliest wrong labels APGD-T and FAB-T go, one by one.
        queries: Of Square.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "AutoAttack", "Croce and Hein 2020, arXiv 2003.01690", "white-box", ("evasion", "evasion-query"),
        "for an image that withstands all of it, (1 + 2 x `rivals`) x `restarts` x `steps` forward and input-gradient "
        "passes and `queries` forward passes",
        "takes two classes; APGD-T climbs the margin to each label undivided (see APGD); FAB keeps to what FAB says",
        strong=True, strong_from=("steps", 20))
    eps: Positive = 8 / 255
    norm: Lp = "linf"
    target: Label | None = None
    steps: Count = 100
    restarts: Count = 1
    rivals: Count = 9
    queries: Count = 5000

    def members(self) -> tuple[Query, ...]:
        """The attacks, in the order in which they run."""
        aim = {"eps": self.eps, "norm": self.norm, "target": self.target}
        climb = aim | {"steps": self.steps, "restarts": self.restarts}
        return (APGD(**climb), APGD(**climb, loss="margin", rivals=self.rivals),
                FAB(**climb, early_stop=True, rivals=self.rivals),
                Square(**aim, queries=self.queries))

    def __call__(self, classifier: TorchClassifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        self.check(classifier)
        found, standing = x.clone(), torch.arange(len(x), device=x.device)
        fooled = Goal(classifier, y, self.target).lead(classifier.scores(x)) > 0
        for k, member in enumerate(self.members()):
            standing = standing[~fooled]
            if not len(standing):
                break
            found[standing] = member(classifier, x[standing], y[standing], seed + k)
            fooled = (found[standing] != x[standing]).flatten(1).any(1)  # members leave alone what they cannot fool
        return found
