"""Compiled branch and bound over boxes, which are ranges of cells per column.

The sum over all groups of trees of the lowest score met in a box bounds the score of the box from below, so a box whose
bound is positive holds no flip. Other boxes are cut in two until the model is constant on them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tabular.trees.groups import Groups
from tabular.trees.reach import Cells

DONE, FLIP, FULL, PAUSE = 0, 1, 2, 3
"""Why `descend` comes back: no box is left; a flip is to be judged; no room for near ties; its quota is spent."""


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
