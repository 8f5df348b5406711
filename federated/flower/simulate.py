"""A whole federation in this process, in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Context

from federated.aggregation.private import LocalDP
from federated.aggregation.rules import FlowerStrategy
from federated.flower.client_app import hospital
from federated.flower.grid import FIRST, NORM, Border, Event, InProcessGrid, Tamper
from federated.flower.server_app import Joined, Reference, Rule, rounds
from federated.task.task import Task
from suite.base.errors import InputError
from suite.core.data import Split


def federate(task: Task, hospitals: Sequence[Split], rule: Rule | FlowerStrategy, number: int,
             tamper: Tamper | None = None, event: Event = lambda *_: None, reference: Reference | None = None,
             seen: Callable[[int, np.ndarray], None] = lambda *_: None, done: Event = lambda *_: None) -> np.ndarray:
    """Train a task at hospitals that take part in every round.

    The border lets in changes as long as `reach` says.

    Args:
        task: What they train.
        hospitals: The training rows of each.
        rule: Joins their updates, as in `federated.aggregation.aggregate`; or one of Flower's strategies.
        number: Rounds.
        tamper: What hostile hospitals do, as `federated.attacks.collusion.Collusion`.
        event: Told what the border refused or missed ("refused", "absent"), and rounds without a result ("no result").
        reference: What a rule takes as its reference, as of `federated.flower.server_app.Joined`.
        seen: Told the parameters before the first round (0) and after each.
        done: Told of each hospital's work and of each round, as `InProcessGrid` and `Border` do.

    Returns:
        (d,) float32 parameters; `task.classifier` makes a model of them.

    Raises:
        InputError: No hospitals, too few for the rule, or a rule that lacks what it needs; or no round had a result,
            though nobody tampered with the replies, and the model is as untrained as before.
    """
    def own(context: Context) -> tuple[Task, Split, int]:
        which = context.node_config["partition-id"]
        return task, hospitals[which], which

    counts = {FIRST + k: len(rows) for k, rows in enumerate(hospitals)}
    watch = _Watch(event, done, isinstance(rule, FlowerStrategy))
    grid = Border(InProcessGrid(hospital(own), len(hospitals), done=done), task.size, counts, norm=reach(task),
                  tamper=tamper, event=watch.event, done=watch.done)
    strategy = (rule.made(len(hospitals)) if isinstance(rule, FlowerStrategy)
                else Joined(rule, len(hospitals), reference, watch.event))
    weights = rounds(grid, strategy, task.initial(), number, seen)
    if tamper is None and 0 < number == watch.empty:
        raise InputError(f"none of {number} rounds had a result, so that nothing was trained: {watch.whys[0]}")
    return weights


def reach(task: Task) -> float:
    """L2 norm of a change of the parameters that a hospital can honestly send.

    Under `LocalDP` its noise is as long as sqrt(d) standard deviations, and longer by six once in 10^7 times at most.
    """
    if not isinstance(task.private, LocalDP):
        return NORM
    return max(NORM, task.private.clip + task.private.std * (math.sqrt(task.size) + 6))


@dataclass
class _Watch:
    """Passes on what happens, and counts the rounds that had no result.

    Attributes:
        told, finished: Receive events, and what was done.
        silent: Whether the strategy itself does not tell of rounds without a result, as Flower's own.
        empty: Rounds without a result.
        whys: All reasons given, the first one first.
    """

    told: Event
    finished: Event
    silent: bool
    empty: int = 0
    whys: list[str] = field(default_factory=list)

    def event(self, what: str, facts: dict[str, Any]) -> None:
        self.empty += what == "no result"
        self.whys += [facts["why"]] if "why" in facts else []
        self.told(what, facts)

    def done(self, what: str, facts: dict[str, Any]) -> None:
        if self.silent and what == "round" and not facts["answered"]:
            self.event("no result", {"round": facts["round"], "answered": 0, "why": "nobody has answered"})
        self.finished(what, facts)
