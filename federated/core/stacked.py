"""Arithmetic on the updates of all sites at once: (n, d) float32, one row a site, always in the same order of sites.

Everything is computed in chunks of columns, so that little more than the updates and the result is ever held. An
update may be as large as float32 allows: where squares of it would overflow, they are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from suite.base.errors import InputError

_CHUNK = 1 << 17
"""Numbers in a chunk: 1 MiB in float64, which a core's cache holds."""


def check_updates(updates: Tensor, what: str = "updates") -> None:
    """Raise InputError unless `updates` are (n, d) float32, n and d at least 1, and all finite."""
    if updates.ndim != 2 or not updates.numel():
        raise InputError(f"{what}: needs sites x parameters, got the shape {tuple(updates.shape)}")
    if updates.dtype != torch.float32:
        raise InputError(f"{what}: needs float32, got {updates.dtype}")
    # one NaN or infinity makes the sum one; a sum that only overflows is looked at again
    if not math.isfinite(updates.sum().item()):
        bad = (~torch.isfinite(updates).all(1)).nonzero().ravel().tolist()
        if bad:
            raise InputError(f"{what}: that of site {bad[0]} is not finite")


def check_vector(vector: Tensor, d: int, what: str) -> None:
    """Raise InputError unless `vector` is (d,) float32 and finite."""
    if tuple(vector.shape) != (d,):
        raise InputError(f"{what}: needs {d} parameters, got the shape {tuple(vector.shape)}")
    check_updates(vector[None], what)


def combine(coefficients: Tensor, updates: Tensor) -> Tensor:
    """(m, n) or (n,) coefficients times (n, d) updates, float32: one read of the updates."""
    return coefficients.to(updates) @ updates


def by_column(updates: Tensor, reduce: Callable[[Tensor], Tensor], rows: slice | list[int] = slice(None)) -> Tensor:
    """(d,) float32: `reduce`, (c, n) -> (c,), of the values of each coordinate, which it gets in ascending order.

    Only those of `rows`, if any are named.
    """
    return torch.cat([reduce(_ascending(block[rows])) for block in _chunks(updates)])


def _ascending(block: Tensor) -> Tensor:
    if block.device.type != "cpu":
        return block.T.sort(1).values
    values = block.T.clone(memory_format=torch.contiguous_format).numpy()
    values.sort(1)  # NumPy's sort of float32 is vectorized: 8 x torch's on one core
    return torch.from_numpy(values)


def norms(updates: Tensor, center: Tensor | None = None) -> Tensor:
    """(n,) float64 Euclidean lengths of the updates, or of their differences from (d,) `center`."""
    total = torch.zeros(len(updates), dtype=torch.float64, device=updates.device)
    start = 0
    for block in _chunks(updates):
        if center is not None:
            block = block - center[start:start + block.shape[1]]
            start += block.shape[1]
        length = torch.linalg.vector_norm(block, dim=1).double()
        if not torch.isfinite(length).all():
            length = torch.linalg.vector_norm(block.double(), dim=1)
        total += length**2
    return total.sqrt()


def dots(updates: Tensor, vector: Tensor) -> Tensor:
    """(n,) float64 inner products with (d,) `vector`."""
    sizes = vector.split(_columns(updates))
    return torch.stack([b.double() @ v.double() for b, v in zip(_chunks(updates), sizes, strict=True)]).sum(0)


def gram(updates: Tensor) -> Tensor:
    """(n, n) float64 inner products of the updates, accumulated in float64.

    A product of two float32 numbers is exact in float64, so distances are right to a tenth, whatever the order of the
    sum, even between updates that differ by units in float32's last place; and, as nothing is centered, a huge update
    spoils no other pair.
    """
    total = torch.zeros(len(updates), len(updates), dtype=torch.float64, device=updates.device)
    for block in _chunks(updates):
        block = block.double()
        # NumPy knows that a matrix times its own transpose is symmetric, and computes half of it
        total += block @ block.T if block.device.type != "cpu" else torch.from_numpy(block.numpy() @ block.numpy().T)
    return total


def squared_distances(updates: Tensor) -> Tensor:
    """(n, n) float64 squared Euclidean distances between the updates, 0 on the diagonal; one Gram matrix."""
    return squared_distances_of(gram(updates))


def squared_distances_of(products: Tensor) -> Tensor:
    """As `squared_distances`, of updates with this Gram matrix."""
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp_min(0).fill_diagonal_(0)


def _columns(updates: Tensor) -> int:
    return max(_CHUNK // len(updates), 1)


def _chunks(updates: Tensor) -> Iterator[Tensor]:
    yield from updates.split(_columns(updates), 1)
