"""The federation as a Flower app, which `flwr run` starts in Flower's simulation or at hospitals of their own.

Client and server run the code that runs in one process (`federated.flower.client_app.hospital`;
`federated.flower.server_app.rounds` past `federated.flower.grid.Border`). What all have agreed on travels with the app:
`[tool.flwr.app.config]` of its `pyproject.toml`, and `schema.toml` beside it. Rows never do: each hospital reads its
own file, which the configuration of its own SuperNode names, and the server has none. `examples/federation_app` is such
an app.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from federated.aggregation.rules import FlowerStrategy
from federated.deployment.agreement import Agreement
from federated.deployment.policy import Policy, Refused
from federated.flower import client_app, secure, server_app
from federated.flower.grid import FIRST, Border, one_line
from federated.flower.roster import Roster
from federated.task.task import Task
from suite.base.errors import InputError
from suite.base.journal import Journal
from suite.core.data import Split
from suite.models import artifacts

ANSWERED = "answered"
"""Where in its state a hospital counts what it has answered in a run."""


def count_rows(config: Mapping[str, Any], app: Path, folders: Sequence[Path]) -> list[int]:
    """The training rows of hospitals, which they declare before a run.

    Args:
        config: The run configuration; its `rows` are not used.
        app: Its folder, with `schema.toml`.
        folders: Of the hospitals, with `PATIENTS`.

    Raises:
        InputError: The configuration or a table is wrong.
    """
    sites = str(config.get("hospitals", "")).count(",") + 1
    agreed = Agreement.of({**config, "rows": ", ".join("1" * sites)}, app)
    return [len(agreed.read(folder).train) for folder in folders]


def hospital_app(folder: Path) -> ClientApp:
    """The hospitals' side.

    In a deployment its SuperNode names a policy (`federated.deployment.policy`), which says which hospital this is,
    where its rows are and what it lets a server ask for. In the simulation the first two follow from the number, and
    the limits are the policy's defaults. Whatever goes wrong is one line in the log of the hospital; the server is told
    that it did, and no value, path or limit.

    Args:
        folder: Of the app, with `schema.toml`.
    """
    def here(context: Context) -> Hospital:
        return _hospital(folder, tuple(sorted(context.run_config.items())), tuple(sorted(context.node_config.items())))

    def rows(context: Context) -> tuple[Task, Split, int]:
        return here(context).rows

    def check(context: Context, task: Task, weights: np.ndarray, kind: str, turn: Any) -> None:
        one, state = here(context), context.state
        counts = dict(state[ANSWERED]) if ANSWERED in state else {}
        answered = counts.get(kind, 0)
        one.policy.check_round(turn, answered, one.agreement.rounds)
        one.policy.check_weights(weights, task.size)
        if ANSWERED not in state:
            one.policy.begin(one.agreement.epsilon)
        state[ANSWERED] = ConfigRecord(counts | {kind: answered + 1})

    app, plain, masked = ClientApp(), client_app.hospital(rows, check), secure.hospital(rows, check)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(masked if context.run_config.get("secure") else plain, message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(plain, message, context)

    return app


def _answer(app: ClientApp, message: Message, context: Context) -> Message:
    """What the app replies; where it fails, the reason stays here, as it may name a patient's value or a path."""
    try:
        return app(message, context)
    except Told:
        raise
    except Exception as e:
        refused = isinstance(e, Refused)
        why = e.detail if refused else str(e) if isinstance(e, InputError) else f"{type(e).__name__}: {e}"
        print(f"error: {one_line(why, 500)}", file=sys.stderr, flush=True)
        raise Told(str(e) if refused else "the hospital failed; the log of its SuperNode says why") from None


class Told(InputError):
    """A message that holds nothing of a hospital's."""


@dataclass(frozen=True)
class Hospital:
    """What one hospital knows in a run.

    Attributes:
        agreement: The run configuration.
        policy: Its own limits.
        rows: Task, training rows, and its number.
    """

    agreement: Agreement
    policy: Policy
    rows: tuple[Task, Split, int]


