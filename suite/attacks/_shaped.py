"""Gradient attacks whose variables are not the features: the parameters of a change of the whole input."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from suite.attacks._search import Goal, Hunt, Search, restarted
from suite.base.bounds import Count, Positive
from suite.core.classifier import TorchClassifier
from suite.core.space import Reach


@dataclass(frozen=True)
class Shaped(Search):
    """Base: signed ascent over parameters theta of a change of the input, each measured so that 1 is the most allowed.

    The input gradient comes from the classifier and is carried on to theta through the change alone. The classifier is
    asked about the nearest possible input (straight through the limits of the space, as in BPDA).

    Attributes:
        early_stop: As for `suite.attacks.gradient.BIM`.
        steps: Steps of each start.
        step: Length of the first step, as a share of the most that a parameter may be; it falls linearly to 0.
        restarts: Starts; all but the first only for the rows that are not fooled yet.
    """

    early_stop: bool = True
    steps: Count = 40
    step: Positive = 0.25
    restarts: Count = 1

    @abstractmethod
    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(n, ...) parameters to start from, for (n, ...) inputs."""

    @abstractmethod
    def render(self, x: Tensor, theta: Tensor) -> Tensor:
        """The changed inputs, differentiable in theta; they may leave the space a little."""

    def limit(self, theta: Tensor) -> Tensor:
        """Parameters brought back into the budget."""
        return theta.clamp(-1, 1)

    def _attack(self, classifier: TorchClassifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        def climb(reach: Reach, goal: Goal) -> tuple[Tensor, Tensor]:
            return self._climb(Hunt(classifier, reach, goal, self.early_stop), self.start(reach.x, generator))

        return restarted(climb, reach, [goal] * self.restarts)

    def _climb(self, hunt: Hunt, theta: Tensor) -> tuple[Tensor, Tensor]:
        for k in range(self.steps):
            with torch.enable_grad():
                theta.requires_grad_()
                z = self.render(hunt.reach.x, theta)
            possible = _inside(z.detach(), hunt.reach)
            logits, grad = hunt.goal.gradient(hunt.classifier, possible)
            (slope,) = torch.autograd.grad(z, theta, grad)
            theta = theta.detach()
            left = hunt.note(possible, logits)
            if left is not None:
                if not len(left):
                    return hunt.best()
                theta, slope = theta[left], slope[left]
            theta = self.limit(theta + self.step * (1 - k / self.steps) * slope.sign())
        return hunt.finish(_inside(self.render(hunt.reach.x, theta), hunt.reach))


def _inside(z: Tensor, reach: Reach) -> Tensor:
    return reach.snap(torch.clamp(z, reach.lower, reach.upper))
