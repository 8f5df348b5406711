"""The discrete cosine transform of images, as matrices: orthonormal, so that lengths stay as they are."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def matrix(n: int) -> Tensor:
    """(n, n) float32 DCT-II; its rows are the basis functions, slowest first, and its transpose is its inverse."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None]
    basis = torch.cos(torch.pi * (2 * i + 1) * k / (2 * n)) * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    return basis.float()


def spectrum(x: Tensor) -> Tensor:
    """Coefficients (..., h, w) of images (..., h, w); the lowest frequencies stand top left."""
    rows, columns = (_matrix_on(s, x.device, x.dtype) for s in x.shape[-2:])
    return rows @ x @ columns.T


def image(coefficients: Tensor) -> Tensor:
    """The images (..., h, w) of coefficients (..., h, w)."""
    rows, columns = (_matrix_on(s, coefficients.device, coefficients.dtype) for s in coefficients.shape[-2:])
    return rows.T @ coefficients @ columns


@cache
def _matrix_on(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`matrix`, sent once to a device and not with every image."""
    return matrix(n).to(device, dtype)
