"""Coarser versions of images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bit_depth(x: Tensor, bits: int) -> Tensor:
    """(n, channels, height, width) images in [0, 1] with `2^bits` grey levels a channel."""
    levels = 2 ** bits - 1
    return (x * levels).round() / levels


def median(x: Tensor, size: int) -> Tensor:
    """(n, channels, height, width) images, each pixel the median of the `size` x `size` window around it.

    As SciPy's `median_filter`: the window of an even size reaches further up and left, and its median is the upper one.
    """
    before = size // 2
    padded = F.pad(x, [before, size - 1 - before] * 2, mode="replicate")
    windows = padded.unfold(2, size, 1).unfold(3, size, 1).flatten(-2)
    return windows.kthvalue(size * size // 2 + 1, dim=-1).values
