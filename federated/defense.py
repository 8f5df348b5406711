"""Federated training as a defense: hospitals that train together and keep their rows, as every audit sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from federated.aggregate import Aggregator
from federated.grid import Tamper
from federated.hospitals import tell_hospitals
from federated.journal import Journal
from federated.rules import FlowerStrategy, rule_of
from federated.simulate import federate
from federated.sites import HOSPITAL
from federated.task import Task
from federated.trust import FLTrust
from suite.attack import Count, Info, Positive
from suite.classifier import TorchClassifier
from suite.data import Split
from suite.errors import InputError
from suite.evaluate.subject import Subject
from suite.logs import log_file
from suite.measurement import Sheet
from suite.progress import advance
from suite.recipe import TorchDefense, TorchRecipe


@dataclass(frozen=True)
class Trained:
    """What a federation made, and what it took.

    Attributes:
        weights: (d,) float32 parameters.
        sent: (n,) int64, bytes of parameters to and from each hospital.
        seconds: (n,) float64 of each hospital's own work.
        events: How often something of each kind went wrong, and did not stop it ("refused", "absent", "no result").
    """

    weights: np.ndarray
    sent: np.ndarray
    seconds: np.ndarray
    events: Mapping[str, int]


@dataclass(frozen=True)
class Federation:
    """Hospitals that are about to train one model.

    Attributes:
        task: What they train.
        names: Of the hospitals, sorted.
        rows: Training rows of each.
        rule: Joins their updates.
        rounds: How many.
        server: Rows of the server's own, for a rule that holds an update of its own against theirs.
    """

    task: Task
    names: tuple[str, ...]
    rows: tuple[Split, ...]
    rule: Aggregator | FlowerStrategy
    rounds: int
    server: Split

    def train(self, tamper: Tamper | None = None, journal: Path | None = None,
              seen: Callable[[int, np.ndarray], None] = lambda *_: None, **about: Any) -> Trained:
        """Carry it out.

        Args:
            tamper: What hostile hospitals do.
            journal: File of the log, which is continued where it is there already; None for no log.
            seen: Told the parameters before the first round (0) and after each.
            about: What the log's first entry says besides.
        """
        log = Journal(journal).append if journal else lambda *_, **__: None
        sent, seconds = np.zeros(len(self.rows), np.int64), np.zeros(len(self.rows))
        events: dict[str, int] = {}
        log("began", hospitals=list(self.names), rows=[len(split) for split in self.rows], rounds=self.rounds,
            rule=repr(self.rule), parameters=self.task.size, seed=self.task.seed, **about)

        def event(what: str, facts: dict[str, Any]) -> None:
            events[what] = events.get(what, 0) + 1
            log(what, **facts)

        def done(what: str, facts: dict[str, Any]) -> None:
            if what == "worked":
                seconds[facts["hospital"]] += facts["seconds"]
                return
            sent[facts["asked"]] += facts["bytes asked"]
            sent[facts["answered"]] += facts["bytes answered"]
            log(what, **facts)

        def through(turn: int, weights: np.ndarray) -> None:
            log("model", round=turn, sha256=self.task.digest(weights))
            advance("rounds", turn, self.rounds)
            seen(turn, weights)

        began = time.perf_counter()
        weights = federate(self.task, self.rows, self.rule, self.rounds, tamper, event, self._reference, through, done)
        log("ended", sha256=self.task.digest(weights), seconds=round(time.perf_counter() - began, 3),
            sent=sent.tolist(), worked=[round(s, 3) for s in seconds.tolist()])
        return Trained(weights, sent, seconds, events)

    @property
    def _reference(self) -> Callable[[int, np.ndarray], torch.Tensor] | None:
        """The server's own update, for a rule that is made for it; else what the rule said in the last round."""
        if not _trusts(self.rule):
            return None
        number = len(self.rows)  # none of the hospitals', for the sake of the seed
        return lambda turn, came: torch.from_numpy(self.task.train(came, self.server, number, turn) - came)


def _trusts(rule: Any) -> bool:
    """Whether a rule, or one within it, holds an update of the server's own against the hospitals'."""
    return isinstance(rule, FLTrust) or (hasattr(rule, "then") and _trusts(rule.then))


