"""The server's side: rounds of a federation on any of Flower's grids, with any rule that joins updates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from federated.flower.client_app import COUNT, TURN, WEIGHTS, packed, unpacked
from federated.flower.grid import Border, Event
from suite.base.errors import InputError

Rule = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`((n, d) changes of the parameters, (n,) counts, (d,) reference or None) -> (d,) change`, as in
`federated.aggregation.aggregate`."""
Reference = Callable[[int, np.ndarray], Tensor | None]
"""`(round, (d,) parameters that came in) -> (d,)` what a rule takes as its reference, or None."""
WAIT = 600.0
"""Seconds after which hospitals that have not connected are not waited for any longer."""


class Joined(FedAvg):
    """Rounds in which all hospitals take part and a rule joins their changes of the parameters.

    A round in which too few have answered for the rule is told to `event`, and leaves the model as it was. Rules that
    draw at random draw anew each round.

    Args:
        rule: Joins them.
        sites: How many hospitals there are; the first round waits for all of them to be connected.
        reference: Of a round and the (d,) parameters that came in, what the rule takes as its reference, for example
            the server's own change; left out, the change of the last round, and None in the first.
        event: Told of rounds without a result.

    Raises:
        InputError: No hospitals, or too few for the rule.
    """

    def __init__(self, rule: Rule, sites: int, reference: Reference | None = None,
                 event: Event = lambda *_: None) -> None:
        if sites < 1:
            raise InputError("a federation needs hospitals, and there are none")
        super().__init__(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=sites)
        self.rule, self.event = rule, event
        self._reference = reference or (lambda *_: self._last)
        self._came, self._last = np.empty(0, np.float32), None
        self._check(sites)

    def _check(self, sites: int) -> None:
        """Raise `InputError` where the rule cannot join the updates of so few."""
        check = getattr(self.rule, "check", None)
        if check:
            check(sites)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord,
                        grid: Grid) -> Iterable[Message]:
        """One message to each hospital, by number; Flower would draw them from Python's global generator."""
        self._came, config[TURN] = arrays[WEIGHTS].numpy(), server_round
        nodes = connected(grid, self.min_available_nodes if server_round == 1 else 0)
        return self._construct_messages(RecordDict({"arrays": arrays, "config": config}), nodes, MessageType.TRAIN)

    def aggregate_train(self, server_round: int,
                        replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        try:
            if not replies:
                raise InputError("nobody has answered")
            self._check(len(replies))
        except InputError as e:
            self.event("no result", {"round": server_round, "answered": len(replies), "why": str(e)})
            return None, None
        changes = np.empty((len(replies), len(self._came)), np.float32)
        for change, reply in zip(changes, replies, strict=True):
            np.subtract(unpacked(reply.content["arrays"]), self._came, out=change)
        counts = torch.tensor([float(r.content["metrics"][COUNT]) for r in replies])
        rule = of_round(self.rule, server_round)
        self._last = rule(torch.from_numpy(changes), counts, self._reference(server_round, self._came))
        return packed(self._came + self._last.numpy()), MetricRecord({"hospitals": len(replies)})


def connected(grid: Grid, wanted: int) -> list[int]:
    """The nodes that are there, by number, once there are as many as `wanted`; `InputError` after `WAIT` seconds."""
    nodes, began = sorted(grid.get_node_ids()), time.monotonic()
    while len(nodes) < wanted:
        if time.monotonic() - began > WAIT:
            raise InputError(f"{len(nodes)} of {wanted} hospitals are connected after {WAIT:g} s")
        time.sleep(1)
        nodes = sorted(grid.get_node_ids())
    return nodes


def of_round(rule: Any, turn: int) -> Any:
    """A rule with a seed of its own for a round, and so the rule within it."""
    if not is_dataclass(rule):
        return rule
    known = {f.name for f in fields(rule)}
    own: dict[str, Any] = {}
    if "seed" in known:
        own["seed"] = int(np.random.SeedSequence([rule.seed, turn]).generate_state(1)[0]) % 2**31
    if "then" in known:
        own["then"] = of_round(rule.then, turn)
    return replace(rule, **own)


def rounds(grid: Border, strategy: FedAvg, initial: np.ndarray, number: int,
           seen: Callable[[int, np.ndarray], None] = lambda *_: None, timeout: float = 3600.0) -> np.ndarray:
    """Carry out a federation.

    Args:
        grid: Carries the messages, and checks the replies.
        strategy: `Joined`, or one of Flower's.
        initial: (d,) float32 parameters to start from.
        number: Rounds.
        seen: Told the parameters before the first round (0) and after each.
        timeout: Seconds after which a round goes on without those that have not answered.

    Returns:
        (d,) float32 parameters after the last round; those of the last round in which anybody answered.
    """
    def told(turn: int, arrays: ArrayRecord) -> Any:
        seen(turn, arrays[WEIGHTS].numpy())

    result = strategy.start(grid=grid, initial_arrays=packed(initial), num_rounds=number, timeout=timeout,
                            evaluate_fn=told)
    return result.arrays[WEIGHTS].numpy() if len(result.arrays) else initial
