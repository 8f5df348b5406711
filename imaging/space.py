"""The possible images: intensities from 0 to 1, and how visible a change of them is."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from suite.core.space import Kind, Norm, Space


class ImageSpace(Space):
    """Images `(n, channels, height, width)` float32 in [0, 1]; a budget of 4/255 means 4 of 255 grey levels."""

    noun: ClassVar[str] = "image"
    kind: ClassVar[Kind] = "image"

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def distance(self, a: Tensor, b: Tensor, norm: Norm = "linf") -> Tensor:
        """As `Space.distance`; "l0" counts pixels, whichever of their channels changed."""
        return (a != b).any(1).flatten(1).sum(1).to(a.dtype) if norm == "l0" else super().distance(a, b, norm)

    def visibility(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """What a reader of the images would see of the difference, (n,) each.

        Returns:
            "ssim": structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004), 1 for equal images. "psnr": peak
            signal-to-noise ratio in dB, infinite for equal images. "l2": root of the summed squared differences.
        """
        from monai.metrics.regression import compute_ssim_and_cs

        # a window of 11, but of whatever odd size fits smaller images
        side = min(11, *(s - (s + 1) % 2 for s in a.shape[2:]))
        ssim, _ = compute_ssim_and_cs(a, b, 2, kernel_size=[side] * 2, kernel_sigma=[1.5] * 2, data_range=1.0)
        square = F.mse_loss(a, b, reduction="none").flatten(1).mean(1)
        return {"ssim": ssim.flatten(1).mean(1), "psnr": -10 * torch.log10(square), "l2": self.distance(a, b, "l2")}

    def pictures(self, x: Tensor) -> np.ndarray:
        levels = (255 * x).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return levels[:, 0] if levels.shape[1] == 1 else np.moveaxis(levels, 1, -1)

    def describe(self, eps: float) -> dict[str, str]:
        return {"intensity": f"± {255 * eps:.3g} of 255 grey levels, each pixel and channel by itself"}
