"""Networks that are asked several times with chance in between: noise on the input, or units left out."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, nn

from suite.base.seeding import torch_generator
from suite.core.classifier import TorchClassifier
from suite.training.straight_through import straight_through

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Chance:
    """Where the randomness of one pass comes from; the parts of a module share it.

    Predictions draw the same numbers each time, and the same for every row, so that they can be repeated whatever
    else is in the batch. Passes that are differentiated draw fresh numbers for every row (expectation over
    transformation, EOT: Athalye, Engstrom, Ilyas and Kwok 2018, arXiv 1707.07397).
    """

    SEED: ClassVar[int] = 2**40  # of predictions; those of attacks count up from 0

    def __init__(self, draws: int) -> None:
        self.draws, self.passes, self.fresh, self.held = draws, 0, False, False  # held: no pass draws fresh numbers
        self.generator: torch.Generator | None = None

    def start(self, device: torch.device, fresh: bool) -> None:
        """Begin a pass."""
        self.fresh = fresh
        self.generator = torch_generator(self.passes if fresh else self.SEED, device)
        self.passes += fresh

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the numbers to draw for (draws * n, ...) `x`, to be broadcast against (draws, n, ...)."""
        return self.draws, len(x) // self.draws if self.fresh else 1, *x.shape[1:]

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"generator": None}  # PyTorch's cannot be copied


class Randomized(nn.Module):
    """Logarithm of the mean probabilities of a network under so many draws.

    Args:
        inner: `(n, ...) -> (n, classes)` logits. What it holds of `chance` draws from it.
        chance: Shared with the parts that draw.
    """

    def __init__(self, inner: nn.Module, chance: Chance) -> None:
        super().__init__()
        self.inner, self.chance = inner, chance

    def forward(self, x: Tensor) -> Tensor:
        if self.chance.held or not (torch.is_grad_enabled() and x.requires_grad):
            return mean_log_proba(self.draw(x, fresh=False))
        value = mean_log_proba(self.draw(x, fresh=True))
        with torch.no_grad():  # an attack goes by what the model says, and in the direction that is right on average
            said = mean_log_proba(self.draw(x, fresh=False))
        return straight_through(value, said)

    def draw(self, x: Tensor, fresh: bool = False) -> Tensor:
        """(draws, n, classes) logits of (n, ...) inputs."""
        self.chance.start(x.device, fresh)
        repeated = x.expand(self.chance.draws, *x.shape).flatten(0, 1)
        return self.inner(repeated).unflatten(0, (self.chance.draws, len(x)))


class GaussianNoise(nn.Module):
    """Adds noise to (draws * n, ...) inputs.

    Args:
        sigma: Standard deviation of each feature in data units, broadcastable to one input.
        chance: Draws the noise.
    """

    def __init__(self, sigma: Tensor | float, chance: Chance) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.as_tensor(sigma, dtype=torch.float32).clone(), persistent=False)
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(self.chance.shape(x), generator=self.chance.generator, device=x.device)
        return (x.unflatten(0, (self.chance.draws, -1)) + self.sigma * noise).flatten(0, 1)


class LeftOut(nn.Module):
    """Dropout that stays on after training: units of (draws * n, ...) activations are left out at random.

    Args:
        p: Probability with which each is.
        whole: Leave whole channels out.
        chance: Draws which.
    """

    def __init__(self, p: float, whole: bool, chance: Chance) -> None:
        super().__init__()
        self.p, self.whole, self.chance = p, whole, chance

    def forward(self, x: Tensor) -> Tensor:
        shape = self.chance.shape(x)
        shape = (*shape[:3], *[1] * len(shape[3:])) if self.whole else shape
        kept = torch.rand(shape, generator=self.chance.generator, device=x.device) >= self.p
        return (x.unflatten(0, (self.chance.draws, -1)) * (kept / (1 - self.p))).flatten(0, 1)


class Together(nn.Module):
    """Logarithm of the mean probabilities of several networks `(n, ...) -> (n, classes)` logits."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def draw(self, x: Tensor) -> Tensor:
        """(members, n, classes) logits of (n, ...) inputs."""
        return torch.stack([member(x) for member in self.members])

    def forward(self, x: Tensor) -> Tensor:
        return mean_log_proba(self.draw(x))


def drawing(network: nn.Module, draws: int) -> Randomized:
    """The mean of so many draws of a network, whose dropout, replaced in place, goes on after training."""
    chance = Chance(draws)
    for name, layer in [*network.named_modules()]:
        if isinstance(layer, DROPOUT):
            network.set_submodule(name, LeftOut(layer.p, type(layer) is not nn.Dropout, chance))
    return Randomized(network, chance)


class RandomizedClassifier(TorchClassifier):
    """A classifier with a `Randomized` module; each attack meets the same sequence of draws."""

    module: Randomized

    def frozen(self) -> AbstractContextManager[None]:
        self.module.chance.passes = 0
        return super().frozen()


def mean_log_proba(logits: Tensor) -> Tensor:
    """(n, classes) logarithms of the mean probabilities of (draws, n, classes) logits; finite and with a gradient
    however sure each draw is."""
    return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))
