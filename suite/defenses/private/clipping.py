"""The sum of gradients of rows, each clipped to a norm: what DP-SGD adds its noise to.

Opacus keeps the gradient of every row by every weight. Of a linear layer or a convolution it is a sum of outer products
of what comes in and what the loss does to what goes out, so its norm and the weighted sum over rows need these two
only: one pass forward, one back to the layers' outputs, and two small products a layer ("book-keeping": Bu, Wang, Zha
and Karypis 2022, arXiv 2210.00038). Where an image has many places and a layer few weights, the gradient of each row is
the smaller thing and is written out ("mixed": Bu, Mao and Xu 2022, arXiv 2205.10683). Both are exact but for
rounding.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.base.errors import InputError

TINY = 1e-6
"""Added to each norm before it divides, as Opacus does: no row of norm zero divides by it, and none gets larger."""

Weighted = Callable[[Tensor], list[Tensor]]
"""`(n,) weights -> the weighted sum over rows of the gradients by a layer's weight and, if it has one, bias`."""


@contextmanager
def clipped_sum(network: nn.Module) -> Iterator[BookKeeping | PerRow]:
    """The fastest exact way to get clipped gradients of a network whose rows do not mix.

    Networks whose parameters all belong to plain linear layers, two-dimensional convolutions, group and layer
    normalisations are done here, any others by Opacus, whose hooks leave the network at the end.

    Yields:
        `(x, y, norm)`: puts in each parameter's `grad` the sum over the n >= 1 rows `x` (n, ...) with labels `y` (n,)
        of the gradients of the cross entropy, each row's clipped to an L2 norm of `norm` over all parameters together.
        `(x, y, norm, shares)` does so for patients: `x` (n k, ...) holds k rows of each of n patients, one patient
        after the other, `shares` (n, k) what each row counts, 0 for one that only fills up, and it is the weighted sum
        of a patient's gradients that is clipped.
    """
    if suited(network):
        yield BookKeeping(network)
        return
    from opacus.grad_sample import GradSampleModule

    rows = GradSampleModule(network, loss_reduction="sum")
    try:
        yield PerRow(rows)
    finally:
        rows.to_standard_module()


def suited(network: nn.Module) -> bool:
    """Whether `BookKeeping` knows all layers with parameters, and no two share one."""
    layers = [m for m in network.modules() if any(True for _ in m.parameters(recurse=False))]
    own = [p for m in layers for p in m.parameters(recurse=False)]
    return (all(type(m) in LAYERS and _plain(m) for m in layers) and len(own) == len({id(p) for p in own})
            and all(p.requires_grad for p in own))  # Opacus leaves frozen ones alone


def _plain(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return layer.weight is not None


class BookKeeping:
    """Clipped gradients from what goes into each layer, and from what the loss does to what comes out.

    The first batch is differentiated once more as a whole, and a network of which the sum over its rows comes out
    otherwise is refused: its layers' outputs are overwritten, or their weights used behind their backs.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self._tried = network, False
        self.layers = [m for m in network.modules() if any(True for _ in m.parameters(recurse=False))]

    def __call__(self, x: Tensor, y: Tensor, norm: float, shares: Tensor | None = None) -> None:
        each = 1 if shares is None else shares.shape[1]
        calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        hooks = [m.register_forward_hook(lambda m, args, out: calls[m].append((args[0].detach(), out)))
                 for m in self.layers]
        try:
            loss = _loss(self.network(x), y, shares)
        finally:
            for hook in hooks:
                hook.remove()
        outputs = [out for parts in calls.values() for _, out in parts]
        for out in outputs:
            _check_rows(len(out), len(x))
        back = iter(torch.autograd.grad(loss, outputs, retain_graph=not self._tried, materialize_grads=True))
        with torch.no_grad():
            found = {m: LAYERS[type(m)](m, [(seen, next(back)) for seen, _ in parts], each)
                     for m, parts in calls.items()}
            weights = factors(sum(squares for squares, _ in found.values()).clamp(min=0).sqrt(), norm)
        if not self._tried:
            self._try(loss, found, weights)
        for m in self.layers:
            own = [*m.parameters(recurse=False)]
            # a layer that was not called has learned nothing
            grads = found[m][1](weights) if m in found else [torch.zeros_like(p) for p in own]
            for p, grad in zip(own, grads, strict=True):
                p.grad = grad.view_as(p)

    def _try(self, loss: Tensor, found: dict[nn.Module, tuple[Tensor, Weighted]], weights: Tensor) -> None:
        """Compare the unclipped sums with those of autograd."""
        own = [p for m in found for p in m.parameters(recurse=False)]
        truth = torch.autograd.grad(loss, own, materialize_grads=True)
        sums = [grad.view_as(p) for m in found
                for p, grad in zip(m.parameters(recurse=False), found[m][1](torch.ones_like(weights)), strict=True)]
        far = sum((a - b).square().sum() for a, b in zip(sums, truth, strict=True)).sqrt()
        if far > 1e-2 * max(float(sum(g.square().sum() for g in truth).sqrt()), TINY):
            raise InputError("private training cannot follow this network: it overwrites what its layers return, or "
                             "uses their weights outside of them")
        self._tried = True


def _check_rows(there: int, rows: int) -> None:
    """Raise `InputError` unless a layer has as many rows as the batch: parts of one would be clipped one by one."""
    if there != rows:
        raise InputError(f"private training needs rows that stay apart: of {rows} rows this network makes {there}, and "
                         "the parts of one would be clipped one by one")


