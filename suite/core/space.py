"""The possible inputs of a classifier: what an attacker may turn an input into, and how far that is."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

Lp = Literal["linf", "l2"]
Norm = Literal["linf", "l2", "l0", "own"]
"""What a budget bounds: the largest change of a feature, the root of the summed squares of all changes, the number of
features (pixels) changed; or "own": something that is no norm of the change, such as an angle. An attack with a budget
of its own says what it means in `EvasionAttack.unit`.
"""


Kind = Literal["", "image", "table"]
"""What inputs are; "" where nobody says so, or for what is made for any."""


class Space:
    """A box of possible inputs, and the unit in which a perturbation of each feature is measured.

    Images use `imaging.space.ImageSpace` (bounds 0 and 1, scale 1), which knows what is visible. Tables use
    `tabular.schema.PatientSpace`, which adds integers, immutable and one-way columns and relations between columns.
    Every evasion attack searches inside the space of its classifier, so that each example it returns is a possible
    input.

    Args:
        lower, upper: Least and greatest value of each feature, in data units; broadcastable to one input.
        scale: Data units that count as a perturbation of 1, positive; broadcastable to one input. A budget
            `eps=0.05` therefore means 5 % of `scale`.
    """

    noun: ClassVar[str] = "patient"
    """What one input is called in reports."""
    kind: ClassVar[Kind] = ""
    """What its inputs are."""

    def __init__(self, lower: Tensor | float, upper: Tensor | float, scale: Tensor | float = 1.0) -> None:
        self.lower, self.upper, self.scale = (torch.as_tensor(v, dtype=torch.float32) for v in (lower, upper, scale))

    def suits(self, kind: Kind) -> bool:
        """Whether what is made for inputs of a kind can be used here; a space that does not say what it holds takes
        everything."""
        return "" in (kind, self.kind) or kind == self.kind

    def to(self, device: torch.device | str) -> Self:
        """The same space with its tensors on `device`."""
        if self.lower.device == torch.device(device):
            return self
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def ball(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Least and greatest possible value of each feature within `eps` (Linf, in units of `scale`) of `x`.

        Args:
            x: (n, ...) float32 inputs that lie in the space.
            eps: Radius; `float("inf")` asks for everything that is reachable from `x`.

        Returns:
            Two tensors of the shape of `x`. A feature that may not change has both equal to `x`.
        """
        lower, upper = x - eps * self.scale, x + eps * self.scale
        return torch.maximum(lower, self.lower, out=lower), torch.minimum(upper, self.upper, out=upper)

    def reach(self, x: Tensor, eps: float) -> Reach:
        """What `ball` and `snap` say about `x`, worked out once for all the steps of a search."""
        return Reach(x, *self.ball(x, eps))

    def snap(self, z: Tensor, x: Tensor, inward: bool = False) -> Tensor:
        """The possible input nearest to `z` that can be reached from `x`.

        Args:
            z: (n, ...) continuous candidates.
            x: (n, ...) the inputs the search started from.
            inward: Round towards `x`, so that no norm of the perturbation can grow.
        """
        return torch.minimum(torch.maximum(z, self.lower), self.upper)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """(n,) bool: whether each `z` is a possible input that can be reached from `x`."""
        return ((z >= self.lower) & (z <= self.upper)).flatten(1).all(1)

    def possible(self, x: Tensor) -> Tensor:
        """(n,) bool: whether each `x` is a possible input, wherever it came from; never where a value is NaN."""
        return ((x >= self.lower) & (x <= self.upper)).flatten(1).all(1)

    def describe(self, eps: float) -> dict[str, str]:
        """What a budget means, feature by feature, for people; empty where there is nothing to say."""
        return {}

    def price(self, a: Tensor, b: Tensor) -> Tensor:
        """(n,) cost of changing `a` into `b`: the changes of all features in units of `scale`, each weighted by what it
        costs to change that feature (1, unless a schema says otherwise).
        """
        return ((a - b) / self.scale).abs().flatten(1).sum(1)

    def visibility(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """(n,) each: how visible a change of `a` into `b` is to people, by name; empty where nobody looks at inputs."""
        return {}

    def pictures(self, x: Tensor) -> np.ndarray | None:
        """(n, height, width) or (n, height, width, 3) uint8 for people to look at; None where inputs are no such."""
        return None

    def distance(self, a: Tensor, b: Tensor, norm: Norm = "linf") -> Tensor:
        """(n,) distance between inputs in units of `scale`, or for "l0" the number of features that differ."""
        if norm == "l0":
            return (a != b).flatten(1).sum(1).to(a.dtype)
        delta = ((a - b) / self.scale).flatten(1)
        return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


class Reach:
    """The possible inputs within a budget of some inputs, prepared so that one step of a search costs next to nothing.

    Attributes:
        x: (n, ...) the inputs.
        lower, upper: (n, ...) least and greatest possible value of each feature, as `Space.ball` gives them.
    """

    def __init__(self, x: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.x, self.lower, self.upper = x, lower, upper

    def take(self, rows: Tensor) -> Self:
        """The reach of some of the rows (a mask, or positions, which may repeat)."""
        taken = copy.copy(self)
        taken.x, taken.lower, taken.upper = self.x[rows], self.lower[rows], self.upper[rows]
        return taken

    def snap(self, z: Tensor, inward: bool = False) -> Tensor:
        """As `Space.snap`, for (n, ...) `z` that lie between `lower` and `upper`. May return `z` itself."""
        return z
