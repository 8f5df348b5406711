"""Forward and input-gradient passes of plain ReLU networks without autograd, whose bookkeeping costs more than the
arithmetic at the size of a table.

The operations are those that autograd would call, in the same order, so logits and gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.core.normalize import Normalize

Pull = Callable[[Tensor, Callable[[Tensor], Sequence[Tensor]]], tuple[Tensor, list[Tensor]]]
"""As `suite.core.classifier.TorchClassifier.pull`."""

_gate = torch.ops.aten.threshold_backward.default
"""What autograd calls for a ReLU: passes back where the output is above 0."""
INERT = (nn.Dropout, nn.Identity)
"""Layers that do nothing in evaluation mode."""


def direct(module: nn.Module) -> Pull | None:
    """The passes of a chain of standardisation, linear layers and ReLUs; None for any other module.

    Weights are looked up at every call, so the passes follow a module that is still in training; dropout is taken as
    in evaluation mode. A module with hooks, or with a method of its own, is left to autograd, which calls them.
    """
    layers = flat(module)
    return None if layers is None else lambda x, weights: _pull(layers, x, weights)


def flat(module: nn.Module) -> list[nn.Module] | None:
    """The layers of a plain chain in order, without those that do nothing."""
    hooks: list[Any] = [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
                        module._backward_pre_hooks]
    if any(hooks) or "forward" in vars(module):  # of the instance's own
        return None
    if type(module) is nn.Sequential:
        parts = [flat(child) for child in module]
        return None if None in parts else [layer for part in parts for layer in part]
    if type(module) in INERT:
        return []
    return [module] if type(module) in (nn.Linear, nn.ReLU, Normalize) else None


@torch.no_grad()
def _pull(layers: list[nn.Module], x: Tensor, weights: Callable[[Tensor], Sequence[Tensor]]) -> tuple[Tensor,
                                                                                                    list[Tensor]]:
    z, outputs = x, []
    for layer in layers:
        kind = type(layer)
        if kind is nn.Linear:
            z = F.linear(z, layer.weight, layer.bias)
        elif kind is nn.ReLU:
            z = z.relu()
        else:
            z = (z - layer.mean) / layer.std
        outputs.append(z)
    return z, [_back(layers, outputs, pulled) for pulled in weights(z)]


def _back(layers: list[nn.Module], outputs: list[Tensor], g: Tensor) -> Tensor:
    for layer, out in zip(reversed(layers), reversed(outputs), strict=True):
        kind = type(layer)
        if kind is nn.Linear:
            g = g @ layer.weight
        elif kind is nn.ReLU:
            g = _gate(g, out, 0)
        else:
            g = g / layer.std
    return g
