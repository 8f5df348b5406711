"""Images whose pixels come from a little beside themselves."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def displaced(x: Tensor, field: Tensor) -> Tensor:
    """Images (n, channels, height, width), each pixel from where a field says, interpolated bilinearly.

    Beyond the border an image goes on with its outermost pixels. Differentiable in both arguments.

    Args:
        x: float32.
        field: (n, height, width, 2), or of one image for all, float32: how far right and down of itself a pixel comes
            from, in pixels.
    """
    height, width = x.shape[2:]
    here, pixel = _coordinates(height, width, x.device)
    there = here + field * pixel
    return F.grid_sample(x, there.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False)


@cache
def _coordinates(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, height, width, 2) where each pixel is, in units of half an image from its middle, and (2,) the size of a
    pixel in them; made once for a device and not in every step of an attack."""
    here = F.affine_grid(torch.eye(2, 3, device=device)[None], [1, 1, height, width], align_corners=False)
    return here, 2 / torch.tensor([width, height], device=device)
