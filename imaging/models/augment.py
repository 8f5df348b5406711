"""Augmentation of training images: what may differ between two images of one patient, by the kind of image.

All of it happens in batches on the device; each image has its own draw, from a local generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random flips, rotation, zoom, shift and intensity, each drawn evenly for each image.

    Attributes:
        mirror: Left and right change places in half of the images.
        upend: Top and bottom change places in half of the images.
        angle: Largest rotation either way, in degrees.
        shift: Largest shift either way along each axis, as a share of the side.
        zoom: Largest relative enlargement or reduction, in [0, 1).
        gain: Largest relative change of contrast around the middle grey, in [0, 1).
        gamma: Largest natural logarithm, either way, of the exponent that bends the intensities.
    """

    mirror: bool = False
    upend: bool = False
    angle: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    gain: float = 0.0
    gamma: float = 0.0

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Another version of each image.

        Args:
            x: (n, channels, height, width) float32 in [0, 1], on any device.
            generator: On the CPU.

        Returns:
            Images of the same shape in [0, 1]; outside the old image its border goes on.
        """
        if self == NOTHING:
            return x
        # one draw in [-1, 1) for each image and kind of change, whichever are used
        drawn = (2 * torch.rand(len(x), 8, generator=generator) - 1).to(x.device)
        mirror, upend, angle, right, down, zoom, gain, gamma = drawn.unbind(1)
        grid = F.affine_grid(self._affine(x, mirror, upend, angle, right, down, zoom), x.shape, align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        each = (-1, 1, 1, 1)
        x = (0.5 + (x - 0.5) * (1 + self.gain * gain).view(each)).clamp(0, 1)
        return x ** (self.gamma * gamma).exp().view(each)

    def _affine(self, x: Tensor, mirror: Tensor, upend: Tensor, angle: Tensor, right: Tensor, down: Tensor,
                zoom: Tensor) -> Tensor:
        """(n, 2, 3) maps from places in the new image to places in the old one, both from -1 to 1."""
        turn = angle * math.radians(self.angle)
        size = 1 + self.zoom * zoom
        aspect = x.shape[2] / x.shape[3]  # a turn of pixels is not one of coordinates unless the image is square
        across = torch.where(mirror < 0, -1.0, 1.0) if self.mirror else torch.ones_like(mirror)
        along = torch.where(upend < 0, -1.0, 1.0) if self.upend else torch.ones_like(upend)
        cos, sin = turn.cos() * size, turn.sin() * size
        rows = [torch.stack([cos * across, -sin * aspect * along, 2 * self.shift * right], 1),
                torch.stack([sin / aspect * across, cos * along, 2 * self.shift * down], 1)]
        return torch.stack(rows, 1)


NOTHING = Augmentation()
MODALITIES = {
    # the heart lies on one side, so left and right stay; exposure and position vary
    "xray": Augmentation(angle=10, shift=0.08, zoom=0.1, gain=0.2, gamma=0.2),
    # so do the organs of a trunk; intensities are calibrated
    "ct": Augmentation(angle=10, shift=0.08, zoom=0.1, gain=0.1),
    # axial slices of a brain are nearly symmetric
    "mri": Augmentation(mirror=True, angle=10, shift=0.05, zoom=0.1, gain=0.2, gamma=0.2),
    # the probe is always on top, and shadows fall downwards
    "ultrasound": Augmentation(mirror=True, angle=5, shift=0.08, zoom=0.1, gain=0.2, gamma=0.2),
    # a lesion looks the same from each side
    "dermoscopy": Augmentation(mirror=True, upend=True, angle=180, shift=0.05, zoom=0.15, gain=0.1, gamma=0.1),
    # so do cells, whatever the stain
    "microscopy": Augmentation(mirror=True, upend=True, angle=180, shift=0.05, zoom=0.1, gain=0.1, gamma=0.1),
    # of what nobody knows, only the place
    "other": Augmentation(shift=0.05),
    "none": NOTHING,
}
"""What may change, by the kind of image."""
