"""The federation as a Flower app, which `flwr run` starts in Flower's simulation or at hospitals of their own.

Client and server run the code that runs in one process (`federated.client_app.hospital`; `federated.server_app.rounds`
past `federated.grid.Border`). What all have agreed on travels with the app: `[tool.flwr.app.config]` of its
`pyproject.toml`, and `schema.toml` beside it. Rows never do: each hospital reads its own file, which the configuration
of its own SuperNode names, and the server has none. `examples/federation_app` is such an app.
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, field_validator

from federated import client_app, secure, server_app
from federated.aggregate import Aggregator
from federated.grid import FIRST, Border
from federated.journal import Journal
from federated.roster import Roster
from federated.rules import FlowerStrategy, rule_of
from federated.task import Task
from suite import artifacts, registry
from suite.data import Dataset, Split
from suite.errors import InputError
from suite.plain import printable
from suite.recipe import TorchRecipe
from tabular.data import from_csv
from tabular.schema import Schema

PATIENTS = "patients.csv"
"""The table in a hospital's data folder."""


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
        most_rows: Training rows that no hospital has more of; a reply that claims more is refused.
        least: Hospitals that must be connected for a round to begin.
        timeout: Seconds after which a round goes on without those that are missing.
        secure: Whether the server sees sums only (`federated.secure`); needs the rule "mean".
        clip: Of secure aggregation.
        data: For the simulation, where all hospitals are on one machine: absolute folder with NAME/patients.csv each.
            In a deployment each SuperNode names its own.
        out: Absolute folder on the server's machine for the journal and the model.
        folder: Of the app, where `schema.toml` is; not part of the configuration.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))
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
    most_rows: int = Field(default=100_000, ge=1)
    least: int = Field(default=1, ge=1)
    timeout: float = Field(default=600.0, gt=0)
    secure: bool = False
    clip: float = Field(default=1.0, gt=0)
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
        return Task(recipe, (len(self.table.columns),), self.classes, self.table.space(), self.epochs, self.batch,
                    self.lr, self.proximal, self.seed)

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


def hospital_app(folder: Path) -> ClientApp:
    """The hospitals' side.

    Of its SuperNode each is told which one it is and where its rows are: `--node-config 'hospital="NAME"
    data="/its/folder"'`. In the simulation both follow from the number.

    Args:
        folder: Of the app, with `schema.toml`.
    """
    def rows(context: Context) -> tuple[Task, Split, int]:
        return _own(folder, tuple(sorted(context.run_config.items())), tuple(sorted(context.node_config.items())))

    app, plain, masked = ClientApp(), client_app.hospital(rows), secure.hospital(rows)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return (masked if context.run_config.get("secure") else plain)(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return plain(message, context)

    return app


@lru_cache(maxsize=256)  # in the simulation one process is asked again and again
def _own(folder: Path, config: tuple[tuple[str, Any], ...],
         node: tuple[tuple[str, Any], ...]) -> tuple[Task, Split, int]:
    """Task, training rows and number of the hospital whose process this is."""
    agreement, told = Agreement.of(dict(config), folder), dict(node)
    name = told.get("hospital") or agreement.hospitals[told.get("partition-id", 0)]
    if name not in agreement.hospitals:
        raise InputError(f"this SuperNode is hospital '{name}', and the app is for {', '.join(agreement.hospitals)}")
    where = told.get("data") or (agreement.data and str(Path(agreement.data) / name))
    try:
        if not where:
            raise InputError("""no data: start the SuperNode with --node-config 'hospital="NAME" data="FOLDER"'""")
        return agreement.task, agreement.read(Path(where)).train, agreement.hospitals.index(name)
    except InputError as e:  # it may name a patient's value, which the server must not read
        print(f"error: hospital '{printable(name)}': {printable(e)}", file=sys.stderr, flush=True)
        raise InputError(f"hospital '{name}' cannot use its data; the log of its SuperNode says why") from None


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
            print(f"error: {printable(e)}", flush=True)
            raise

    return app


def carry_out(agreement: Agreement, grid: Grid) -> np.ndarray:
    """Train on one of Flower's grids, and write `journal.jsonl` and `model/` into the folder `out`.

    Prints the journal's head, for whoever wants to keep it in another place than the journal (`federated.journal`).

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
        by = secure.SecAggPlus(agreement.most_rows, agreement.clip)
        weights = secure.rounds(roster, task, sites, agreement.rounds, by, seen, event, agreement.timeout)
    else:
        border = Border(roster, task.size, most=agreement.most_rows, event=event)
        strategy = (rule.made(sites) if isinstance(rule, FlowerStrategy)
                    else server_app.Joined(rule, sites, event=event))
        weights = server_app.rounds(border, strategy, initial, agreement.rounds, seen, agreement.timeout)
    artifacts.save(task.classifier(weights), out / "model", agreement.model)
    print(f"head {journal.append('end', weights=fingerprint(weights))}", flush=True)
    return weights


def fingerprint(weights: np.ndarray) -> str:
    """SHA-256 of (d,) float32 parameters, as the journal has it of each round's."""
    return hashlib.sha256(np.ascontiguousarray(weights, np.float32).tobytes()).hexdigest()
