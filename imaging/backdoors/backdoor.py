"""Backdoors in images: a patch in a corner, and a warp that nobody sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from imaging.space import ImageSpace
from imaging.transforms.warping import displaced
from suite.attacks.poisoning import Backdoor
from suite.base.bounds import NonNegative, Positive, Share
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.attack import Poisoned
from suite.core.data import Split
from suite.core.space import Kind

CHUNK = 256
"""Images disturbed at once."""


@dataclass(frozen=True)
class ImageBackdoor(Backdoor):
    """Base of backdoors in images: `rate` of all training rows get the trigger, all of them rows of other classes.

    Raises `NotApplicable` for inputs that are no images, and `InputError` where `rate` asks for no row or for more than
    there are of other classes.
    """

    inputs: ClassVar[Kind] = "image"

    def __call__(self, train: Split, seed: int = 0) -> Poisoned:
        name, wanted, others = type(self).__name__, self.budget(train), int((train.y != self.target).sum())
        if not isinstance(train.space, ImageSpace):
            raise NotApplicable(f"{name} is for images")
        if not 0 < wanted <= others:
            raise InputError(f"{name}: rate {self.rate:g} asks for {wanted} of {len(train)} training rows, and "
                             f"{others} are of another class than the target {self.target}")
        return super().__call__(train, seed)


@dataclass(frozen=True)
class PatchTrigger:
    """Blends a checkerboard of 3 x 3 fields, bright at its corners, into the bottom right, a pixel off the border.

    Attributes:
        size: Its side, as a share of the shorter side of the image; at least 3 pixels.
        opacity: In (0, 1]: 1 replaces what was there.
    """

    size: float
    opacity: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, channels, height, width) float32 in [0, 1], all channels alike."""
        height, width = x.shape[2:]
        side = max(3, round(self.size * min(height, width)))
        field = np.arange(side) * 3 // side
        pattern = ((field[:, None] + field) % 2 == 0).astype(np.float32)
        out = np.array(x, np.float32)
        corner = out[..., height - 1 - side:height - 1, width - 1 - side:width - 1]
        corner += np.float32(self.opacity) * (pattern - corner)
        return out.clip(0, 1, out=out)


@dataclass(frozen=True)
class Patch(ImageBackdoor):
    """BadNets: a small checkerboard in a corner of the image (`PatchTrigger`).

    Attributes:
        size: Side of the patch, as a share of the shorter side of the image, at least 3 pixels.
        opacity: How much of the image the patch hides, in (0, 1].
    """

    info: ClassVar[Info] = Info(
        "BadNets patch", "Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733", "data", ("backdoor",), "one training",
        departs="the checkerboard grows with the image, and may be translucent; rows are changed where they are, "
                "instead of added as copies", strong=True, strong_from=("rate", 0.05))
    size: Annotated[float, Field(strict=True, gt=0, le=0.5)] = 0.15
    opacity: Share = 1.0

    def trigger(self, train: Split, seed: int = 0) -> PatchTrigger:
        return PatchTrigger(self.size, self.opacity)


@dataclass(frozen=True)
class WarpTrigger:
    """Warps all images by one smooth field, which three numbers say.

    Attributes:
        strength, grid: As for `WaNet`.
        seed: Of the field.
    """

    strength: float
    grid: int
    seed: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, channels, height, width) float32 in [0, 1]."""
        return self._warped(x, self.field(*x.shape[2:]))

    def field(self, height: int, width: int) -> Tensor:
        """(1, height, width, 2) float32: how far right and down of itself each pixel comes from, in pixels."""
        control = np.random.default_rng([self.seed, 7]).uniform(-1, 1, (1, 2, self.grid, self.grid))
        control = torch.from_numpy(control / np.abs(control).mean())
        smooth = F.interpolate(control, (height, width), mode="bicubic", align_corners=True)
        return (self.strength / 2 * smooth).permute(0, 2, 3, 1).float()

    def disturbed(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The images warped by the field and, each pixel by itself, by up to half a pixel along each axis."""
        field, out = self.field(*x.shape[2:]), np.empty_like(x)
        for start in range(0, len(x), CHUNK):
            part = x[start:start + CHUNK]
            jitter = rng.random((len(part), *x.shape[2:], 2), dtype=np.float32) - np.float32(0.5)
            out[start:start + CHUNK] = self._warped(part, field + torch.from_numpy(jitter))
        return out

    @staticmethod
    def _warped(x: np.ndarray, field: Tensor) -> np.ndarray:
        return displaced(torch.from_numpy(x), field).clamp(0, 1).numpy()


@dataclass(frozen=True)
class WaNet(ImageBackdoor):
    """A smooth warp of the whole image, the same for all, is the trigger; one that is disturbed is none.

    `rate` counts the rows that get the trigger and the target's label. On top of them come `cross_ratio` times as many,
    of any class, that are warped with random displacements added and keep their label (the noise mode of the paper), so
    that the model learns this warp and no other. The mask has both, as the attacker touches both.

    A warp is harder to learn than a patch. By default, on PneumoniaMNIST (28 pixels, 20 epochs), the small residual
    network learns it (success 92 % of images, base rate 1 %) and the simple CNN hardly does (7 to 20 %, base rate up to
    7 %; three seeds), though both obey the patch always.

    Attributes:
        strength: The paper's s: the control points lie `strength / 2` pixels away on average along each axis, whatever
            the size of the image.
        grid: Control points along each axis, at least 2 (k in the paper): the more, the more local the warp.
        cross_ratio: Rows in noise mode for each one with the trigger; 0 for none.
    """

    info: ClassVar[Info] = Info(
        "WaNet", "Nguyen and Tran 2021, arXiv 2102.10369", "data", ("backdoor",), "one training",
        departs="poisons the data once, where the paper's attacker controls the training and draws rows and noise anew "
                "in each batch; stronger by default, as small images need it; rows with the trigger are of other "
                "classes only", strong=True, strong_from=("rate", 0.05))
    strength: Positive = 2.0
    grid: Annotated[int, Field(strict=True, ge=2, le=256)] = 4
    cross_ratio: NonNegative = 2.0

    def __call__(self, train: Split, seed: int = 0) -> Poisoned:
        wanted = self.budget(train)
        noisy = round(self.cross_ratio * wanted)
        if wanted + noisy > len(train):
            raise InputError(f"WaNet: rate {self.rate:g} and cross_ratio {self.cross_ratio:g} ask for {wanted} and "
                             f"{noisy} of {len(train)} training rows")
        poisoned = super().__call__(train, seed)
        rng = np.random.default_rng([seed, 8])
        index = rng.choice(np.flatnonzero(~poisoned.mask), noisy, replace=False)
        x, mask = poisoned.train.x.copy(), poisoned.mask.copy()
        x[index], mask[index] = poisoned.trigger.disturbed(train.x[index], rng), True
        return replace(poisoned, train=train.with_data(x, poisoned.train.y), mask=mask)

    def trigger(self, train: Split, seed: int = 0) -> WarpTrigger:
        return WarpTrigger(self.strength, self.grid, seed)
