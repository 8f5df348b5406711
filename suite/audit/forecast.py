"""How long an audit still takes: from what like cells took, and from a count of passes until there are any.

A cell that has not run is like one of the same kind, attack and hyper-parameters on another model or behind another
defense. Where none of these has finished, the passes that it may take at most stand for it, in the median time that a
pass of finished cells took. Behind another defense fewer rows may fall early, so that an evasion attack takes longer
than the like cell did: its time is the geometric mean of that and of its passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from statistics import median
from typing import Any

from suite.attacks.transfer import Transfer
from suite.audit.layout import Cell, Layout
from suite.core.attack import (
    AttributeAttack,
    EvasionAttack,
    ExtractionAttack,
    InversionAttack,
    MembershipAttack,
    PoisoningAttack,
    PrivacyAudit,
)
from suite.core.defense import Front

PASS = 3.0
"""What a forward pass with its input-gradient or weight-gradient pass takes, in forward passes."""
SHARE = 0.5
"""Of the passes that an evasion attack may take at most, about so many are taken: rows that are fooled leave early."""
MEMBERS = 4
"""Attacks in an ensemble that ends in one by queries."""
ADAPTIVE = 300
"""Steps of the attacks that know a detector."""
CHECKS = 100
"""Steps of the checks for masked gradients."""


class Forecast:
    """Seconds that the unfinished cells of an audit still take.

    Args:
        layout: The audit; nothing of it is run.
        jobs: Processes at work on it.
    """

    def __init__(self, layout: Layout, jobs: int = 1) -> None:
        self.jobs = jobs
        self._kinds = {cell.key: _kind(cell) for cell in layout.cells}
        self._work = {cell.key: work(cell, layout) for cell in layout.cells}
        self._defense = {cell.key: cell.defense.name for cell in layout.cells}
        self._evasion = {cell.key for cell in layout.cells
                         if cell.attack and isinstance(layout.attacks[id(cell.attack)], EvasionAttack)}
        self._done: dict[str, float] = {}

    def finished(self, key: str, seconds: float) -> None:
        """A cell has finished, and took so long."""
        self._done[key] = seconds

    @property
    def sure(self) -> bool:
        """Whether anything is known that a time could be computed from: a training or an attack has finished."""
        return any(self._work[key] > 1 for key in self._done)

    def expected(self, key: str) -> float:
        """Seconds that a cell takes in all."""
        if key in self._done:
            return self._done[key]
        usual = median([self._pace([k]) for k in self._done if self._work[k] > 1] or [0.0])
        like = [other for other in self._done if self._kinds[other] == self._kinds[key]]
        if not like:
            return usual * self._work[key]
        pace = self._pace(like)
        if key in self._evasion and self._defense[key] not in {self._defense[k] for k in like}:
            pace = math.sqrt(pace * max(pace, usual))
        return pace * self._work[key]

    def _pace(self, keys: list[str]) -> float:
        """Seconds that a pass of some finished cells took."""
        return sum(self._done[k] for k in keys) / max(sum(self._work[k] for k in keys), 1e-9)

    def left(self, running: dict[str, float] | None = None) -> float:
        """Seconds until all cells are finished.

        Args:
            running: Cells at work, and for how many seconds each has been.
        """
        gone = {key: (running or {}).get(key, 0.0) for key in self._kinds if key not in self._done}
        # a cell that takes longer than expected is not over yet
        rest = [max(self.expected(key) - so_far, so_far / 4) for key, so_far in gone.items()]
        return max([sum(rest) / self.jobs, *rest], default=0.0)  # one cell is not shared out


def _kind(cell: Cell) -> tuple[Any, ...]:
    """Equal for like cells."""
    item = cell.attack or cell.detector or (cell.defense if cell.what == "fit" else None)
    return cell.what, item and item.name, repr(item and sorted(item.params.items())), item and item.rows


def work(cell: Cell, layout: Layout) -> float:
    """About how many forward passes a cell takes, over one row each."""
    train, test = len(layout.data.train), len(layout.data.test)
    rows = min([test, *(n for n in (layout.plan.rows, cell.attack and cell.attack.rows) if n)])
    fit = training(layout, cell)
    if cell.what == "fit":
        return 2.0 * test if isinstance(layout.defenses[cell.defense.name], Front) else fit + test
    if cell.what == "attack":
        return _attacking(cell, layout, rows, fit)
    if cell.what == "detect":
        return PASS * train + rows * ADAPTIVE * PASS
    return rows * CHECKS * PASS if cell.what == "worst-case" else 1.0


def _attacking(cell: Cell, layout: Layout, rows: int, fit: float) -> float:
    """As `work`, of an attack on some rows against a model whose training takes `fit`."""
    attack, val, test = layout.attacks[id(cell.attack)], len(layout.data.val), len(layout.data.test)
    if isinstance(attack, EvasionAttack):
        ladder = layout.plan.norms.get(attack.norm, layout.plan)
        rungs = 1 if attack.minimal or attack.norm == "own" else len(ladder.budgets)
        if own := getattr(attack, "own", 0):  # one pattern, crafted on the attacker's own rows
            return rungs * (min(own, val) * per_row(attack) + rows)
        surrogate = training(layout, cell, plain=True) * val / len(layout.data.train)
        return SHARE * rows * rungs * per_row(attack) + (surrogate if isinstance(attack, Transfer) else 0.0)
    if isinstance(attack, PrivacyAudit):
        return getattr(attack, "runs", 1) * fit + test
    if isinstance(attack, MembershipAttack):
        return getattr(attack, "shadows", 0) * fit + 2 * rows * per_row(attack)
    if isinstance(attack, AttributeAttack | ExtractionAttack | InversionAttack):
        return test * per_row(attack)
    return 2 * fit if isinstance(attack, PoisoningAttack) else fit


def training(layout: Layout, cell: Cell, plain: bool = False) -> float:
    """Forward passes of training the model of a cell behind its defense, or without one."""
    recipe, defense = layout.models[cell.model.name], layout.defenses[cell.defense.name]
    epochs = getattr(recipe, "epochs", 1)
    once = PASS * len(layout.data.train) * epochs
    if plain or isinstance(defense, Front):
        return once
    params = asdict(defense)
    # a piloted budget trains once more for each try that is rejected, of which there is about one
    many = 1.0 + params.get("steps", 0) + (1.0 if "grid" in params else 0.0)
    many *= params.get("members", 1) * (2 if "temperature" in params else 1)
    own = params.get("epochs")
    return once * many * (own / epochs if own and "rounds" not in params else 1.0)


def per_row(attack: Any) -> float:
    """Forward passes a row that an attack takes at most, read off its hyper-parameters."""
    params = asdict(attack)
    steps = next((params[name] for name in ("steps", "max_iter", "generations", "passes") if params.get(name)), 1)
    queries = params.get("queries", 0)
    if attack.needs == "gradients":
        tries = params.get("restarts", 1) * params.get("search", 1)
        return PASS * steps * tries * (MEMBERS if queries else 1) + queries
    if "angles" in params:  # every angle at every place
        return float(params.get("draws") or params["angles"] * params["shifts"] ** 2)
    each = next((params[name] for name in ("samples", "population", "max_eval", "coordinates") if params.get(name)), 1)
    return float(queries or steps * each * (params.get("draws") or 1))


def replay(layout: Layout, seconds: dict[str, float], order: Iterable[str], jobs: int = 1,
           at: Callable[[float, float, float], None] = lambda *_: None) -> None:
    """Hold the forecast against a run that is over, cell by cell.

    Args:
        layout: The audit.
        seconds: What each cell took.
        order: In which order they ran, one after another.
        jobs: As for `Forecast`.
        at: Called after each cell with the seconds gone, those that are left, and those that were expected to be.
    """
    forecast, gone, total = Forecast(layout, jobs), 0.0, sum(seconds.values())
    for key in order:
        forecast.finished(key, seconds[key])
        gone += seconds[key]
        at(gone, total - gone, forecast.left())
