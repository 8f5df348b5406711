"""The federation as a Flower app, which `flwr run` starts in Flower's simulation or at hospitals of their own.

Client and server run the code that runs in one process (`federated.client_app.hospital`; `federated.server_app.rounds`
past `federated.grid.Border`). What all have agreed on travels with the app: `[tool.flwr.app.config]` of its
`pyproject.toml`, and `schema.toml` beside it. Rows never do: each hospital reads its own file, which the configuration
of its own SuperNode names, and the server has none. `examples/federation_app` is such an app.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, field_validator

from federated import client_app, secure, server_app
from federated.aggregate import Aggregator
from federated.grid import FIRST, Border, one_line
from federated.policy import Policy, Refused
from federated.private import RecordDP
from federated.roster import Roster
from federated.rules import FlowerStrategy, rule_of
from federated.task import Task
from suite import artifacts, registry
from suite.data import Dataset, Split
from suite.errors import InputError
from suite.journal import Journal
from suite.training import TorchRecipe
from tabular.data import from_csv
from tabular.schema import Schema

PATIENTS = "patients.csv"
"""The table in a hospital's data folder."""
ANSWERED = "answered"
"""Where in its state a hospital counts what it has answered in a run."""


class Agreement(BaseModel):
    """What server and hospitals have agreed on: the run configuration of the app, with hyphens for underscores.

    Attributes:
        hospitals: Names in the order of their numbers, separated by commas; those that their keys are registered with.
        target: Column of the labels in each hospital's table.
        classes: All labels, in the order of the classes, separated by commas. A hospital may lack some.
        model, model_params: Name of a registered network, and JSON of its hyper-parameters.
        rule, rule_params: Name of a registered aggregation, and JSON of its hyper-parameters.
        rounds: How many.
        epochs, batch, lr, proximal, seed: As of `federated.task.Task`.
        rows: Training rows that each hospital has declared before the run, in the order of `hospitals` (`count_rows`);
            a reply that claims more is refused, as rows are the weight of what a hospital sends.
        least: Hospitals that must be connected for a round to begin.
        timeout: Seconds after which a round goes on without those that are missing.
        secure: Whether the server sees sums only (`federated.secure`); needs the rule "mean".
        clip: Of secure aggregation.
        epsilon: Of record-level differential privacy over all rounds (`federated.private.RecordDP`: one row added or
            removed); 0 for none.
        max_grad_norm, public_rows: Of the same; 0 of public rows for none declared.
        data: For the simulation, where all hospitals are on one machine: absolute folder with NAME/patients.csv each.
            In a deployment each hospital names its own, and this is not looked at.
        out: Absolute folder on the server's machine for the journal and the model.
        folder: Of the app, where `schema.toml` is; not part of the configuration.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False,
                              alias_generator=lambda name: name.replace("_", "-"))
    hospitals: tuple[str, ...]
    target: str
    classes: tuple[str, ...]
    model: str = "mlp"
    model_params: Json[dict[str, Any]] = Field(default_factory=dict)
    rule: str = "mean"
    rule_params: Json[dict[str, Any]] = Field(default_factory=dict)
    rounds: int = Field(default=10, ge=1)
    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=32, ge=1)
    lr: float = Field(default=0.05, gt=0)
    proximal: float = Field(default=0.0, ge=0)
    seed: int = 0
    rows: tuple[Annotated[int, Field(ge=1)], ...]
    least: int = Field(default=1, ge=1)
    timeout: float = Field(default=600.0, gt=0)
    secure: bool = False
    clip: float = Field(default=1.0, gt=0)
    epsilon: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    public_rows: int = Field(default=0, ge=0)
    data: str = ""
    out: str = ""
    folder: Path

    @field_validator("hospitals", "classes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> tuple[str, ...]:
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"{value!r} is no list of different names, separated by commas")
        return names

    @field_validator("rows", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Read a run configuration.

        Raises:
            InputError: A key that is wrong, which the message names.
        """
        try:
            made = cls.model_validate({**config, "folder": folder})
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"run configuration: {where}: {first['msg'].removeprefix('Value error, ')}") from None
        if made.secure and made.rule != "mean":
            raise InputError(f"run configuration: secure aggregation gives the mean only, and rule is '{made.rule}'")
        if made.secure and made.epsilon:
            raise InputError("run configuration: epsilon: not available with secure aggregation; set one of them only")
        if len(made.rows) != len(made.hospitals):
            raise InputError(f"run configuration: rows: {len(made.rows)} numbers for {len(made.hospitals)} hospitals; "
                             "give one for each, in their order")
        if made.public_rows and not made.epsilon:
            raise InputError("run configuration: public-rows: is about epsilon; set epsilon, or leave it out")
        if made.public_rows > min(made.rows):
            raise InputError(f"run configuration: public-rows: {made.public_rows} is more than the fewest rows that a "
                             f"hospital has declared, {min(made.rows)}, and each would claim it; give a smaller number")
        return made

    @cached_property
    def table(self) -> Schema:
        """Columns, units and bounds, the same for all."""
        return Schema.load(self.folder / "schema.toml")

    @cached_property
    def task(self) -> Task:
        """What all train.

        Raises:
            InputError: The model is unknown, or no network.
        """
        recipe = registry.make("models", self.model, self.model_params)
        if not isinstance(recipe, TorchRecipe):
            raise InputError(f"run configuration: model: '{self.model}' is no network, and only these can be averaged")
        # the seed of the noise is drawn here, at the hospital, and never leaves it
        private = RecordDP(self.epsilon, self.rounds, max_grad_norm=self.max_grad_norm,
                           public_rows=self.public_rows or None, secret=secrets.randbits(63)) if self.epsilon else None
        return Task(recipe, (len(self.table.columns),), self.classes, self.table.space(), self.epochs, self.batch,
                    self.lr, self.proximal, self.seed, private=private)

    def joining(self) -> Aggregator | FlowerStrategy:
        """The rule; `InputError` where there is no such rule or a parameter is wrong."""
        return rule_of({"name": self.rule, **self.rule_params})

    def read(self, path: Path) -> Dataset:
        """A hospital's own table, in the columns, bounds and classes of all; the same split each time.

        Args:
            path: A CSV file, or a folder that holds `PATIENTS`.

        Raises:
            InputError: Naming the file and what in it is wrong, such as a label that is none of the agreed classes.
        """
        data = from_csv(path / PATIENTS if path.is_dir() else path, self.target, self.table)
        if strange := [name for name in data.classes if name not in self.classes]:
            raise InputError(f"{path.name}: column '{self.target}' holds '{strange[0]}', which is none of the agreed "
                             f"classes {', '.join(self.classes)}")
        numbers = np.array([self.classes.index(name) for name in data.classes], np.int64)
        parts = {part: replace(split, y=numbers[split.y], classes=self.classes)
                 for part in ("train", "val", "test") for split in [getattr(data, part)]}
        return replace(data, **parts)


def configuration(app: Path) -> dict[str, Any]:
    """The run configuration in the `pyproject.toml` of an app's folder."""
    return dict(tomllib.loads((app / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"])


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

    In a deployment its SuperNode names a policy (`federated.policy`), which says which hospital this is, where its rows
    are and what it lets a server ask for. In the simulation the first two follow from the number, and the limits are
    the policy's defaults. Whatever goes wrong is one line in the log of the hospital; the server is told that it did,
    and no value, path or limit.

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

    Prints the journal's head, for whoever wants to keep it in another place than the journal (`suite.journal`).

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
