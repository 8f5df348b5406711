"""Changes of where things are, not of how bright they are: a patient who lies askew, a slightly distorted scan."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from imaging.transforms import spline
from imaging.transforms.warping import displaced
from suite.attacks._search import Goal, Hunt, Query, worst_of
from suite.attacks._shaped import Shaped
from suite.base.bounds import Count, Fraction, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Kind, Reach


@dataclass(frozen=True)
class RotationTranslation(Query):
    """Rotation and translation (Engstrom et al. 2017, arXiv 1712.02779): the worst of a grid, or of random poses.

    Pixels are interpolated bilinearly; what comes in from beyond the border is black, as in the paper.

    Attributes:
        eps: Largest angle, in degrees, at most 180.
        shift: Largest translation, as a share of the side, along each axis, whatever the angle.
        angles, shifts: The grid: so many angles, and so many translations along each axis. Unused when `draws` is set.
        draws: Try so many random poses instead ("worst of 10" in the paper).
        early_stop: As for `suite.attacks.noise.RandomNoise`.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Rotation and translation", "Engstrom, Tran, Tsipras, Schmidt and Madry 2017, arXiv 1712.02779", "score",
        ("evasion-query",), "`angles` x `shifts`^2 queries, or `draws`; fewer with early stop",
        "tries the poses of the grid in random order; no first-order attack, which the paper finds weaker than either")
    unit: ClassVar[str] = "largest angle, in degrees"
    eps: Annotated[float, Field(strict=True, gt=0, le=180)] = 30.0
    shift: Fraction = 0.1
    angles: Count = 31
    shifts: Count = 5
    draws: Count | None = None
    early_stop: bool = True

    def __post_init__(self) -> None:
        if self.draws is None and self.angles == 1 and (self.shifts == 1 or self.shift == 0):
            raise InputError("RotationTranslation: angles: one angle and one translation leave every image as it is; "
                             "set angles or shifts to 2 or more, or draws")

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        poses = iter(self._grid(generator).to(reach.x.device))

        def draw(reach: Reach) -> Tensor:
            if self.draws is None:
                pose = next(poses).expand(len(reach.x), 3)
            else:
                pose = torch.rand(len(reach.x), 3, generator=generator, device=reach.x.device) * 2 - 1
            return reach.snap(self.moved(reach.x, pose).clamp(0, 1))

        tries = self.angles * self.shifts**2 if self.draws is None else self.draws
        return worst_of(draw, tries, Hunt(classifier, reach, goal, self.early_stop))

    def _grid(self, generator: torch.Generator) -> Tensor:
        """(poses, 3) in random order, as shares of the largest angle and translation."""
        angles, shifts = ((torch.linspace(-1, 1, k) if k > 1 else torch.zeros(1)).tolist()
                          for k in (self.angles, self.shifts))
        grid = torch.tensor(list(itertools.product(angles, shifts, shifts)))
        return grid[torch.randperm(len(grid), generator=generator, device=generator.device).to(grid.device)]

    def moved(self, x: Tensor, pose: Tensor) -> Tensor:
        """Images (n, channels, height, width), turned and shifted by (n, 3) shares of the most allowed: angle
        (counter-clockwise), right, down."""
        height, width = x.shape[2:]
        angle = pose[:, 0] * math.radians(self.eps)
        cos, sin, right, down = angle.cos(), angle.sin(), pose[:, 1] * 2 * self.shift, pose[:, 2] * 2 * self.shift
        # where each pixel comes from: back by the shift, then back by the angle, in units of half a side
        ratio = height / width
        rows = torch.stack([cos, -sin * ratio, -cos * right + sin * ratio * down,
                            sin / ratio, cos, -sin / ratio * right - cos * down], 1)
        grid = F.affine_grid(rows.view(-1, 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class Warp(Shaped):
    """Adversarial warp, after the spatial transform of Xiao et al. (2018, arXiv 1801.02612): each pixel comes from a
    little beside itself, by a smooth field of displacements.

    Pixels are interpolated bilinearly; beyond the border the image goes on with its outermost pixels.

    Attributes:
        eps: Largest displacement of a pixel, in pixels.
        points: Control points along each axis, at least 4: the more, the more local the warp.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Adversarial warp", "Xiao, Zhu, Li, He, Liu and Song 2018, arXiv 1801.02612", "white-box", ("evasion",),
        "`restarts` x (`steps` forward and input-gradient passes and 1 forward pass), fewer with early stop",
        "a cubic B-spline of a few control points, smooth by construction and with a bound, instead of a free field "
        "with a penalty on its roughness; signed ascent instead of L-BFGS", strong=True,
        strong_from=("steps", 20))
    unit: ClassVar[str] = "largest displacement, in pixels"
    eps: Positive = 1.5
    points: Annotated[int, Field(strict=True, ge=4, le=256)] = 6

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(n, 2, points, points) displacements of the control points, right and down, as shares of `eps`."""
        theta = x.new_empty(len(x), 2, self.points, self.points)
        return self.limit(theta.uniform_(-1, 1, generator=generator))

    def limit(self, theta: Tensor) -> Tensor:
        return theta / theta.norm(dim=1, keepdim=True).clamp(min=1)

    def render(self, x: Tensor, theta: Tensor) -> Tensor:
        height, width = x.shape[2:]
        return displaced(x, self.eps * spline.field(theta, height, width).permute(0, 2, 3, 1))
