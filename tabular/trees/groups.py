"""Compiled kernels that lay out trees for the search: the leaves a row can reach, merged into groups, as bit sets.

Each group of trees has its leaves sorted by score, lowest first, as bits of words, so that the leaves met in a box are
a set of bits (after QuickScorer, Lucchese et al. 2015), the lowest score is the lowest bit set, and cutting a box is
one `and` per word. Groups begin as single trees; merging two of them (all pairs of leaves that overlap) tightens the
bound that their lowest scores give (Chen et al. 2019, arXiv 1906.03849).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from tabular.trees.reach import Cells

CAP, WINDOW = 64, 24
"""Leaves that a merged group may have, so that it fits in one word; and partners tried for each group."""


class Leaves(NamedTuple):
    """Boxes with scores, group by group.

    Attributes:
        low, high: (leaves, columns) int16 first and last reachable cell.
        score: (leaves,) float64.
        starts: (groups + 1,) int64.
    """

    low: np.ndarray
    high: np.ndarray
    score: np.ndarray
    starts: np.ndarray


class Groups(NamedTuple):
    """Groups of trees over a box, ready for `descend`.

    Attributes:
        words: (groups + 1,) int64, where the words of each group begin.
        row: (columns,) int64, row of `upto` and `down_to` that belongs to cell 0 of each column.
        upto, from_: (rows, words) uint64, leaves that reach down to (`upto`) or up to (`from_`) the cell of that row.
        every: (words,) uint64, all leaves.
        score: (64 words,) float64; low, high: (64 words, columns) int16, box of each bit.
        constant: Score of what does not vary in the box.
    """

    words: np.ndarray
    row: np.ndarray
    upto: np.ndarray
    from_: np.ndarray
    every: np.ndarray
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    constant: float


@njit(cache=True, nogil=True)
def leaf_distances(low: np.ndarray, high: np.ndarray, cells: Cells, low_out: np.ndarray, high_out: np.ndarray,
                   distance: np.ndarray) -> None:
    """Leaves in reachable cells, and the distance from the row to each; infinite where it cannot get."""
    for i in range(len(low)):
        farthest = 0.0
        for f in range(low.shape[1]):
            a, b = cells.first[f, low[i, f]], cells.last[f, high[i, f]]
            low_out[i, f], high_out[i, f] = a, b
            if a > b:
                farthest = np.inf
            elif a > cells.own[f]:
                farthest = max(farthest, cells.distance[f, a])
            elif b < cells.own[f]:
                farthest = max(farthest, cells.distance[f, b])
        distance[i] = farthest


@njit(cache=True, nogil=True)
def root_bound(leaves: Leaves, distance: np.ndarray, limit: float) -> float:
    """Lower bound of the score among all that is nearer than `limit`."""
    total = 0.0
    for t in range(len(leaves.starts) - 1):
        lowest = np.inf
        for i in range(leaves.starts[t], leaves.starts[t + 1]):
            if distance[i] < limit:
                lowest = min(lowest, leaves.score[i])
        total += lowest
    return total


@njit(cache=True, nogil=True)
def compile_box(leaves: Leaves, distance: np.ndarray, limit: float, low: np.ndarray, high: np.ndarray, constant: float,
                rounds: int) -> Groups:
    """The groups of the box `low .. high`, after `rounds` of merging pairs of groups."""
    kept, constant = _clip(leaves, distance, limit, low, high, constant)
    for _ in range(rounds):
        before = len(kept.starts)
        kept = _merge(kept)
        if len(kept.starts) == before:
            break
    return _pack(kept, low, high, constant)


@njit(cache=True, nogil=True)
def _clip(leaves, distance, limit, low, high, constant):  # noqa: ANN001, ANN202
    count, columns = 0, leaves.low.shape[1]
    lows, highs = np.empty_like(leaves.low), np.empty_like(leaves.high)
    scores, starts = np.empty_like(leaves.score), np.zeros_like(leaves.starts)
    groups = 0
    for t in range(len(leaves.starts) - 1):
        start = count
        for i in range(leaves.starts[t], leaves.starts[t + 1]):
            if not distance[i] < limit:
                continue
            meets = True
            for f in range(columns):
                a, b = max(leaves.low[i, f], low[f]), min(leaves.high[i, f], high[f])
                lows[count, f], highs[count, f] = a, b
                if a > b:
                    meets = False
                    break
            if meets:
                scores[count] = leaves.score[i]
                count += 1
        if count == start + 1:  # the tree is constant here
            constant += scores[start]
            count = start
        elif count > start:
            groups += 1
            starts[groups] = count
    return Leaves(lows[:count], highs[:count], scores[:count], starts[:groups + 1]), constant


@njit(cache=True, nogil=True)
def _overlap(leaves, i, j):  # noqa: ANN001, ANN202
    for f in range(leaves.low.shape[1]):
        if leaves.low[i, f] > leaves.high[j, f] or leaves.low[j, f] > leaves.high[i, f]:
            return False
    return True


@njit(cache=True, nogil=True)
def _pair(leaves, a, b):  # noqa: ANN001, ANN202
    """How many pairs of leaves of two groups overlap (it stops counting above `CAP`), and how much the bound gains."""
    count, lowest, low_a, low_b = 0, np.inf, np.inf, np.inf
    for j in range(leaves.starts[b], leaves.starts[b + 1]):
        low_b = min(low_b, leaves.score[j])
    for i in range(leaves.starts[a], leaves.starts[a + 1]):
        low_a = min(low_a, leaves.score[i])
        for j in range(leaves.starts[b], leaves.starts[b + 1]):
            if _overlap(leaves, i, j):
                count += 1
                lowest = min(lowest, leaves.score[i] + leaves.score[j])
        if count > CAP:
            break
    return count, lowest - low_a - low_b


@njit(cache=True, nogil=True)
def _merge(leaves):  # noqa: ANN001, ANN202
    groups, columns = len(leaves.starts) - 1, leaves.low.shape[1]
    order = np.argsort(np.diff(leaves.starts), kind="mergesort")
    mate, free, total = np.full(groups, -1), np.ones(groups, np.bool_), 0
    for p in range(groups):
        a = order[p]
        if not free[a]:
            continue
        free[a] = False
        size_a, best, size, tried = leaves.starts[a + 1] - leaves.starts[a], -1.0, 0, 0
        for q in range(p + 1, groups):
            b = order[q]
            if not free[b]:
                continue
            tried += 1
            if tried > WINDOW:
                break
            count, gain = _pair(leaves, a, b)
            grown = count - size_a - (leaves.starts[b + 1] - leaves.starts[b])
            gain = (gain + 1e-9) / max(grown + 20, 10)
            if count <= CAP and gain > best:
                best, size, mate[a] = gain, count, b
        if mate[a] >= 0:
            free[mate[a]] = False
        total += size if mate[a] >= 0 else size_a
    lows, highs = np.empty((total, columns), np.int16), np.empty((total, columns), np.int16)
    scores, starts = np.empty(total), np.zeros(groups + 1, np.int64)
    second = np.zeros(groups, np.bool_)
    for a in range(groups):
        if mate[a] >= 0:
            second[mate[a]] = True
    count, merged = 0, 0
    for a in range(groups):
        if second[a]:
            continue
        b = mate[a]
        for i in range(leaves.starts[a], leaves.starts[a + 1]):
            if b < 0:
                lows[count], highs[count], scores[count] = leaves.low[i], leaves.high[i], leaves.score[i]
                count += 1
                continue
            for j in range(leaves.starts[b], leaves.starts[b + 1]):
                if _overlap(leaves, i, j):
                    for f in range(columns):
                        lows[count, f] = max(leaves.low[i, f], leaves.low[j, f])
                        highs[count, f] = min(leaves.high[i, f], leaves.high[j, f])
                    scores[count] = leaves.score[i] + leaves.score[j]
                    count += 1
        merged += 1
        starts[merged] = count
    return Leaves(lows, highs, scores, starts[:merged + 1])


@njit(cache=True, nogil=True)
def _pack(leaves, low, high, constant):  # noqa: ANN001, ANN202
    groups, columns = len(leaves.starts) - 1, leaves.low.shape[1]
    words, row = np.zeros(groups + 1, np.int64), np.zeros(columns, np.int64)
    for g in range(groups):
        words[g + 1] = words[g] + (leaves.starts[g + 1] - leaves.starts[g] + 63) // 64
    rows, width = 0, words[groups]
    for f in range(columns):
        row[f] = rows - low[f]
        rows += high[f] - low[f] + 1
    upto, from_ = np.zeros((rows, width), np.uint64), np.zeros((rows, width), np.uint64)
    every, score = np.zeros(width, np.uint64), np.zeros(width * 64)
    lows, highs = np.zeros((width * 64, columns), np.int16), np.zeros((width * 64, columns), np.int16)
    for g in range(groups):
        order = np.argsort(leaves.score[leaves.starts[g]:leaves.starts[g + 1]], kind="mergesort")
        for rank in range(len(order)):
            i, word = leaves.starts[g] + order[rank], words[g] + rank // 64
            at, bit = word * 64 + rank % 64, np.uint64(1) << np.uint64(rank % 64)
            every[word] |= bit
            score[at], lows[at], highs[at] = leaves.score[i], leaves.low[i], leaves.high[i]
            for f in range(columns):
                upto[row[f] + leaves.low[i, f], word] |= bit
                from_[row[f] + leaves.high[i, f], word] |= bit
    for f in range(columns):
        for r in range(row[f] + low[f] + 1, row[f] + high[f] + 1):
            for w in range(width):
                upto[r, w] |= upto[r - 1, w]
        for r in range(row[f] + high[f] - 1, row[f] + low[f] - 1, -1):
            for w in range(width):
                from_[r, w] |= from_[r + 1, w]
    return Groups(words, row, upto, from_, every, score, lows, highs, constant)
