"""How much of a hospital's rows a reconstruction has right, and what somebody who saw nothing would have right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from suite.base.errors import InputError
from suite.core.data import Split
from suite.core.space import Space
from suite.results.metrics import Estimate, proportion


@dataclass(frozen=True)
class Rebuilt:
    """Reconstructions beside the rows that they are most like.

    Attributes:
        order: (n,) int64: which reconstruction stands for each row; each stands for one.
        right: (n, columns) bool: which cells (pixels) are right to the tolerance.
        visible: Name -> (n,) float64, as `Space.visibility` tells: "ssim" and "psnr" of images; empty for tables.
    """

    order: np.ndarray
    right: np.ndarray
    visible: dict[str, np.ndarray]

    @property
    def records(self) -> Estimate:
        """Share of rows whose cells are all right, with its 95 % interval (Wilson)."""
        return proportion(self.right.all(1))

    @property
    def cells(self) -> float:
        """Share of cells that are right."""
        return float(self.right.mean())


def matched(found: np.ndarray, truth: np.ndarray, space: Space, tolerance: float = 0.01) -> Rebuilt:
    """Assign reconstructions to rows, one to each, so that they are as like as can be (Hungarian method).

    Of tables, as many cells as possible are right, and then the sum of differences is least; of images, the sum of
    squared differences is least.

    Args:
        found: (n, ...) float32 reconstructions in data units, in any order.
        truth: (n, ...) float32 the hospital's rows.
        space: The possible inputs.
        tolerance: Error up to which a cell is right, in units of the space's scale.

    Raises:
        InputError: The shapes differ.
    """
    if found.shape != truth.shape or not len(truth):
        raise InputError(f"needs as many reconstructions as rows, of the same shape, got {found.shape} and "
                         f"{truth.shape}")
    scale = np.broadcast_to(space.scale.cpu().numpy(), truth.shape[1:]).ravel().astype(np.float64)
    a, b = (x.reshape(len(x), -1) / scale for x in (truth.astype(np.float64), found.astype(np.float64)))
    off = np.stack([np.abs(row - b) for row in a])
    cost = np.square(off).sum(2) if truth.ndim > 2 else (off > tolerance).sum(2) + off.mean(2) / (1 + off.max())
    order = linear_sum_assignment(cost)[1]
    seen = space.visibility(torch.from_numpy(truth), torch.from_numpy(found[order]))
    return Rebuilt(order, off[np.arange(len(a)), order] <= tolerance, {k: v.double().numpy() for k, v in seen.items()})


def baselines(public: Split, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What somebody would say who knows other patients and saw no update, as `matched` takes it.

    Returns:
        "mean": the mean of the public rows, `rows` times; "others": so many of them, drawn at random.
    """
    if len(public) < rows:
        raise InputError(f"a guess of {rows} rows needs as many public ones, and there are {len(public)}")
    drawn = np.random.default_rng(seed).permutation(len(public))[:rows]
    return {"mean": np.repeat(public.x.mean(0, keepdims=True), rows, axis=0), "others": public.x[drawn]}
