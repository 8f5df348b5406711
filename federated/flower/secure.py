"""Secure aggregation: the server learns the sum of the hospitals' updates, and no single one.

SecAgg+ (Bell et al. 2020, doi:10.1145/3372297.3417885; Bonawitz et al. 2017, doi:10.1145/3133956.3133982), as Flower
1.41 implements it, which is in its legacy API only: the hospital's side is the mod `secaggplus_mod`, the server's is
`SecAggPlusWorkflow`. The rounds around them are ours, so that it runs on any of Flower's grids: in this process (for
tests: who holds all hospitals in one process keeps nothing secret), in the simulation, and in a deployment, where each
of its four stages is a message of its own and a round takes four times as long.

What is protected: the change of each hospital, from a server that follows the protocol and looks at all it sees. What
is not: the sum, and with one honest hospital among colluding ones so its change; row counts and who takes part, which
Flower sends in the clear; anything from a server that hands out keys of its own, since Flower's protocol authenticates
no hospital's key to the others. Replies have to be what the protocol has in each stage
(`federated.flower.secure_border`). A sum cannot be checked hospital by hospital, so that robust rules and the border of
`federated.flower.grid` are of no use
here: one hospital can still ruin the model, or by false shares the result of a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_STATE
from flwr.common.secure_aggregation.secaggplus_constants import Key as Protocol
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext, ServerConfig
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid

from federated.flower.client_app import TURN, Check
from federated.flower.grid import FIRST, Event, one_line
from federated.flower.secure_border import SecureBorder
from federated.flower.server_app import connected
from federated.task.task import Task
from suite.base.errors import InputError
from suite.core.data import Split

LEVELS, MODULUS = 2**22, 2**32
"""Integers that a number becomes one of, and the modulus, with which 1024 hospitals can be added."""


def hospital(rows: Callable[[Context], tuple[Task, Split, int]], check: Check = lambda *_: None) -> ClientApp:
    """The client app of `federated.flower.client_app.hospital`, behind masks: it trains only, and sends its change of
    the parameters rather than the parameters, which are larger and would be rounded more coarsely."""
    class Site(NumPyClient):
        def __init__(self, context: Context) -> None:
            self.context = context

        def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[list[np.ndarray], int, dict]:
            task, own, number = rows(self.context)
            check(self.context, task, parameters[0], "train", config[TURN])
            most = self.context.state.config_records[RECORD_KEY_STATE][Protocol.MAX_WEIGHT]
            if len(own) > most:  # Flower would go on, and the sum would overflow
                raise InputError(f"this hospital has {len(own)} rows, and the sum is made for at most {most:g}")
            trained = task.train(parameters[0], own, number, int(config[TURN]))
            return [trained.astype(np.float64) - parameters[0]], len(own), {}

    return ClientApp(client_fn=lambda context: Site(context).to_client(), mods=[secaggplus_mod])


@dataclass(frozen=True)
class SecAggPlus:
    """The mean of the hospitals' changes weighted by rows, as `federated.aggregation.aggregate.Mean` gives it but for
    rounding.

    Before it is masked, a hospital's change is multiplied by rows / `most`, cut off at +-`clip` (each parameter by
    itself, so that a change of up to `clip * most / rows` passes whole) and rounded at random to one of `LEVELS` steps.
    So each parameter of the mean is off by less than `error`, and two runs differ by as much: masks and rounding are
    drawn by Flower from the operating system and from NumPy's global generator, not from the federation's seed.

    Attributes:
        most: Rows of the largest hospital; one with more would overflow what is added, and is refused by itself.
        clip: See above.
        threshold: Share of the hospitals that must stay to the end of a round, above 0.5: as many can together unmask
            any other of them.
    """

    most: int
    clip: float = 1.0
    threshold: float = 0.66

    def __post_init__(self) -> None:
        if self.most < 1 or not self.clip > 0 or not 0.5 < self.threshold <= 1:
            raise InputError(f"secure aggregation needs most >= 1, clip > 0 and 0.5 < threshold <= 1, got {self.most}, "
                             f"{self.clip:g} and {self.threshold:g}")

    def error(self, counts: list[int]) -> float:
        """Greatest error of a parameter of the mean over hospitals of so many rows whose changes are not cut off."""
        share = sum(counts) / self.most
        # of each hospital's numbers, and of its weight, which is rounded to a level as well
        return len(counts) * (2 * self.clip / LEVELS + self.clip / LEVELS) / share

    def workflow(self, timeout: float | None) -> SecAggPlusWorkflow:
        """Flower's, in which each hospital holds a share of each other's keys."""
        return SecAggPlusWorkflow(1.0, self.threshold, max_weight=float(self.most), clipping_range=float(self.clip),
                                  quantization_range=LEVELS, modulus_range=MODULUS, timeout=timeout)


class _Sum:
    """What the workflow asks of a strategy of Flower's legacy API: whom to ask, and what to do with the sum."""

    def __init__(self, nodes: list[int]) -> None:
        self.nodes, self.answered = nodes, []
        self.change: np.ndarray | None = None

    def configure_fit(self, turn: int, parameters: Any, _: Any) -> list[tuple[Any, FitIns]]:
        return [(SimpleNamespace(node_id=node), FitIns(parameters, {TURN: turn})) for node in self.nodes]

    def aggregate_fit(self, _: int, results: list[tuple[Any, Any]], __: Any) -> tuple[None, dict[str, Any]]:
        self.answered = [proxy.node_id for proxy, _ in results]
        self.change = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}


