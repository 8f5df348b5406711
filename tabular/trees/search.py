"""Compiled kernels of the exact tree attacks.

A box is a range of cells per column. Each group of trees has its leaves sorted by score, lowest first, as bits of
words, so that the leaves met in a box are a set of bits (after QuickScorer, Lucchese et al. 2015), the lowest score is
the lowest bit set, and cutting a box is one `and` per word. The sum of the lowest scores bounds the score of the box
from below. Groups begin as single trees; merging two of them (all pairs of leaves that overlap) tightens the bound
(Chen et al. 2019, arXiv 1906.03849).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tabular.trees.reach import Cells

DONE, FLIP, FULL, PAUSE = 0, 1, 2, 3
"""Why `descend` comes back: no box is left; a flip is to be judged; no room for near ties; its quota is spent."""

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


class Stack(NamedTuple):
    """Open boxes: (depth, columns) int16 `low` and `high`, (depth, words) uint64 `words`, (depth,) float64 `bound`."""

    low: np.ndarray
    high: np.ndarray
    words: np.ndarray
    bound: np.ndarray


@intrinsic
def _lowest(typingctx, word):  # noqa: ANN001, ANN202, ARG001 - the signature numba asks for
    """Position of the lowest bit that is set."""
    def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202, ARG001
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))
    return types.int64(types.uint64), codegen


@intrinsic
def _highest(typingctx, word):  # noqa: ANN001, ANN202, ARG001
    """Position of the highest bit that is set."""
    def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202, ARG001
        return builder.sub(ir.Constant(ir.IntType(64), 63), builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1)))
    return types.int64(types.uint64), codegen


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


@njit(cache=True, nogil=True)
def _cut(groups, words, mask, out):  # noqa: ANN001, ANN202
    """Leaves of a box after a cut, and the lower bound of its score."""
    total = groups.constant
    for g in range(len(groups.words) - 1):
        fresh = True
        for w in range(groups.words[g], groups.words[g + 1]):
            left = words[w] & mask[w]
            out[w] = left
            if fresh and left:
                total += groups.score[w * 64 + _lowest(left)]
                fresh = False
    return total


@njit(cache=True, nogil=True)
def enter(groups: Groups, stack: Stack, at: int) -> None:
    """Fill in the words and the bound of the box at `stack.low[at] .. stack.high[at]`."""
    words = stack.words[at]
    words[:] = groups.every
    for f in range(len(groups.row)):
        _cut(groups, words, groups.from_[groups.row[f] + stack.low[at, f]], words)
        stack.bound[at] = _cut(groups, words, groups.upto[groups.row[f] + stack.high[at, f]], words)


@njit(cache=True, nogil=True)
def _box_distance(cells, low, high):  # noqa: ANN001, ANN202
    farthest = 0.0
    for f in range(len(low)):
        farthest = max(farthest, cells.distance[f, min(max(cells.own[f], low[f]), high[f])])
    return farthest


@njit(cache=True, nogil=True)
def _related(cells, factors, limits, low, high, limit):  # noqa: ANN001, ANN202
    """Whether each relation by itself can hold somewhere in the box, nearer than the limit."""
    for r in range(len(limits)):
        total = 0.0
        for f in range(len(low)):
            at, far = cells.near[f, cells.own[f]], limit * cells.scale[f]
            if cells.step[f] > 0:
                far = np.floor(far + 1e-9)
            if factors[r, f] > 0:
                total += factors[r, f] * max(cells.least[f, low[f]], at - far)
            elif factors[r, f] < 0:
                total += factors[r, f] * min(cells.most[f, high[f]], at + far)
        if total > limits[r]:
            return False
    return True


@njit(cache=True, nogil=True)
def _choose(groups, words, bound, low, high, scratch):  # noqa: ANN001, ANN202
    """Where to cut: of the sides of one leaf, the one after which the bounds of both halves rise most. The leaf is the
    lowest of the group whose leaves differ most, or -1 when each group has one leaf left. As leaves of a group are
    disjoint, one of its sides does cut the box."""
    widest, leaf = -1.0, -1
    for g in range(len(groups.words) - 1):
        a, b = -1, -1
        for w in range(groups.words[g], groups.words[g + 1]):
            if words[w]:
                if a < 0:
                    a = w * 64 + _lowest(words[w])
                b = w * 64 + _highest(words[w])
        if a != b and groups.score[b] - groups.score[a] > widest:
            widest, leaf = groups.score[b] - groups.score[a], a
    best, column, cell = -1.0, -1, 0
    if leaf >= 0:
        for f in range(len(low)):
            for at in (np.int64(groups.low[leaf, f]), np.int64(groups.high[leaf, f] + 1)):
                if low[f] < at <= high[f]:
                    below = _cut(groups, words, groups.upto[groups.row[f] + at - 1], scratch)
                    above = _cut(groups, words, groups.from_[groups.row[f] + at], scratch)
                    rise = min(below, 0.0) + min(above, 0.0) - 2 * bound  # above 0 a half is closed: more is no better
                    if column < 0 or rise > best:
                        best, column, cell = rise, f, at
    return leaf, column, cell


@njit(cache=True, nogil=True)
def descend(groups: Groups, cells: Cells, stack: Stack, top: int, limit: float, slack: float, factors: np.ndarray,
            limits: np.ndarray, quota: int, flip: np.ndarray, ties: np.ndarray) -> tuple[int, int, int, float, int]:
    """Branch and bound over the first `top` boxes of the stack, for flips nearer than `limit`.

    Without relations a sure flip lowers the limit at once; with relations the caller judges it. Where rounding decides,
    the box is put aside in `ties`, and the caller asks the model itself.

    Args:
        flip: (2, columns) int16, receives the box of the last flip.
        ties: (room, 2, columns) int16, receives boxes on which the model is constant but its label is uncertain.

    Returns:
        Status, boxes left, boxes looked at, limit, near ties put aside.
    """
    near = 0
    low, high = np.empty_like(stack.low[0]), np.empty_like(stack.high[0])
    words, scratch = np.empty_like(groups.every), np.empty_like(groups.every)
    nodes = 0
    while top > 0:
        if nodes >= quota:
            return PAUSE, top, nodes, limit, near
        top -= 1
        nodes += 1
        low[:], high[:], words[:] = stack.low[top], stack.high[top], stack.words[top]
        bound, empty = stack.bound[top], False
        for f in range(len(low)):  # the limit may have come down since the box was put there
            a, b = low[f], high[f]
            while low[f] <= high[f] and low[f] < cells.own[f] and cells.distance[f, low[f]] >= limit:
                low[f] += 1
            while low[f] <= high[f] and high[f] > cells.own[f] and cells.distance[f, high[f]] >= limit:
                high[f] -= 1
            if low[f] > high[f]:
                empty = True
                break
            if a != low[f]:
                bound = _cut(groups, words, groups.from_[groups.row[f] + low[f]], words)
            if b != high[f]:
                bound = _cut(groups, words, groups.upto[groups.row[f] + high[f]], words)
        if empty or bound > slack or not _related(cells, factors, limits, low, high, limit):
            continue
        leaf, column, cell = _choose(groups, words, bound, low, high, scratch)
        if leaf < 0:  # the model is constant on this box
            if bound >= -slack:
                ties[near, 0], ties[near, 1] = low, high
                near += 1
                if near == len(ties):
                    return FULL, top, nodes, limit, near
                continue
            flip[0], flip[1] = low, high
            if len(limits):
                return FLIP, top, nodes, limit, near
            limit = _box_distance(cells, low, high)
            continue
        # The half that holds the leaf is the more promising one: it goes on top.
        upper = top + 1 if cell == groups.low[leaf, column] else top
        lower = 2 * top + 1 - upper
        stack.low[top:top + 2], stack.high[top:top + 2] = low, high
        stack.low[upper, column], stack.high[lower, column] = cell, cell - 1
        stack.bound[lower] = _cut(groups, words, groups.upto[groups.row[column] + cell - 1], stack.words[lower])
        stack.bound[upper] = _cut(groups, words, groups.from_[groups.row[column] + cell], stack.words[upper])
        top += 2
    return DONE, top, nodes, limit, near
