"""What a network makes of its inputs on the way to its logits, for any network that has linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from suite.base.errors import NotApplicable
from suite.training.randomized import Chance, Randomized


class Penultimate(nn.Module):
    """`(n, ...) inputs -> (n, d)` features: what enters the linear layer that runs last. Differentiable.

    The network itself is not changed, and follows its own later training.

    Args:
        module: `(n, ...) -> (n, classes)` logits.

    Raises:
        NotApplicable: The module has no `nn.Linear`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not any(isinstance(layer, nn.Linear) for layer in module.modules()):
            raise NotApplicable(f"{type(module).__name__} has no linear layer, so it has no features to look at")
        self.module = module

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of one forward pass."""
        entered, logits = _entering(self.module, (nn.Linear,), x)
        if not entered:
            raise NotApplicable(f"{type(self.module).__name__} sees each input several times over, so it has no single "
                                "features to look at")
        return entered[-1], logits

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


class Layers(nn.Module):
    """`(n, ...) inputs -> [(n, d), ...]`: what enters the layers with weights, the input first and the features of
    `Penultimate` last. Differentiable.

    Convolutions see maps and transformers see tokens: of these the mean over all places is taken.

    Args:
        module: `(n, ...) -> (n, classes)` logits.
        most: Layers at most, at least 1; of a deeper network, evenly spaced ones.
    """

    def __init__(self, module: nn.Module, most: int = 8) -> None:
        super().__init__()
        self.module, self.most = module, most

    def forward(self, x: Tensor) -> list[Tensor]:
        entered, _ = _entering(self.module, (nn.Linear, _ConvNd), x)
        if not entered:
            raise NotApplicable(f"{type(self.module).__name__} has neither linear layers nor convolutions")
        chosen = torch.linspace(len(entered) - 1, 0, min(self.most, len(entered))).round().int().tolist()
        return [entered[i] for i in sorted(chosen)]


@torch.no_grad()
def last_linear(module: nn.Module, x: Tensor) -> str:
    """Name of the linear layer of a module that runs last on some inputs; empty where there is none."""
    ran = [""]
    hooks = [layer.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
             for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1]


def _entering(module: nn.Module, kinds: tuple[type[nn.Module], ...], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What enters each layer of some kinds, in the order in which they run, (n, d) each, of a `Randomized` network the
    mean over its draws; and the module's output."""
    entered: list[Tensor] = []
    chance = next((m.chance for m in module.modules() if isinstance(m, Randomized)), Chance(1))

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        z = inputs[0]
        # at once, as later layers may work in place; channels are second for convolutions and last for linear layers
        z = z.flatten(2).mean(2) if isinstance(layer, _ConvNd) else z.flatten(1, -2).mean(1) if z.dim() > 2 else z
        if len(z) == chance.draws * len(x) != len(x):
            z = z.unflatten(0, (chance.draws, len(x))).mean(0)
        if len(z) == len(x):  # a layer that sees the inputs several times over says nothing of each
            entered.append(z)

    # hooks that stay would take the network's fast passes away (`suite.core.passes`)
    hooks = [layer.register_forward_pre_hook(note) for layer in module.modules() if isinstance(layer, kinds)]
    chance.held = True  # features are those of the draws that decide, so that their slope is, too
    try:
        out = module(x.clone())  # it may change its input in place
    finally:
        chance.held = False
        for hook in hooks:
            hook.remove()
    return entered, out
