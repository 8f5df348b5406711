"""The step of DeepFool, in one pass over the numbers on the CPU and in tensor operations elsewhere.

On a small table a step is a score of tiny tensor operations, which together cost as much as the pass before them.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from suite.attacks._search import per_row
from suite.core.space import Reach

NUDGE = 1e-4
"""Lead in logits that a step asks for. Less than half of it counts as none, as it may be noise of float32 that another
batch size would undo."""


def step(z: Tensor, rows: Tensor, gaps: Tensor, grads: list[Tensor], reach: Reach, square: Tensor,
         beyond: float) -> Tensor:
    """Move `z[rows]` beyond the nearest linearised boundary, as far as the limits allow.

    A feature that cannot go where the gradient points is no part of the way there.

    Args:
        z: (all, ...) contiguous, where each row is, between the limits of `reach`; changed in place. A row that shall
            move but cannot goes back to `reach.x`.
        rows: (n,) the rows concerned.
        gaps: (rivals, n) by how much each rival exceeds the logit to beat, greatest first. If it clearly does,
            the row is through.
        grads: Of each rival, the (n, ...) gradient of `gaps`.
        square: (...) square of the scale.
        beyond: How far to go, in units of the distance to the boundary.

    Returns:
        Positions, in `rows`, of those that have moved.
    """
    if z.device.type != "cpu":
        return by_tensors(z, rows, gaps, grads, reach, square, beyond)
    slopes = (torch.stack(grads) if len(grads) > 1 else grads[0][None]).flatten(2).contiguous()
    flat = [t.flatten(1).numpy() for t in (z, reach.x, reach.lower, reach.upper)]
    return torch.from_numpy(_fused(*flat, rows.numpy(), gaps.numpy(), slopes.numpy(), square.flatten().numpy(), beyond))


@numba.njit(cache=True, nogil=True)
def _fused(z, x, lower, upper, rows, gaps, slopes, square, beyond):  # noqa: ANN001, ANN202
    left, moved = np.empty(len(rows), np.int64), 0
    for i, row in enumerate(rows):
        if gaps[0, i] > NUDGE / 2:
            continue
        share, nearest, rival = 0.0, np.inf, 0
        for r in range(len(gaps)):
            size = 0.0
            for j in range(z.shape[1]):
                slope = slopes[r, i, j]
                if z[row, j] != (upper[row, j] if slope > 0 else lower[row, j]):
                    size += slope * slope * square[j]
            gap = beyond * (NUDGE - min(gaps[r, i], 0))
            if gap * gap < nearest * size:
                share, nearest, rival = gap / size, gap * gap / size, r
        if share > 0:
            left[moved] = i
            moved += 1
            for j in range(z.shape[1]):
                ahead = z[row, j] + share * slopes[rival, i, j] * square[j]
                z[row, j] = min(max(ahead, lower[row, j]), upper[row, j])
        elif gaps[0, i] <= 0:
            z[row] = x[row]
    return left[:moved]


def by_tensors(z: Tensor, rows: Tensor, gaps: Tensor, grads: list[Tensor], reach: Reach, square: Tensor,
               beyond: float) -> Tensor:
    """As `step`, on any device."""
    here, reach = z[rows], reach.take(rows)
    ways = [grad * torch.where(grad > 0, reach.upper, reach.lower).ne(here) * square for grad in grads]
    sizes = torch.stack([(grad * way).flatten(1).sum(1) for grad, way in zip(grads, ways, strict=True)])
    short, ahead = beyond * (NUDGE - gaps.clamp(max=0)), gaps[0] <= NUDGE / 2
    nearest = (short.square() / sizes).nan_to_num_(torch.inf, torch.inf).argmin(0)
    share = (short / sizes).nan_to_num_(0, 0, 0).gather(0, nearest[None])[0] * ahead
    way = ways[0]
    for r, other in enumerate(ways[1:], 1):
        way = torch.where(per_row(nearest == r, z), other, way)
    there = torch.clamp(here + per_row(share, z) * way, reach.lower, reach.upper)
    z[rows] = torch.where(per_row((gaps[0] <= 0) & (share == 0), z), reach.x, there)
    return share.nonzero()[:, 0]
