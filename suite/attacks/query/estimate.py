"""Attacks that climb a gradient estimated from scores: projected ascent for someone who can only ask.

Both ask in pairs, a little to either side of the iterate along random directions, and only about possible inputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._search import Goal, Hunt, Loss, Query
from suite.base.bounds import Count, Decay, Even, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Reach

_DEPARTS = ("asks about the nearest possible input; `sigma` and `step` are shares of `eps`; judges every iterate, for "
            "one more query a step")


@dataclass(frozen=True)
class _Estimated(Query):
    """Base: projected ascent in Linf along an estimated gradient.

    Attributes:
        early_stop: Return a row at its first iterate that fools the classifier, or unchanged where none does. Otherwise
            all steps are taken and the iterate furthest on the wrong side is returned.
        steps: Number of steps, at least 1.
        samples: Queries for each estimate, an even number.
        sigma: Distance at which to ask, in units of `eps`: of each feature, the standard deviation (NES) or the
            distance itself (SPSA). On a table it should span some of the values that a column can take.
        step: Length of a step, in units of `eps`.
    """

    early_stop: bool = True
    steps: Count = 40
    samples: Even = 50
    sigma: Positive = 0.1
    step: Positive = 0.2

    loss: ClassVar[Loss]
    memories: ClassVar[int]
    """Tensors of the shape of the iterate that `_ahead` keeps from step to step."""

    def __post_init__(self) -> None:
        if self.samples < 2 or self.samples % 2:
            raise InputError(f"{type(self).__name__}: samples must be even and at least 2, got {self.samples!r}")

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        scale, z = classifier.space.scale, reach.x
        hunt, memory = Hunt(classifier, reach, goal, self.early_stop), [torch.zeros_like(z)] * self.memories
        for k in range(1, self.steps + 1):
            possible = hunt.reach.snap(z)
            left = hunt.note(possible, classifier.scores(possible))
            if left is not None:
                if not len(left):
                    return hunt.best()[0]
                z, memory = z[left], [m[left] for m in memory]
            grad = self._gradient(classifier, hunt, z, generator)
            z = z + self.step * self.eps * scale * self._ahead(grad, memory, k)
            z = torch.clamp(z, hunt.reach.lower, hunt.reach.upper, out=z)
        return hunt.finish(hunt.reach.snap(z))[0]

    def _gradient(self, classifier: Classifier, hunt: Hunt, z: Tensor, generator: torch.Generator) -> Tensor:
        """Estimated gradient of the loss in scaled features, up to a positive factor; asks as many pairs at once as fit
        in memory."""
        space, n = classifier.space, len(z)
        grad, pairs = torch.zeros_like(z), self.samples // 2
        while pairs:
            at_once = min(pairs, max((classifier.batch or n) // (2 * n), 1))
            u = self._directions((at_once, *z.shape), generator, z.device)
            delta = self.sigma * self.eps * space.scale * u
            both = torch.stack([z + delta, z - delta]).flatten(0, 2)
            # what is asked may lie beyond the budget, as long as it is possible
            anywhere = space.reach(hunt.reach.x.expand(2 * at_once, *z.shape).flatten(0, 1), float("inf"))
            asked = anywhere.snap(torch.clamp(both, anywhere.lower, anywhere.upper))
            values = hunt.goal.loss(classifier.scores(asked).unflatten(0, (2, at_once, n)), self.loss)
            grad += torch.einsum("pn,pn...->n...", values[0] - values[1], u)
            pairs -= at_once
        return grad

    @abstractmethod
    def _directions(self, shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
        """Random directions of that shape."""

    @abstractmethod
    def _ahead(self, grad: Tensor, memory: list[Tensor], k: int) -> Tensor:
        """Where the k-th step goes, in units of `step * eps * scale`; replaces what is in `memory`."""


@dataclass(frozen=True)
class NES(_Estimated):
    """Natural evolution strategies (Ilyas, Engstrom, Athalye and Lin 2018, arXiv 1804.08598): Gaussian directions.

    Attributes:
        momentum: Share of the last step's estimate that each step keeps.
    """

    info: ClassVar[Info] = Info(
        "NES", "Ilyas, Engstrom, Athalye and Lin 2018, arXiv 1804.08598", "score", ("evasion-query",),
        "`steps` x (`samples` + 1) queries and 1, fewer with early stop",
        _DEPARTS + "; steps of constant length, where the authors' code shortens them on a plateau")
    momentum: Decay = 0.9

    loss: ClassVar[Loss] = "ce"
    memories: ClassVar[int] = 1

    def _directions(self, shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def _ahead(self, grad: Tensor, memory: list[Tensor], k: int) -> Tensor:
        memory[0] = torch.lerp(grad, memory[0], self.momentum)
        return memory[0].sign()


@dataclass(frozen=True)
class SPSA(_Estimated):
    """SPSA (Uesato, O'Donoghue, van den Oord and Kohli 2018, arXiv 1802.05666): directions of signs, steps of Adam."""

    info: ClassVar[Info] = Info(
        "SPSA", "Uesato, O'Donoghue, van den Oord and Kohli 2018, arXiv 1802.05666", "score", ("evasion-query",),
        "`steps` x (`samples` + 1) queries and 1, fewer with early stop",
        _DEPARTS + "; the paper spends up to 8192 queries on each estimate")
    samples: Even = 128
    sigma: Positive = 0.3
    step: Positive = 0.3

    loss: ClassVar[Loss] = "margin"
    memories: ClassVar[int] = 2

    def _directions(self, shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.randint(2, shape, generator=generator, device=device).mul_(2).sub_(1).float()

    def _ahead(self, grad: Tensor, memory: list[Tensor], k: int) -> Tensor:
        memory[:] = torch.lerp(grad, memory[0], 0.9), torch.lerp(grad.square(), memory[1], 0.999)
        return (memory[0] / (1 - 0.9**k)).div_((memory[1] / (1 - 0.999**k)).sqrt_().add_(1e-8))
