"""What a hospital allows a federation to do there: a file of its own, which no server and no app can change.

A run configuration comes from whoever starts a run. Without limits it can ask for 10^9 epochs, a network of 7 GB, a
batch of one patient (whose gradient is almost a copy of that patient), or a model that is a Python file. The policy is
a TOML file on the hospital's machine, named when its SuperNode is started (`python -m
federated.deployment.supernode`)::

    hospital = "north"                      # the name that its key is registered with
    data = "/srv/federation/north"          # the folder with patients.csv; nobody else can name another one
    apps = ["3f6c...64 hex digits"]         # SHA-256 of each app that may run here

Everything else has a default, which also holds where there is no file. `docs/how-to/deploy-a-federation.md` lists all
keys.
"""

from __future__ import annotations

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from federated.deployment.agreement import MIN_BATCH, Agreement
from federated.deployment.ledger import Spent, charge
from federated.task.task import Task
from suite.base import registry
from suite.base.errors import InputError
from suite.training.loop import build

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MAX_MODEL_PARAMS = 10_000
"""Characters of the JSON of a model's hyper-parameters: a network of a million layers is small otherwise."""


class Refused(InputError):
    """A task that the policy does not allow. The server is told the message, so it names the key and no limit.

    Attributes:
        detail: The whole reason, for the log of the hospital.
    """

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"not allowed by the hospital's policy: {key}")
        self.detail = f"{key}: {detail}"


