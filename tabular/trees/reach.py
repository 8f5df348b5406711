"""Which cells a patient can reach: per cell the values possible there and the distance to the nearest of them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from suite.base.errors import NotApplicable
from suite.core.space import Space
from tabular.trees.ensemble import Ensemble


class Cells(NamedTuple):
    """The cells that one row can reach, numbered anew per column without those that hold no possible value.

    Attributes:
        own: (columns,) int16, the row's cell.
        first, last: (columns, cells) int16, from a cell of the ensemble to the first reachable one not below it, and to
            the last not above it.
        distance: (columns, reachable) float64, from the row to the nearest possible value, in units of the scale.
        near, least, most: (columns, reachable) float64, the nearest, the least and the greatest possible value.
        scale: (columns,) float64, of the space.
        step: (columns,) float64, 1 where values are whole numbers, else 0.
    """

    own: np.ndarray
    first: np.ndarray
    last: np.ndarray
    distance: np.ndarray
    near: np.ndarray
    least: np.ndarray
    most: np.ndarray
    scale: np.ndarray
    step: np.ndarray


class Reach:
    """The space of possible patients, seen through the cells of an ensemble."""

    def __init__(self, ensemble: Ensemble, space: Space) -> None:
        self.ensemble, self.space = ensemble, space.to("cpu")
        columns, cells = ensemble.columns, max(len(c) for c in ensemble.cuts) + 1
        if cells > np.iinfo(np.int16).max:
            raise NotApplicable(f"the trees cut one column at {cells - 1} places, too many for exact tree attacks")
        self.scale = np.broadcast_to(self.space.scale.double().numpy(), columns).copy()
        self.codes = {f: codes.cpu().double().numpy() for f, codes in getattr(space, "values", {}).items()}
        self.integer = np.zeros(columns, bool) | getattr(space, "integer", torch.tensor(False)).cpu().numpy()
        self.integer[list(self.codes)] = False
        self._below, self._above = np.full((columns, cells), np.inf), np.full((columns, cells), -np.inf)
        for f, cuts in enumerate(ensemble.cuts):
            self._below[f, :len(cuts) + 1] = [-np.inf, *np.nextafter(cuts, np.float32(np.inf))]
            self._above[f, :len(cuts) + 1] = [*cuts, np.inf]

    @cached_property
    def relations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Factors, limits and the slack that the space grants to float32 sums; empty when there are no relations."""
        columns = self.ensemble.columns
        factors = getattr(self.space, "factors", torch.zeros(0, columns)).double().numpy()
        limits = getattr(self.space, "limits", torch.zeros(0)).double().numpy()
        return factors, limits, getattr(self.space, "slack", torch.zeros(0)).double().numpy()

    def contains(self, z: np.ndarray, x: np.ndarray) -> bool:
        """Whether the row `z` is a possible patient that can be reached from the row `x`."""
        return bool(self.space.contains(torch.from_numpy(z[None]), torch.from_numpy(x[None]))[0])

    def cells(self, x: np.ndarray, own: np.ndarray) -> Cells:
        """The reachable cells of one (columns,) float32 row whose cells are `own`."""
        columns = np.arange(len(x))
        row = torch.from_numpy(x[None])
        lower, upper = (v[0].double().numpy()[:, None] for v in self.space.ball(row, float("inf")))
        at = x.astype(np.float64)
        least, most = np.maximum(self._below, lower), np.minimum(self._above, upper)
        if self.integer.any():
            least[self.integer], most[self.integer] = np.ceil(least[self.integer]), np.floor(most[self.integer])
        for f, codes in self.codes.items():
            padded = np.r_[-np.inf, codes, np.inf]
            least[f] = padded[np.searchsorted(codes, least[f]) + 1]
            most[f] = padded[np.searchsorted(codes, most[f], side="right")]
        # Where the row is, it may stay, whatever the grid says.
        least[columns, own] = np.minimum(least[columns, own], at)
        most[columns, own] = np.maximum(most[columns, own], at)
        index = np.arange(least.shape[1])
        near = np.where(index > own[:, None], least, most)
        near[columns, own] = at
        possible = least <= most
        before = np.cumsum(possible, 1)
        order = np.argsort(~possible, 1, kind="stable")
        with np.errstate(invalid="ignore"):
            distance = np.where(possible, np.abs(near - at[:, None]) / self.scale[:, None], np.inf)
        first, last = (before - possible).astype(np.int16), (before - 1).astype(np.int16)
        step = (self.integer & (at == np.round(at))).astype(np.float64)
        packed = (np.ascontiguousarray(np.take_along_axis(v, order, 1)) for v in (distance, near, least, most))
        return Cells(first[columns, own], first, last, *packed, self.scale, step)