@lru_cache(maxsize=256)  # in the simulation one process is asked again and again
def _hospital(folder: Path, config: tuple[tuple[str, Any], ...], node: tuple[tuple[str, Any], ...]) -> Hospital:
    """The hospital whose process this is.

    Raises:
        Refused: Its policy does not allow the run.
        Told: Anything else is wrong; the reason is in its own log.
    """
    told, name = dict(node), ""
    try:
        policy = Policy.load(Path(told["policy"])) if told.get("policy") else Policy()
        agreement = Agreement.of(dict(config), folder)
        policy.check(agreement)
        simulated = "partition-id" in told
        number = told["partition-id"] if simulated else 0
        name = policy.hospital or told.get("hospital") or (agreement.hospitals[number] if simulated else "")
        if name not in agreement.hospitals:
            raise InputError(f"this SuperNode is hospital '{name}', and the app is for "
                             f"{', '.join(agreement.hospitals)}")
        where = policy.data or told.get("data") or (simulated and agreement.data and str(Path(agreement.data) / name))
        if not where:
            raise InputError("no data: name the folder as 'data' in the hospital's policy")
        try:
            task = agreement.task
        except InputError as e:
            raise Refused("model-params", str(e)) from None
        policy.check_size(task)
        rows = agreement.read(Path(where)).train
        policy.check_rows(len(rows))
        task = replace(task, min_batch=policy.min_batch)
        return Hospital(agreement, policy, (task, rows, agreement.hospitals.index(name)))
    except Refused:
        raise
    except InputError as e:  # it may name a patient's value, which the server must not read
        print(f"error: hospital '{one_line(name)}': {one_line(str(e), 500)}", file=sys.stderr, flush=True)
        raise Told("the hospital cannot use its data or the run's configuration; the log of its SuperNode says "
                   "why") from None


def federation_app(folder: Path) -> ServerApp:
    """The server's side: rounds, a journal of them, and the model at the end.

    Args:
        folder: Of the app, with `schema.toml`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            carry_out(Agreement.of(context.run_config, folder), grid)
        except InputError as e:
            print(f"error: {one_line(str(e), 500)}", flush=True)
            raise

    return app


def carry_out(agreement: Agreement, grid: Grid) -> np.ndarray:
    """Train on one of Flower's grids, and write `journal.jsonl` and `model/` into the folder `out`.

    Prints the journal's head, for whoever wants to keep it in another place than the journal (`suite.base.journal`).

    Returns:
        (d,) float32 parameters of the model.

    Raises:
        InputError: The agreement cannot be kept; hospitals do not connect in time; nothing can be written.
    """
    out, task, rule = Path(agreement.out), agreement.task, agreement.joining()
    if not agreement.out or not out.is_absolute():
        raise InputError("run configuration: out: give an absolute folder on the server's machine")
    journal = Journal(out / "journal.jsonl")

    def event(what: str, facts: dict[str, Any]) -> None:
        if "hospital" in facts:
            facts = facts | {"hospital": roster.name(facts["hospital"] + FIRST)}
        journal.append(what, **facts)
        print(f"{what}  {'  '.join(str(fact) for fact in facts.values())}", flush=True)

    def seen(turn: int, weights: np.ndarray) -> None:
        if turn:
            journal.append("round", round=turn, asked=roster.asked, answered=roster.answered,
                           weights=fingerprint(weights))
            print(f"round {turn} of {agreement.rounds}  answered {', '.join(roster.answered) or 'nobody'}", flush=True)

    roster = Roster(grid, agreement.hospitals, agreement.least, agreement.timeout, event, agreement.secure)
    initial = task.initial()
    journal.append("start", agreement=agreement.model_dump(mode="json", exclude={"folder"}),
                   weights=fingerprint(initial))
    sites = len(agreement.hospitals)
    if agreement.secure:
        by = secure.SecAggPlus(max(agreement.rows), agreement.clip)
        weights = secure.rounds(roster, task, sites, agreement.rounds, by, seen, event, agreement.timeout)
    else:
        declared = {FIRST + k: rows for k, rows in enumerate(agreement.rows)}
        border = Border(roster, task.size, declared, event=event)
        strategy = (rule.made(sites) if isinstance(rule, FlowerStrategy)
                    else server_app.Joined(rule, sites, event=event))
        weights = server_app.rounds(border, strategy, initial, agreement.rounds, seen, agreement.timeout)
    artifacts.save(task.classifier(weights), out / "model", agreement.model)
    print(f"head {journal.append('end', weights=fingerprint(weights))}", flush=True)
    return weights


def fingerprint(weights: np.ndarray) -> str:
    """SHA-256 of (d,) float32 parameters, as the journal has it of each round's."""
    return hashlib.sha256(np.ascontiguousarray(weights, np.float32).tobytes()).hexdigest()
