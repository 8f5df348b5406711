"""Images whose pixels come from a little beside themselves."""

from __future__ import annotations

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
    here = F.affine_grid(torch.eye(2, 3, device=x.device)[None], [1, 1, height, width], align_corners=False)
    there = here + field * (2 / torch.tensor([width, height], device=x.device))
    return F.grid_sample(x, there.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False)
