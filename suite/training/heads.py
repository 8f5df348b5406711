"""Heads with one sigmoid for each finding, as two logits: what attacks on classes ask of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite.base.errors import InputError


class OneLogit(nn.Module):
    """A network with one logit `z` for "ill", as the logits `[0, z]` of two classes.

    Softmax of these is sigmoid(z), and their gradients are those of z; with [-z/2, z/2] they would be halved in each.

    Args:
        module: `(n, ...) -> (n, 1)` or `(n,)` logits, not probabilities.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        z = self.module(x).reshape(len(x), 1)
        return torch.cat([torch.zeros_like(z), z], 1)


class Finding(nn.Module):
    """One finding of a multi-label network, present or not, as two logits.

    Args:
        module: `(n, ...) -> (n, findings)` logits, a sigmoid each.
        k: Position of the finding, from 0.
    """

    def __init__(self, module: nn.Module, k: int) -> None:
        super().__init__()
        self.module, self.k = module, k

    def forward(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        if not 0 <= self.k < logits.shape[1]:
            raise InputError(f"finding {self.k}: the network has {logits.shape[1]}, numbered from 0")
        z = logits[:, self.k, None]
        return torch.cat([torch.zeros_like(z), z], 1)
