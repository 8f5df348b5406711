"""The adversarial bias field: uneven brightness, as coils and X-ray tubes cause it, placed where it misleads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from imaging.transforms import spline
from suite.attacks._shaped import Shaped
from suite.base.bounds import Fraction, Positive
from suite.base.info import Info
from suite.core.space import Kind

_POINTS = 4
"""Control points of the tuning along each axis."""


@dataclass(frozen=True)
class BiasField(Shaped):
    """Adversarial bias field (Tian et al. 2020, arXiv 2009.09247): `x * B`, the same for all channels.

    `log B` is a polynomial `sum a_ij u^i v^j`, i + j <= degree, of the pixel coordinates u, v in [-1, 1], scaled down
    to `eps` where it exceeds that. The coordinates are themselves shifted by a smooth field of 4 x 4 control points, so
    that it varies faster in some places. It is smooth: a polynomial of degree d within `eps` rises by at most `d^2 eps`
    a unit (Markov), and that at the border only; of 28 x 28 pixels, neighbors have differed by less than `eps / 2`.

    Attributes:
        eps: Largest `|log B|`: 0.3 means gains between 0.74 and 1.35.
        degree: Of the polynomial; 0 is one gain for the whole image.
        bend: Most by which the tuning shifts u or v; 0 leaves the polynomial alone.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Adversarial bias field", "Tian, Guo, Juefei-Xu, Chan, Cheng, Li, Xie and Qin 2020, arXiv 2009.09247",
        "white-box", ("evasion",),
        "`restarts` x (`steps` forward and input-gradient passes and 1 forward pass), fewer with early stop",
        "bounds on the gain and on the tuning instead of penalties on their size; coefficients in Chebyshev's basis, "
        "where ascent is not ill-conditioned; the tuning is a cubic B-spline and no thin-plate spline, and what it "
        "moves beyond the border stays at it; degree 3, as models of the fields of real scanners have, where the "
        "paper's 20 would be edges on small images; climbs log odds",
        strong=True, strong_from=("steps", 20))
    unit: ClassVar[str] = "largest logarithm of the gain"
    eps: Positive = 0.3
    degree: Annotated[int, Field(strict=True, ge=0, le=64)] = 3
    bend: Fraction = 0.1

    @property
    def powers(self) -> list[tuple[int, int]]:
        """Exponents (i, j) of the terms of the polynomial."""
        return [(i, j) for i in range(self.degree + 1) for j in range(self.degree + 1 - i)]

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(n, terms + 32) small random coefficients, and no tuning yet."""
        theta = x.new_zeros(len(x), len(self.powers) + 2 * _POINTS**2)
        theta[:, :len(self.powers)].uniform_(-0.1, 0.1, generator=generator)
        return theta

    def log_gain(self, theta: Tensor, height: int, width: int) -> Tensor:
        """(n, height, width) log B."""
        terms = len(self.powers)
        shift = self.bend * spline.field(theta[:, terms:].view(-1, 2, _POINTS, _POINTS), height, width)
        v, u = (torch.linspace(-1, 1, side, device=theta.device) for side in (height, width))
        u, v = (_chebyshev(t.clamp(-1, 1), self.degree) for t in (u + shift[:, 0], v[:, None] + shift[:, 1]))
        field = sum(theta[:, k, None, None] * u[i] * v[j] for k, (i, j) in enumerate(self.powers))
        return self.eps * field / field.abs().amax((1, 2), keepdim=True).clamp(min=1)

    def render(self, x: Tensor, theta: Tensor) -> Tensor:
        return x * self.log_gain(theta, *x.shape[2:]).exp()[:, None]


def _chebyshev(t: Tensor, degree: int) -> list[Tensor]:
    """The Chebyshev polynomials of t up to a degree."""
    found = [torch.ones_like(t), t]
    while len(found) <= degree:
        found.append(2 * t * found[-1] - found[-2])
    return found
