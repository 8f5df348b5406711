"""Random noise of the same norm: the control that every attack must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attack import EvasionAttack, Info
from suite.attacks._search import Goal, Hunt, random_start
from suite.classifier import Classifier, TorchClassifier
from suite.seeding import torch_generator
from suite.space import Norm


@dataclass(frozen=True)
class RandomNoise(EvasionAttack):
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
    norm: Norm = "linf"
    draws: int = 10
    edge: bool = True
    early_stop: bool = True

    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        generator = torch_generator(seed, x.device)
        size = getattr(classifier, "batch", 4096)
        found = [self._worst(classifier, *part, generator) for part in zip(x.split(size), y.split(size), strict=True)]
        return torch.cat(found)

    def _worst(self, classifier: Classifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        space = classifier.space
        hunt = Hunt(classifier, space.reach(x, self.eps), Goal(classifier, y), self.early_stop)
        for _ in range(self.draws if len(x) else 0):
            z = random_start(hunt.reach, space.scale, self.eps, self.norm, generator, self.edge)
            possible = hunt.reach.snap(z, self.norm == "l2")
            left = hunt.note(possible, _scores(classifier, possible))
            if left is not None and not len(left):
                break
        return hunt.best()[0]


def _scores(classifier: Classifier, x: Tensor) -> Tensor:
    if isinstance(classifier, TorchClassifier):
        with torch.no_grad():
            return classifier.logits(x)
    return torch.from_numpy(classifier.predict_proba(x.cpu().numpy())).to(x)
