"""Networks whose rows do not mix: group in place of batch normalisation."""

from __future__ import annotations

from torch import nn


def without_batch_norm(network: nn.Module) -> tuple[nn.Module, str]:
    """A network whose rows do not mix, and what was replaced for it: batch by group normalisation."""
    from opacus.validators import ModuleValidator

    for layer in network.modules():
        if getattr(layer, "inplace", False):  # Opacus listens to what layers return, which nobody may overwrite
            layer.inplace = False
    if ModuleValidator.is_valid(network.train()):
        return network, ""
    fixed = ModuleValidator.fix(network)
    for name, layer in network.named_modules():
        if type(layer) is nn.BatchNorm1d:
            # Opacus makes groups of one value, of which nothing is left once they are normalised
            fixed.set_submodule(name, nn.GroupNorm(1, layer.num_features, layer.eps, layer.affine))
    old, new = dict(network.named_modules()), dict(fixed.named_modules())
    changed = [f"{type(old[name]).__name__} by {type(new[name]).__name__}"
               for name in new if name in old and type(old[name]) is not type(new[name])]
    return fixed, ", ".join(sorted(set(changed)))
