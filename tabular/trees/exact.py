"""The exact robustness of one row of a tree ensemble, with certified bounds at any time and a replayed witness."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np

from suite.core.space import Space
from tabular.trees import search
from tabular.trees.ensemble import Ensemble
from tabular.trees.groups import Groups, Leaves, compile_box, leaf_distances, root_bound
from tabular.trees.reach import Cells, Reach
from tabular.trees.relate import bound, generous, nearest, resolution
from tabular.trees.search import Stack

Predict = Callable[[np.ndarray], np.ndarray]
"""(n, columns) float32 rows -> (n,) labels, by the model itself."""

FIRST_QUOTA = 1 << 13
"""Boxes looked at before the trees of a row are merged: most rows need far fewer, and merging costs milliseconds."""

ROUNDS = 3
"""Times that pairs of groups of trees are merged."""

GROWTH = 1.25
"""Each radius tried is this much larger than the last, until a flip is found."""

TIES = 256
"""Near ties that are put to the model at once."""

SHORTCUT = 3
"""Number of columns from which on some witness is sought before all subsets are searched."""

LEARNED = 32
"""Sums of relations kept per row."""

NODES, SECONDS = 1_000_000, 60.0
"""Limits of the search at one row: boxes, about 5 s on a processor of 2024, and a clock for slow or busy machines."""

PROGRAM, TIE, SUBSET = 1_000, 50, 20
"""Boxes that a linear or mixed-integer program, a near tie put to the model, and a subset of columns count as: about
what they cost."""

Limit = Literal["", "nodes", "clock"]
"""What cut a search short; "" where it ended by itself."""


@dataclass(frozen=True)
class Robustness:
    """How little must change for the prediction to change.

    Attributes:
        lower: Proven: no possible patient nearer than this has another prediction. Infinite: none at all has.
        upper: Distance of the witness; infinite without one.
        witness: (columns,) float32 possible patient with another prediction by the model itself, or `None`.
        exact: `lower` and `upper` meet; with relations, up to about 1e-5, as those have slack.
        seconds: Time it took.
        nodes: Boxes looked at; what costs more counts as several, see `PROGRAM`.
        cut_by: "nodes" where that limit ended the search before `lower` and `upper` met; "clock" where the clock ended
            it, met or not: another machine may find a nearer witness.
    """

    lower: float
    upper: float
    witness: np.ndarray | None
    exact: bool
    seconds: float
    nodes: int
    cut_by: Limit = ""


def solve(ensemble: Ensemble, predict: Predict, space: Space | Reach, x: np.ndarray,
          norm: Literal["linf", "l0"] = "linf", eps: float = np.inf, nodes: int = NODES,
          seconds: float = SECONDS, label: int | None = None) -> Robustness:
    """The least change of a row that changes its prediction, among all possible patients.

    Args:
        ensemble: The leaf boxes of the model.
        predict: Labels of (n, columns) float32 rows by the model itself: it replays witnesses and decides where
            rounding could go either way.
        space: The possible patients, or `Reach(ensemble, space)` to share work between rows.
        x: (columns,) float32 row in data units.
        norm: "linf", the largest change of a column in units of the space's scale; or "l0", the number of columns
            changed, and among equals the one with the least "linf" that the limits allow.
        eps: Look for changes up to this largest change only.
        nodes: Boxes, at least 1, after which the bounds found so far are returned: the same on every machine.
        seconds: Time after which they are returned in any case.
        label: The model's label of `x`, if it is known already.

    Returns:
        Bounds and witness. When there is no flip within a finite `eps`, lower is `eps` for "linf" (the truth may be
        anything above) and infinite for "l0" (no number of columns changed within `eps` is enough).
    """
    _compile_kernels()
    return _solve(ensemble, predict, space, x, norm, eps, nodes, seconds, label)


@cache
def _compile_kernels() -> None:
    """Solve a stump, so that no row pays for compilation (seconds on a fresh installation, nothing later)."""
    cells = np.array([[0], [1]], np.int32)
    stump = Ensemble((np.zeros(1, np.float32),), cells, cells, np.eye(2), np.array([0, 2]), np.zeros(2), 0.0)
    _solve(stump, lambda z: stump.margin(z).argmax(1), Space(-1.0, 1.0), np.ones(1, np.float32), "linf", np.inf, NODES,
           np.inf, label=1)


def _solve(ensemble: Ensemble, predict: Predict, space: Space | Reach, x: np.ndarray, norm: str, eps: float,
           nodes: int, seconds: float, label: int | None) -> Robustness:
    started = time.perf_counter()
    reach = space if isinstance(space, Reach) else Reach(ensemble, space)
    x = np.ascontiguousarray(x, np.float32)
    label = int(predict(x[None])[0]) if label is None else label
    own = ensemble.cells(x[None])[0]
    row = _Row(ensemble, predict, reach, x, label, reach.cells(x, own), eps)
    rivals = [k for k in range(ensemble.classes) if k != label]
    lower = np.inf
    for turn, rival in enumerate(rivals):
        left, now = len(rivals) - turn, time.perf_counter()
        hunt = _Rival(row, rival, row.nodes + max((nodes - row.nodes) // left, 1),
                      now + (started + seconds - now) / left)
        lower = min(lower, hunt.nearest() if norm == "linf" else hunt.fewest())
    if norm == "linf":
        upper = row.limit if row.witness is not None else np.inf
        lower = min(lower, upper, np.inf if row.complete else eps)
    else:
        upper = row.changed
        lower = min(lower, upper)
    if row.witness is not None and predict(row.witness[None])[0] == label:
        # The model contradicts its own trees, so nothing that was concluded from them can be trusted.
        lower, upper, row.witness = 0.0, np.inf, None
    exact = bool(lower == upper or upper - lower <= row.resolution)
    return Robustness(float(lower), float(upper), row.witness, exact, time.perf_counter() - started, row.nodes,
                      "" if exact and row.cut_by == "nodes" else row.cut_by)


class _Row:
    """What the searches against all rivals of one row share: above all, the best witness so far."""

    def __init__(self, ensemble: Ensemble, predict: Predict, reach: Reach, x: np.ndarray, label: int, cells: Cells,
                 eps: float) -> None:
        self.ensemble, self.predict, self.reach = ensemble, predict, reach
        self.x, self.label, self.cells = x, label, cells
        self.start = self.limit = eps * (1 + 1e-6)  # a change of just eps, in float32, may be a little more
        farthest = cells.distance
        if reach.relations[0].size:  # they may ask for more than the nearest value of a cell
            farthest = np.maximum(x[:, None] - cells.least, cells.most - x[:, None]) / reach.scale[:, None]
        self.complete = self.limit == np.inf or bool(self.limit > farthest[np.isfinite(cells.distance)].max())
        """Whether the limit leaves out nothing that can be reached."""
        self.witness: np.ndarray | None = None
        self.changed = np.inf
        self.resolution = resolution(reach)
        self.counting = False
        """Whether the fewest columns are sought, and not the nearest patient."""
        self.nodes = 0
        self.cut_by: Limit = ""

    def improve(self, z: np.ndarray, distance: float) -> None:
        changed = int((z != self.x).sum())
        if not self.counting or changed <= self.changed:
            self.witness, self.limit, self.changed = z, distance, changed

    def point(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, float]:
        """The possible values of a box that are nearest to the row, relations aside, and their distance."""
        at = np.clip(self.cells.own, low, high)
        index = np.arange(len(at))
        return self.cells.near[index, at].astype(np.float32), float(self.cells.distance[index, at].max())

    def distance(self, z: np.ndarray) -> float:
        return float((np.abs(z.astype(np.float64) - self.x) / self.reach.scale).max())


class _Rival:
    """The search for a flip to one other class: where score[label] - score[rival] is not positive."""

    def __init__(self, row: _Row, rival: int, nodes: int, deadline: float) -> None:
        self.row, self.nodes, self.deadline = row, nodes, deadline
        e, cells = row.ensemble, row.cells
        score = e.scores[:, row.label] - e.scores[:, rival]
        self.constant = float(e.bias[row.label] - e.bias[rival])
        low, high = np.empty(e.low.shape, np.int16), np.empty(e.low.shape, np.int16)
        self.distances = np.empty(len(e.low))
        leaf_distances(e.low, e.high, cells, low, high, self.distances)
        self.leaves = Leaves(low, high, score, e.starts)
        self.relations = row.reach.relations[0], generous(row.reach)
        self.tolerance = row.resolution / 2
        """Gains too small to look for."""
        self.cells = cells
        """The cells of the row; where the fewest columns are sought, those that stay put are pinned to its values."""
        self.unsettled, self.barren = np.inf, False
        """Distance of the nearest box whose witness lies farther off than is proven; whether a box yielded none."""

    def _over(self) -> bool:
        """Whether a limit cuts the search that is not finished yet."""
        if self.row.nodes >= self.nodes:
            self.row.cut_by = self.row.cut_by or "nodes"
        elif time.perf_counter() > self.deadline:
            self.row.cut_by = "clock"
        else:
            return False
        return True

    # ---- the nearest flip

    def nearest(self) -> float:
        """Search for the nearest flip; returns the proven lower bound, at most the limit of the row."""
        row, cells = self.row, self.row.cells
        steps = np.unique(cells.distance[np.isfinite(cells.distance)])
        steps = np.r_[steps[steps < row.limit], np.inf]
        lower = steps[self._first_open(steps)]
        target, quota, pull = lower, FIRST_QUOTA, 1.0
        while lower < row.limit and not self._over():
            if row.witness is None:
                wanted = steps[np.searchsorted(steps, target, side="right"):]
                target = min(row.limit, wanted[0] if len(wanted) else np.inf)
            else:
                target = lower + pull * (row.limit - lower)
            if self._sweep(target, quota, merged=quota > FIRST_QUOTA):
                lower, pull = min(target, row.limit), 1.0
                target = lower * GROWTH
            elif row.witness is None and target < row.limit:
                target *= GROWTH
            else:
                target, quota, pull = lower, quota * 2, pull / 2
        closest = max(row.limit - self.tolerance, 0.0) if row.limit < row.start else row.limit
        return min(lower, closest, self.unsettled)

    def _first_open(self, steps: np.ndarray) -> int:
        """The first distance at which the bound of the trees, each by itself, leaves a flip open."""
        a, b = 0, len(steps) - 1
        while a < b:
            middle = (a + b) // 2
            bound = root_bound(self.leaves, self.distances, np.nextafter(steps[middle], np.inf))
            a, b = (middle + 1, b) if bound + self.constant > self.row.ensemble.slack else (a, middle)
        return a

    def _sweep(self, target: float, quota: int, merged: bool) -> bool:
        """Search all that is nearer than `target`; whether it was finished. Witnesses lower the limit of the row."""
        low, high = self._inside(target)
        groups, stack = self._compile(target, low, high, merged)
        return self._descend(groups, stack, low, high, target, quota)

    def _inside(self, limit: float) -> tuple[np.ndarray, np.ndarray]:
        """First and last cell of each column that are nearer than `limit`."""
        inside = self.row.cells.distance < limit
        low = inside.argmax(1)
        return low.astype(np.int16), (low + inside.sum(1) - 1).astype(np.int16)

    def _compile(self, limit: float, low: np.ndarray, high: np.ndarray, merged: bool) -> tuple[Groups, Stack]:
        rounds = ROUNDS if merged else 0
        groups = compile_box(self.leaves, self.distances, limit, low, high, self.constant, rounds)
        depth, columns = int((high - low).sum()) + 2, len(low)
        stack = Stack(np.empty((depth, columns), np.int16), np.empty((depth, columns), np.int16),
                      np.empty((depth, len(groups.every)), np.uint64), np.empty(depth))
        return groups, stack

    def _descend(self, groups: Groups, stack: Stack, low: np.ndarray, high: np.ndarray, target: float, quota: int
                 ) -> bool:
        row, top = self.row, 1
        stack.low[0], stack.high[0] = low, high
        search.enter(groups, stack, 0)
        flip, ties = np.empty((2, len(low)), np.int16), np.empty((TIES, 2, len(low)), np.int16)
        while True:
            limit = min(target, row.limit - self.tolerance if row.limit < row.start else np.inf)
            once = min(quota, max(256, 1_000_000 // (len(groups.every) + 1)), max(self.nodes - row.nodes, 0))
            status, top, nodes, reached, near = search.descend(
                groups, self.cells, stack, top, limit, row.ensemble.slack, *self.relations, once, flip, ties)
            row.nodes += nodes
            quota -= nodes
            if reached < limit:
                row.improve(*row.point(*flip))
            if status == search.FLIP:
                self._settle(flip)
            if near and not self._ask(ties[:near]):
                return False
            if status == search.DONE:
                return True
            if quota <= 0 or self._over():
                return False

    def _ask(self, boxes: np.ndarray) -> bool:
        """Near ties: let the model itself say on which of the boxes it flips; whether all of those were settled."""
        self.row.nodes += TIE * len(boxes)
        labels = self.row.predict(np.stack([self.row.point(*box)[0] for box in boxes]))
        for box in boxes[labels != self.row.label]:
            if self._over():
                return False
            self._settle(box)
        return True

    def _settle(self, box: np.ndarray) -> None:
        """The model flips on all of this box: take the nearest possible patient in it as witness, if there is one."""
        row = self.row
        z, distance = row.point(*box)
        if distance >= row.limit:
            return
        if row.reach.contains(z, row.x):
            row.improve(z, distance)
            return
        row.nodes += PROGRAM
        nearer, weights = bound(row.reach, self.cells, row.x, *box)
        self._learn(weights)
        if nearer >= row.limit:
            return
        _, limits, slack = row.reach.relations
        row.nodes += PROGRAM
        z, at_least = nearest(row.reach, self.cells, row.x, *box, generous(row.reach))
        nearer = max(distance, at_least - self.tolerance / 4)
        if nearer >= row.limit:
            return
        # What the space accepts lies a little inside of what no patient exceeds.
        for strict in (limits + slack, limits + slack / 2, limits):
            if z is not None and row.reach.contains(z, row.x):
                found = row.distance(z)
                if found < row.limit:
                    row.improve(z, found)
                if found - nearer > self.tolerance:
                    self.unsettled = min(self.unsettled, nearer)
                return
            row.nodes += PROGRAM
            z, _ = nearest(row.reach, self.cells, row.x, *box, strict)
        self.unsettled, self.barren = min(self.unsettled, nearer), True

    def _learn(self, weights: np.ndarray) -> None:
        """Keep the weighted sum of relations that ruled out a box: it will rule out others inside the kernel."""
        factors, limits = self.relations
        if (weights > 0).sum() > 1 and len(limits) < len(weights) + LEARNED:
            weights = weights / weights.max()
            self.relations = (np.vstack([factors, weights @ factors[:len(weights)]]),
                              np.r_[limits, weights @ limits[:len(weights)]])

    # ---- the fewest columns

    def fewest(self) -> float:
        """Search for the fewest columns; returns the proven lower bound."""
        row = self.row
        row.counting = True
        box = self._inside(row.start)
        layout = self._compile(row.start, *box, merged=False)
        # A column that the model cannot tell apart may still have to move for the sake of a relation.
        at = np.arange(len(row.x)), row.cells.own
        loose = self.relations[0].any(0) & (row.cells.least[at] < row.cells.most[at])
        movable, proven = np.flatnonzero((box[0] < box[1]) | loose), np.inf
        for size in range(1, len(movable) + 1):
            if size == SHORTCUT and row.witness is None:
                self._shortcut(layout, box, movable)
            if size > row.changed:
                break
            row.limit = row.start if size < row.changed else row.distance(row.witness)
            for columns in combinations(movable, size):
                finished = self._change(layout, box, columns, 1 << 62)
                if not finished or self.barren:
                    proven = min(proven, size)
                if not finished:
                    return proven
        return min(proven, row.changed)

    def _change(self, layout: tuple[Groups, Stack], box: tuple[np.ndarray, np.ndarray], columns: Sequence[int],
                quota: int) -> bool:
        """Search among changes of these columns only; whether it was finished."""
        if self._over():
            return False
        self.row.nodes += SUBSET
        fixed = np.ones(len(self.row.x), bool)
        fixed[list(columns)] = False
        if self.relations[0].size:
            self._pin(fixed)
        low, high = (np.where(fixed, self.row.cells.own, side) for side in box)
        return self._descend(*layout, low, high, np.inf, quota)

    def _shortcut(self, layout: tuple[Groups, Stack], box: tuple[np.ndarray, np.ndarray],
                  columns: Sequence[int]) -> None:
        """Some witness, for an upper bound in time: from all columns that it changes, drop one after the other."""
        row = self.row
        self._change(layout, box, columns, FIRST_QUOTA)
        for f in columns:
            if row.witness is not None and row.witness[f] != row.x[f]:
                row.limit, changed = row.start, np.flatnonzero(row.witness != row.x)
                self._change(layout, box, changed[changed != f], FIRST_QUOTA // 8)
        self.barren = False

    def _pin(self, fixed: np.ndarray) -> None:
        """Keep relations from moving a fixed column inside of its cell."""
        at, own = np.flatnonzero(fixed), self.row.cells.own[fixed]
        least, most = self.row.cells.least.copy(), self.row.cells.most.copy()
        least[at, own] = most[at, own] = self.row.x[fixed]
        self.cells = self.row.cells._replace(least=least, most=most)
