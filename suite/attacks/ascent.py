"""Signed gradient ascent inside a box: the inner loop of every projected gradient attack and of robust training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Box = tuple[Tensor, Tensor]
"""Least and greatest value of each feature, as `Space.ball` gives them."""


def ascend(gradient: Callable[[Tensor], Tensor], start: Tensor, box: Box, step: Tensor | float, steps: int) -> Tensor:
    """Follow the sign of a gradient, staying inside a box.

    Args:
        gradient: `(n, ...) -> (n, ...)`, of what is to grow.
        start: (n, ...) points inside the box.
        box: Two tensors of the shape of `start`.
        step: Length of a step in data units, broadcastable to one input.
        steps: Number of steps, each one call of `gradient`.

    Returns:
        (n, ...) points inside the box.
    """
    lower, upper = box
    z = start
    for _ in range(steps):
        z = torch.minimum(torch.maximum(z + step * gradient(z).sign(), lower), upper)
    return z


def uniform(box: Box, generator: torch.Generator) -> Tensor:
    """A point drawn uniformly from a box, with a generator of the CPU whatever the device."""
    lower, upper = box
    return lower + (upper - lower) * torch.rand(lower.shape, generator=generator).to(lower.device)