@dataclass(frozen=True)
class FederatedTraining(TorchDefense):
    """Hospitals train one network in rounds and send parameters instead of rows, on Flower.

    Runs in this process, message by message (`federated.grid`), with the same client and server apps as a deployment.
    Against a defense it is held like any other: the same attacks run on the model that comes out of it. What attacks on
    the federation itself do to it, by hostile hospitals and a curious server, is measured by attacks of their own.

    Of a hospital's rows nothing travels but what training leaves in parameters, and how many they are. That alone is no
    guarantee of privacy.

    Validation rows belong to the server: a few of them are those that `fltrust` trusts in. They stop nothing: all
    rounds are carried out, and the last model is returned.

    Attributes:
        rule: Joins updates (`medsec list aggregations`): a name, or a table as `{"name": "krum", "bad": 1}`; what mixes
            first has `then`, as `{"name": "nnm", "bad": 1, "then": {"name": "krum", "bad": 1}}`.
        rounds: Of the federation; all hospitals take part in each.
        epochs, batch, lr, proximal: Of a hospital's training in one round, as of `federated.task.Task`.
        column: Subgroup of the training rows that names the hospital.
        trusted: Rows of the server's own, at most.
        personal: Epochs for which each hospital trains the federation's model on its own rows afterwards, to be
            measured beside it.
    """

    info: ClassVar[Info] = Info(
        "Federated training", "McMahan et al. 2017, arXiv 1602.05629",
        cost="`rounds` times `epochs` passes over all rows",
        departs="SGD with momentum, which starts anew each round; inputs are standardised by their bounds, and group "
                "normalisation takes the place of batch normalisation")
    rule: str | dict[str, Any] = "mean"
    rounds: Count = 40
    epochs: Count = 1
    batch: Count = 32
    lr: Positive = 0.05
    proximal: float = 0.0
    column: str = field(default=HOSPITAL, kw_only=True)
    trusted: Count = field(default=100, kw_only=True)
    personal: int = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        self.aggregator  # noqa: B018 - a name that is unknown is told at once
        if not 0 <= self.proximal < np.inf or self.personal < 0:
            raise InputError(f"FederatedTraining: proximal and personal must not be negative, got {self.proximal:g} "
                             f"and {self.personal}")

    @cached_property
    def aggregator(self) -> Aggregator | FlowerStrategy:
        """What `rule` names."""
        return rule_of(self.rule)

    def check_data(self, train: Split) -> None:
        names = self._names(train)
        if isinstance(self.aggregator, Aggregator):
            self.aggregator.check(len(names))

    def _names(self, train: Split) -> list[str]:
        if self.column not in train.subgroups:
            known = ", ".join(train.subgroups) or "none"
            raise InputError(f"rows have no subgroup '{self.column}' that names their hospital (they have: {known}); "
                             "deal them out with the plan's `hospitals`")
        return np.unique(train.subgroups[self.column]).tolist()

    def federation(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                   device: str = "cpu") -> Federation:
        """The hospitals whose rows a training split holds.

        Raises:
            InputError: Nothing says whose rows they are.
            NotApplicable: The recipe is no network.
        """
        self.check(recipe)
        task = Task(recipe.suited(train), train.x.shape[1:], train.classes, train.space, self.epochs, self.batch,
                    self.lr, self.proximal, seed, device)
        names = self._names(train)
        rows = tuple(train.take(np.flatnonzero(train.subgroups[self.column] == name)) for name in names)
        order = np.random.default_rng([seed, 6]).permutation(len(val))[:self.trusted]
        return Federation(task, tuple(names), rows, self.aggregator, self.rounds, val.take(np.sort(order)))

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        federation = self.federation(recipe, train, val, seed, device)
        trained = federation.train(journal=log_file())
        made = federation.task.classifier(trained.weights)
        made.notes |= {"hospitals": len(federation.names), "rounds": self.rounds,
                       "parameters": len(trained.weights)}
        made.notes |= trained.events
        return made

    def tell(self, subject: Subject, sheet: Sheet) -> None:
        tell_hospitals(self, subject, sheet)
