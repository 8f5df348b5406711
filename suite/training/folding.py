"""Folding batch normalisation into the convolutions before it: the same function with fewer passes over memory."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(module: nn.Sequential) -> nn.Sequential:
    """A trained network without the batch normalisations that directly follow a convolution.

    Which follows which is seen on an input on its way through the network. The same architecture always gives the same
    result, so stored weights find their places again.

    Args:
        module: `Normalize` and a network, in evaluation mode. It stays as it was.

    Returns:
        A network with the same logits, but for rounding; `module` itself where nothing can be folded.
    """
    if not any(isinstance(m, nn.BatchNorm2d) for m in module.modules()):
        return module
    example = torch.linspace(-1, 1, 2 * module[0].mean.new_ones(module[0].inputs).numel()).view(2, *module[0].inputs)
    example = module[0].mean + example.to(module[0].mean) * module[0].std
    folded = copy.deepcopy(module)
    pairs, wanted = _pairs(folded, example)
    names = {m: name for name, m in folded.named_modules()}
    for norm, convolution in pairs.items():
        folded.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
        folded.set_submodule(names[norm], nn.Identity())
    with torch.no_grad():
        same = torch.allclose(folded(example), wanted, rtol=1e-3, atol=1e-3)
    # not the same where something else reads a convolution's output too
    return folded if pairs and same else module


@torch.no_grad()
def _pairs(module: nn.Module, x: Tensor) -> tuple[dict[nn.BatchNorm2d, nn.Conv2d], Tensor]:
    """Each batch normalisation whose input is the output of a convolution, with that; and the module's output."""
    made: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def leaves(layer: nn.Module, _: object, out: Tensor) -> None:
        made.append((out, layer))

    def enters(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        makers = [maker for out, maker in made if out is inputs[0]]
        if makers:
            pairs[layer] = makers[0]

    hooks = [m.register_forward_hook(leaves) for m in module.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(enters) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        out = module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs, out
