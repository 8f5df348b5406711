"""Possible inputs as points that a gradient search may move freely: boxes, and codes as a softmax over their values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from suite.core.space import Space
from tabular.schema import PatientSpace, Schema


@dataclass(frozen=True)
class Form:
    """How the inputs of a space are searched.

    A column of codes is a mean of them, weighted by a softmax over one logit each (TabLeak: Vero et al. 2023, arXiv
    2210.01785); everything else lies between its bounds and is searched from -1 to 1.

    Attributes:
        space: The possible inputs, with finite bounds.
        inputs: Shape of one.
    """

    space: Space
    inputs: tuple[int, ...]

    @property
    def codes(self) -> dict[int, Tensor]:
        """Column -> its codes; none but in tables."""
        return self.space.values if isinstance(self.space, PatientSpace) else {}

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """(...) each, in data units."""
        return tuple(torch.broadcast_to(b, self.inputs).double() for b in (self.space.lower, self.space.upper))

    def start(self, k: int, n: int, generator: torch.Generator) -> list[Tensor]:
        """Random points, k times n: (k, n, ...) for what lies between bounds, then (k, n, codes) for each column."""
        box = 2 * torch.rand((k, n, *self.inputs), generator=generator, dtype=torch.float64) - 1
        return [box, *(torch.randn((k, n, len(codes)), generator=generator, dtype=torch.float64)
                       for codes in self.codes.values())]

    def near(self, x: Tensor) -> list[Tensor]:
        """Points whose inputs are close to (k, n, ...) `x` in data units; of codes, not quite sure of them."""
        lower, upper = self.bounds
        box = (2 * (x.double() - lower) / (upper - lower) - 1).clamp(-1, 1)
        return [box, *(3.0 * (x[..., i, None] == codes).double() for i, codes in self.codes.items())]

    def points(self, z: list[Tensor]) -> Tensor:
        """(k, n, ...) inputs in data units; differentiable."""
        lower, upper = (b.to(z[0]) for b in self.bounds)
        x = lower + (z[0] + 1) / 2 * (upper - lower)
        if not self.codes:
            return x
        mean = {i: logits.softmax(2) @ codes.to(logits)
                for (i, codes), logits in zip(self.codes.items(), z[1:], strict=True)}
        return torch.stack([mean.get(i, x[..., i]) for i in range(x.shape[-1])], -1)

    def hold(self, z: list[Tensor]) -> None:
        """Put points that have left the box back onto its border, in place."""
        z[0].clamp_(-1, 1)

    def rounded(self, x: Tensor) -> Tensor:
        """(n, ...) float64, the nearest inputs whose columns are possible, each by itself."""
        if not isinstance(self.space, PatientSpace):
            lower, upper = (b.to(x.device) for b in self.bounds)
            return torch.minimum(torch.maximum(x.double(), lower), upper)
        columns = {name: c.model_copy(update={"change": "any"}) for name, c in self.space.schema.columns.items()}
        free = Schema(columns=columns).space().to(x.device)  # an unknown patient did not change from another one
        lower = free.lower.expand(x.shape).contiguous()
        return free.snap(x.float(), lower).double()