class PerRow:
    """Clipped gradients from those of every row by every weight, which an Opacus `GradSampleModule` writes out."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Tensor, y: Tensor, norm: float, shares: Tensor | None = None) -> None:
        self.network.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Bb]ackward hook")  # the first layer's input needs no gradient
            _loss(self.network(x), y, shares).backward()
        learning = [p for p in self.network.parameters() if p.requires_grad]
        rows = [p.new_zeros(len(x), *p.shape) if p.grad_sample is None else p.grad_sample for p in learning]
        for r in rows:
            _check_rows(len(r), len(x))
        if shares is not None:
            rows = [r.view(*shares.shape, *r.shape[1:]).sum(1) for r in rows]
        weights = factors(torch.stack([r.flatten(1).norm(dim=1) for r in rows]).norm(dim=0), norm)
        for p, r in zip(learning, rows, strict=True):
            p.grad, p.grad_sample = torch.tensordot(weights, r, 1), None


def _loss(logits: Tensor, y: Tensor, shares: Tensor | None) -> Tensor:
    """The sum over rows of the cross entropy, each with its share."""
    if shares is None:
        return F.cross_entropy(logits, y, reduction="sum")
    return F.cross_entropy(logits, y, reduction="none") @ shares.flatten()


def factors(lengths: Tensor, norm: float) -> Tensor:
    """(n,) weights that shorten gradients of (n,) lengths to `norm` where they are longer."""
    return (norm / (lengths + TINY)).clamp(max=1)


def _products(layer: nn.Module, seen: Tensor, back: Tensor) -> tuple[Tensor, Weighted]:
    """Squared norms, and weighted sums, of gradients that are sums over places of outer products.

    Args:
        layer: With a weight of (out, in) but for its shape, and perhaps a bias.
        seen: (n, in, places).
        back: (n, out, places), gradients by what the layer returns.
    """
    (n, inside, places), outside = seen.shape, back.shape[1]
    sums = back.sum(2) if layer.bias is not None else back.new_zeros(n, 0)
    squares = sums.square().sum(1)
    if 2 * places**2 <= inside * outside:
        if places == 1:
            squares = squares + seen.square().sum((1, 2)) * back.square().sum((1, 2))
        else:
            squares = squares + (seen.mT @ seen * (back.mT @ back)).sum((1, 2))

        def weight(w: Tensor) -> Tensor:
            scaled = back * w[:, None, None]
            return scaled.transpose(0, 1).reshape(outside, -1) @ seen.transpose(0, 1).reshape(inside, -1).T
    else:
        rows = torch.bmm(back, seen.mT).flatten(1)
        squares = squares + rows.square().sum(1)

        def weight(w: Tensor) -> Tensor:
            return w @ rows

    return squares, lambda w: [weight(w), *([w @ sums] if layer.bias is not None else [])]


Calls = list[tuple[Tensor, Tensor]]
"""What went into a layer, and the gradient by what came out, of each time it was called."""


def _linear(layer: nn.Linear, calls: Calls, each: int) -> tuple[Tensor, Weighted]:
    seen, back = (torch.cat([t.reshape(len(t) // each, -1, t.shape[-1]) for t in part], 1).mT
                  for part in zip(*calls, strict=True))
    return _products(layer, seen, back)


def _convolution(layer: nn.Conv2d, calls: Calls, each: int) -> tuple[Tensor, Weighted]:
    seen = [F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride) for x, _ in calls]
    return _products(layer, *(torch.cat([_places(t, each) for t in part], 2)
                              for part in (seen, [g.flatten(2) for _, g in calls])))


def _places(t: Tensor, each: int) -> Tensor:
    """(n, channels, k places) of (n k, channels, places): the rows of a patient are so many places of one input."""
    return t if each == 1 else t.unflatten(0, (-1, each)).transpose(1, 2).flatten(2)


def _normalisation(layer: nn.GroupNorm | nn.LayerNorm, calls: Calls, each: int) -> tuple[Tensor, Weighted]:
    rows = [sum(parts) for parts in zip(*(_scaled(layer, x, g) for x, g in calls), strict=True)]
    rows = [r.unflatten(0, (-1, each)).sum(1) for r in rows[:len([*layer.parameters(recurse=False)])]]
    return sum(r.square().sum(1) for r in rows), lambda w: [w @ r for r in rows]


def _scaled(layer: nn.GroupNorm | nn.LayerNorm, x: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """(n, parameters) gradients of each row by the scale, and by the shift, of normalised values."""
    if type(layer) is nn.GroupNorm:
        normal = F.group_norm(x, layer.num_groups, eps=layer.eps)
        return tuple(t.reshape(*x.shape[:2], -1).sum(2) for t in (normal * back, back))
    normal, own = F.layer_norm(x, layer.normalized_shape, eps=layer.eps), math.prod(layer.normalized_shape)
    return tuple(t.reshape(len(x), -1, own).sum(1) for t in (normal * back, back))


LAYERS = {nn.Linear: _linear, nn.Conv2d: _convolution, nn.GroupNorm: _normalisation, nn.LayerNorm: _normalisation}
"""How each layer's part is found: `(layer, [(input, gradient by output), ...], rows of each patient) -> (n,) squared
norms, weighted`."""
