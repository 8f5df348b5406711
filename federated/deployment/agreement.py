"""What server and hospitals of a deployment have agreed on."""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, field_validator

from federated.aggregation.aggregate import Aggregator
from federated.aggregation.private import RecordDP
from federated.aggregation.rules import FlowerStrategy, rule_of
from federated.task.task import Task
from suite.base import registry
from suite.base.errors import InputError
from suite.core.data import Dataset
from suite.training.loop import TorchRecipe
from tabular.data import from_csv
from tabular.schema import Schema

PATIENTS = "patients.csv"
"""The table in a hospital's data folder."""
MIN_BATCH = 8
"""Rows below which no hospital makes a step, unless its policy says otherwise."""


class Agreement(BaseModel):
    """What server and hospitals have agreed on: the run configuration of the app, with hyphens for underscores.

    Attributes:
        hospitals: Names in the order of their numbers, separated by commas; those that their keys are registered with.
        target: Column of the labels in each hospital's table.
        classes: All labels, in the order of the classes, separated by commas. A hospital may lack some.
        model, model_params: Name of a registered network, and JSON of its hyper-parameters.
        rule, rule_params: Name of a registered aggregation, and JSON of its hyper-parameters.
        rounds: How many.
        epochs, batch, lr, proximal, seed: As of `federated.task.task.Task`.
        rows: Training rows that each hospital has declared before the run, in the order of `hospitals` (`count_rows`);
            a reply that claims more is refused, as rows are the weight of what a hospital sends.
        least: Hospitals that must be connected for a round to begin.
        timeout: Seconds after which a round goes on without those that are missing.
        secure: Whether the server sees sums only (`federated.flower.secure`); needs the rule "mean".
        clip: Of secure aggregation.
        epsilon: Of record-level differential privacy over all rounds (`federated.aggregation.private.RecordDP`: one row
            added or removed); 0 for none.
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
                    self.lr, self.proximal, self.seed, private=private, min_batch=min(MIN_BATCH, self.batch))

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