def rounds(grid: Grid, task: Task, sites: int, number: int, by: SecAggPlus,
           seen: Callable[[int, np.ndarray], None] = lambda *_: None, event: Event = lambda *_: None,
           timeout: float | None = None) -> np.ndarray:
    """Carry out a federation whose server sees sums only.

    Args:
        grid: One of Flower's, or of this process, without a border, which is put before it here; hospitals run
            `hospital` of this module.
        task: What they train.
        sites: How many there are; the first round waits for all of them.
        number: Rounds.
        by: How it is done.
        seen: Told the parameters before the first round (0) and after each.
        event: Told of hospitals whose replies were refused or that did not stay for the sum ("refused", "absent", by
            node less `FIRST`), and of rounds in which too few did, or whose sum could not be unmasked ("no result"). A
            round has no result either where a hospital is missed before it has shared its keys. One whose reply was
            refused is not asked in later rounds.
        timeout: Seconds that each of the four stages waits for; for ever if not given.

    Returns:
        (d,) float32 parameters.
    """
    weights = task.initial()
    refused: set[int] = set()
    seen(0, weights)
    for turn in range(1, number + 1):
        total = _Sum([node for node in connected(grid, sites if turn == 1 else 2) if node not in refused])
        own = Context(run_id=0, node_id=FIRST - 1, node_config={}, state=RecordDict(), run_config={})
        context = LegacyContext(own, ServerConfig(num_rounds=number), total)  # type: ignore[arg-type]
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: turn})
        context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
            ndarrays_to_parameters([weights]), keep_input=True)
        border = SecureBorder(grid, task.size, by.most, MODULUS, event)
        why = "too few hospitals stayed for the sum"
        try:
            by.workflow(timeout)(border, context)
        except InputError:
            raise
        except Exception as e:  # shares that fit together and were false
            total.change, why = None, f"the sum cannot be unmasked: {one_line(f'{type(e).__name__}: {e}')}"
        if total.change is None or not np.isfinite(total.change).all():
            event("no result", {"round": turn, "why": why})
        else:
            for node in (node for node in total.nodes if node not in {*total.answered, *border.refused}):
                event("absent", {"hospital": node - FIRST})
            weights = (weights + total.change).astype(np.float32)
        refused |= border.refused
        seen(turn, weights)
    return weights
