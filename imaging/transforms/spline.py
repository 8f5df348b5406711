"""Smooth fields over an image, from a few control points: uniform cubic B-splines, as matrices."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def matrix(side: int, points: int) -> Tensor:
    """(side, points) float32: the weight of each control point at each pixel. Nonnegative, and 1 in all at a pixel, so
    that a field lies between the least and the greatest of its control points.

    Args:
        side: Pixels along the axis.
        points: Control points, at least 4; the outer ones lie beyond the border.
    """
    at = torch.linspace(0, points - 3, side, dtype=torch.float64)[:, None] + 1 - torch.arange(points)
    near, far = at.abs(), (2 - at.abs()).clamp(min=0)
    weights = torch.where(near < 1, 2 / 3 - near**2 + near**3 / 2, far**3 / 6)
    return weights.float()


def field(control: Tensor, height: int, width: int) -> Tensor:
    """(..., height, width) the field of (..., points, points) control points; twice continuously differentiable."""
    rows, columns = (_matrix_on(side, points, control.device, control.dtype)
                     for side, points in ((height, control.shape[-2]), (width, control.shape[-1])))
    return rows @ control @ columns.T


@cache
def _matrix_on(side: int, points: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`matrix`, sent once to a device and not in every step of an attack."""
    return matrix(side, points).to(device, dtype)
