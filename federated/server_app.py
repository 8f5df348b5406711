"""The server's side: rounds of a federation on any of Flower's grids, with any rule that joins updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from federated.client_app import COUNT, WEIGHTS, packed
from federated.grid import Border

Rule = Callable[[Tensor, Tensor], Tensor]
"""`((n, d) changes of the parameters, (n,) counts) -> (d,) change`, as in `federated.aggregate`."""


class Joined(FedAvg):
    """Rounds in which all hospitals take part and a rule joins their changes of the parameters.

    Args:
        rule: Joins them.
        sites: How many hospitals there are; a round waits for all of them to be connected.
    """

    def __init__(self, rule: Rule, sites: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=sites)
        self.rule, self._came = rule, np.empty(0, np.float32)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord,
                        grid: Grid) -> Iterable[Message]:
        self._came = arrays[WEIGHTS].numpy()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int,
                        replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = [r for r in replies if not r.has_error()]
        if not replies:
            return None, None
        came = torch.from_numpy(np.array(self._came))
        changes = torch.stack([torch.from_numpy(np.array(r.content["arrays"][WEIGHTS].numpy())) - came
                               for r in replies])
        counts = torch.tensor([float(r.content["metrics"][COUNT]) for r in replies])
        return packed((came + self.rule(changes, counts)).numpy()), MetricRecord({"hospitals": len(replies)})


def rounds(grid: Border, strategy: FedAvg, initial: np.ndarray, number: int,
           seen: Callable[[int, np.ndarray], None] = lambda *_: None) -> np.ndarray:
    """Carry out a federation.

    Args:
        grid: Carries the messages, and checks the replies.
        strategy: `Joined`, or one of Flower's.
        initial: (d,) float32 parameters to start from.
        number: Rounds.
        seen: Told the parameters before the first round (0) and after each.

    Returns:
        (d,) float32 parameters after the last round; those of the last round in which anybody answered.
    """
    def told(turn: int, arrays: ArrayRecord) -> Any:
        seen(turn, arrays[WEIGHTS].numpy())

    result = strategy.start(grid=grid, initial_arrays=packed(initial), num_rounds=number, evaluate_fn=told)
    return result.arrays[WEIGHTS].numpy() if len(result.arrays) else initial
