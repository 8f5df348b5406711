"""A whole federation in this process, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.app import Context

from federated.client_app import hospital
from federated.grid import FIRST, Border, Event, InProcessGrid, Tamper
from federated.server_app import Joined, Rule, rounds
from federated.task import Task
from suite.data import Split


def federate(task: Task, hospitals: Sequence[Split], rule: Rule, number: int, tamper: Tamper | None = None,
             event: Event = lambda *_: None) -> np.ndarray:
    """Train a task at hospitals that take part in every round.

    Args:
        task: What they train.
        hospitals: The training rows of each.
        rule: Joins their updates, as in `federated.aggregate`.
        number: Rounds.
        tamper: What hostile hospitals do, as `federated.collusion.Collusion`.
        event: Told what the border refused or missed ("refused", "absent"), and rounds without a result ("no result").

    Returns:
        (d,) float32 parameters; `task.classifier` makes a model of them.

    Raises:
        InputError: No hospitals, too few for the rule, or a rule that lacks what it needs.
    """
    def own(context: Context) -> tuple[Task, Split, int]:
        which = context.node_config["partition-id"]
        return task, hospitals[which], which

    counts = {FIRST + k: len(rows) for k, rows in enumerate(hospitals)}
    grid = Border(InProcessGrid(hospital(own), len(hospitals)), task.size, counts, tamper=tamper, event=event)
    return rounds(grid, Joined(rule, len(hospitals), event=event), task.initial(), number)
