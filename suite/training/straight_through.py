"""Gradients for what is flat between its steps: backward pass differentiable approximation (Athalye, Carlini and Wagner
2018, arXiv 1802.00420).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def straight_through(x: Tensor, said: Tensor) -> Tensor:
    """`said`, whose gradient goes to `x` of the same shape as if they were equal."""
    return _StraightThrough.apply(x, said)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor, said: Tensor) -> Tensor:
        return said.view_as(x)

    @staticmethod
    def backward(_: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