class Policy(BaseModel):
    """The limits of one hospital. Keys are written with hyphens in the file.

    Attributes:
        hospital: Its name in the federation.
        data: Absolute path of its folder with `patients.csv`.
        apps: SHA-256 digests of the apps (FAB files) that may run here; none by default.
        models: Registered networks that it trains. A Python file is never allowed.
        target: The column of its table that may be the label; any when absent.
        max_rounds: Of a run; it answers no more rounds of one run than this, whatever their numbers are.
        max_epochs: Of its training in one round.
        min_batch, max_batch: Rows in one step of training, also of the last of an epoch, which is joined to the one
            before it where it would have fewer than `min_batch`. A table with fewer training rows is refused.
        max_lr: Learning rate.
        max_proximal: Pull of FedProx.
        max_parameters: Of the network. Each takes 4 bytes, and training about four times that.
        max_weight: Greatest absolute value of a parameter that it takes from the server.
        max_epsilon: Greatest epsilon of record-level differential privacy (add or remove one row, all rounds of a run
            together); a run without it is refused. When absent, runs need no differential privacy.
        ledger: Absolute path of the file in which runs are counted (`federated.deployment.ledger`), which outlives a
            restart.
        max_runs, max_total_epsilon: Over all runs in the ledger.
        max_public_rows: Rows that a run may declare public for it: as many as these make the steps of an epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False,
                              alias_generator=lambda name: name.replace("_", "-"))
    hospital: str = Field(default="", pattern=r"^[^\x00-\x1f\x7f'\"]{0,100}$")
    data: Path | None = None
    apps: tuple[Digest, ...] = ()
    models: tuple[str, ...] = ("mlp",)
    target: str | None = None
    max_rounds: int = Field(default=500, ge=1)
    max_epochs: int = Field(default=50, ge=1)
    min_batch: int = Field(default=MIN_BATCH, ge=1)
    max_batch: int = Field(default=4096, ge=1)
    max_lr: float = Field(default=1.0, gt=0)
    max_proximal: float = Field(default=10.0, ge=0)
    max_parameters: int = Field(default=10_000_000, ge=1)
    max_weight: float = Field(default=1e6, gt=0)
    max_epsilon: float | None = Field(default=None, gt=0)
    ledger: Path | None = None
    max_runs: int | None = Field(default=None, ge=1)
    max_total_epsilon: float | None = Field(default=None, gt=0)
    max_public_rows: int = Field(default=100_000, ge=1)

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy file.

        Raises:
            InputError: Naming the file and the key that is wrong.
        """
        try:
            made = cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as e:
            raise InputError(f"policy {path}: {(e.strerror or str(e)).lower()}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
            raise InputError(f"policy {path}: is not TOML: {e}") from None
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"policy {path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
        if made.data is not None and not made.data.is_absolute():
            raise InputError(f"policy {path}: data: '{made.data}' is not an absolute folder")
        if made.ledger is not None and not made.ledger.is_absolute():
            raise InputError(f"policy {path}: ledger: '{made.ledger}' is not an absolute path")
        for key, limit in (("max-runs", made.max_runs), ("max-total-epsilon", made.max_total_epsilon)):
            if limit is not None and made.ledger is None:
                raise InputError(f"policy {path}: {key}: counts in a file; name it as 'ledger'")
        if made.max_total_epsilon is not None and made.max_epsilon is None:
            raise InputError(f"policy {path}: max-total-epsilon: set max-epsilon too, or runs without differential "
                             "privacy would be allowed")
        if made.min_batch > made.max_batch:
            raise InputError(f"policy {path}: min-batch: {made.min_batch} is above max-batch, {made.max_batch}")
        if files := [name for name in made.models if registry.is_file(name)]:
            raise InputError(f"policy {path}: models: '{files[0]}' is a file; give names of registered networks")
        return made

    @cached_property
    def _allowed(self) -> frozenset[str]:
        return frozenset(self.models) & frozenset(registry.names("models"))

    def check(self, agreement: Agreement) -> None:
        """Judge a run configuration, before its model is made and any row is read.

        Raises:
            Refused: Something is outside the limits.
        """
        def at_most(key: str, value: float, limit: float) -> None:
            if not value <= limit:
                raise Refused(key, f"{value:g} was asked for, at most {limit:g} is allowed")

        if agreement.model not in self._allowed:
            raise Refused("model", f"{agreement.model[:100]!r} was asked for, allowed are {', '.join(self.models)}")
        if len(text := str(agreement.model_params)) > MAX_MODEL_PARAMS:
            raise Refused("model-params", f"{len(text)} characters, at most {MAX_MODEL_PARAMS} are allowed")
        if self.target is not None and agreement.target != self.target:
            raise Refused("target", f"{agreement.target[:100]!r} was asked for, allowed is '{self.target}'")
        at_most("rounds", agreement.rounds, self.max_rounds)
        at_most("epochs", agreement.epochs, self.max_epochs)
        at_most("batch", agreement.batch, self.max_batch)
        at_most("lr", agreement.lr, self.max_lr)
        at_most("proximal", agreement.proximal, self.max_proximal)
        at_most("public-rows", agreement.public_rows, self.max_public_rows)
        if agreement.batch < self.min_batch:
            raise Refused("batch", f"{agreement.batch} was asked for, at least {self.min_batch} is allowed")
        if self.max_epsilon is not None:
            if not agreement.epsilon:
                raise Refused("epsilon", f"none was asked for, and differential privacy of at most {self.max_epsilon:g}"
                              " is demanded")
            at_most("epsilon", agreement.epsilon, self.max_epsilon)

    def check_size(self, task: Task) -> None:
        """Count the parameters of a task's network without taking memory for them.

        Raises:
            Refused: There are more than `max_parameters`, or the network cannot be made.
        """
        try:
            with torch.device("meta"):
                made = build(task.recipe, task.inputs, len(task.classes))
        except InputError:
            raise
        except Exception as e:  # a product of sizes that overflows, a size that is none
            raise Refused("model-params", f"the network cannot be made: {type(e).__name__}: {e}") from None
        if (size := sum(p.numel() for p in made.parameters())) > self.max_parameters:
            raise Refused("model-params", f"{size} parameters, at most {self.max_parameters} are allowed")

    def begin(self, epsilon: float) -> None:
        """Write a run into the ledger, where there is one.

        Raises:
            Refused: The limits over all runs do not allow it.
        """
        if self.ledger is None:
            return
        try:
            charge(self.ledger, epsilon, self.max_runs, self.max_total_epsilon)
        except Spent as e:
            raise Refused(e.key, str(e)) from None

    def check_rows(self, rows: int) -> None:
        """Judge how many rows there are to train on.

        Raises:
            Refused: All of them together are too few for one step.
        """
        if rows < self.min_batch:
            raise Refused("min-batch", f"the table has {rows} training rows, at least {self.min_batch} are needed")

    def check_weights(self, weights: np.ndarray, size: int) -> None:
        """Judge the parameters that came from the server.

        Raises:
            Refused: They are not `size` finite float32 numbers of at most `max_weight` each.
        """
        if weights.shape != (size,) or weights.dtype != np.float32:
            raise Refused("weights", f"{weights.dtype} of shape {weights.shape}, {size} float32 are needed")
        largest = float(np.abs(weights).max(initial=0.0))  # NaN where any of them is
        if not largest <= self.max_weight:
            raise Refused("weights", f"the largest is {largest:g}, at most {self.max_weight:g} is allowed")

    def check_round(self, turn: Any, answered: int, rounds: int) -> None:
        """Judge the number of a round, and how many were answered already in this run.

        Raises:
            Refused: The number is outside the run's rounds, or as many rounds as agreed were answered.
        """
        if not isinstance(turn, int) or not 1 <= turn <= rounds:
            raise Refused("round", f"{str(turn)[:40]} was asked for, {rounds} were agreed")
        if answered >= rounds:
            raise Refused("round", f"{rounds} rounds were agreed, and as many were answered")
