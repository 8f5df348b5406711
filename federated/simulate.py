"""A whole federation in this process, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from flwr.app import Context

from federated.client_app import hospital
from federated.grid import FIRST, Border, Event, InProcessGrid, Tamper
from federated.rules import FlowerStrategy
from federated.server_app import Joined, Reference, Rule, rounds
from federated.task import Task
from suite.data import Split


def federate(task: Task, hospitals: Sequence[Split], rule: Rule | FlowerStrategy, number: int,
             tamper: Tamper | None = None, event: Event = lambda *_: None, reference: Reference | None = None,
             seen: Callable[[int, np.ndarray], None] = lambda *_: None, done: Event = lambda *_: None) -> np.ndarray:
    """Train a task at hospitals that take part in every round.

    Args:
        task: What they train.
        hospitals: The training rows of each.
        rule: Joins their updates, as in `federated.aggregate`; or one of Flower's strategies.
        number: Rounds.
        tamper: What hostile hospitals do, as `federated.collusion.Collusion`.
        event: Told what the border refused or missed ("refused", "absent"), and rounds without a result ("no result").
        reference: What a rule takes as its reference, as of `federated.server_app.Joined`.
        seen: Told the parameters before the first round (0) and after each.
        done: Told of each hospital's work and of each round, as `InProcessGrid` and `Border` do.

    Returns:
        (d,) float32 parameters; `task.classifier` makes a model of them.

    Raises:
        InputError: No hospitals, too few for the rule, or a rule that lacks what it needs.
    """
    def own(context: Context) -> tuple[Task, Split, int]:
        which = context.node_config["partition-id"]
        return task, hospitals[which], which

    counts = {FIRST + k: len(rows) for k, rows in enumerate(hospitals)}
    grid = Border(InProcessGrid(hospital(own), len(hospitals), done=done), task.size, counts, tamper=tamper,
                  event=event, done=done)
    strategy = (rule.made(len(hospitals)) if isinstance(rule, FlowerStrategy)
                else Joined(rule, len(hospitals), reference, event))
    return rounds(grid, strategy, task.initial(), number, seen)
