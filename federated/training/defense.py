"""Federated training as a defense: hospitals that train together and keep their rows, as every audit sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from federated.aggregation.aggregate import Aggregator, Mean
from federated.aggregation.private import CentralDP, Claim, LocalDP, RecordDP, claims
from federated.aggregation.rules import FlowerStrategy, rule_of
from federated.aggregation.trust import FLTrust
from federated.core.record import Record
from federated.flower.grid import Tamper
from federated.flower.simulate import federate
from federated.partition.sites import HOSPITAL, hospital_of
from federated.task.task import Task, digest
from federated.training.hospitals import kept, tell_hospitals
from suite.base.bounds import Count, LearningRate, NonNegative, Positive, Whole
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.logs import log_file
from suite.base.progress import advance
from suite.core.classifier import TorchClassifier
from suite.core.data import Split, patients_of
from suite.defenses.private.sizes import AT_EDGE, DECLARED, ROUNDED
from suite.evaluate.subject import Subject, measure_training
from suite.results.measurement import Sheet
from suite.training.loop import TorchDefense, TorchRecipe
from suite.training.operating import balance

CENTRAL = "hospital, by the server"
DELTA = 1e-5
"""Of epsilons about hospitals: small against one over the number of hospitals that there are."""


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
              **about: Any) -> tuple[np.ndarray, Record]:
        """Carry it out.

        Args:
            tamper: What hostile hospitals do.
            journal: File of the log; None for no log.
            about: What the log's first entry says besides.

        Returns:
            (d,) float32 parameters, and the account of it.

        Raises:
            InputError: As of `federate`.
        """
        record = Record(list(self.names), [len(split) for split in self.rows], journal, rounds=self.rounds,
                        rule=repr(self.rule), parameters=self.task.size, seed=self.task.seed, **about)

        def through(turn: int, weights: np.ndarray) -> None:
            record.log("model", round=turn, sha256=self.task.digest(weights))
            advance("rounds", turn, self.rounds)

        weights = federate(self.task, self.rows, self.rule, self.rounds, tamper, record.event, self._reference, through,
                           record.done)
        record.end(digest(self.model(weights).module.state_dict()))
        return weights, record

    def model(self, weights: np.ndarray) -> TorchClassifier:
        """The model of (d,) parameters; where the recipe asks for one, its operating point is chosen on the server's
        rows."""
        made = self.task.classifier(weights)
        balance(made, self.server)
        return made

    def with_rows(self, rows: Sequence[Split]) -> Federation:
        """The same hospitals with other training rows, of each in order."""
        return replace(self, rows=tuple(rows))

    def with_seed(self, seed: int) -> Federation:
        """The same hospitals, where everything random is drawn anew."""
        return replace(self, task=replace(self.task, seed=seed))

    @property
    def _reference(self) -> Callable[[int, np.ndarray], torch.Tensor] | None:
        """The server's own update, for a rule that is made for it; else what the rule said in the last round."""
        if not _trusts(self.rule):
            return None
        number = len(self.rows)  # none of the hospitals', for the sake of the seed
        own = replace(self.task, private=None)
        return lambda turn, came: torch.from_numpy(own.train(came, self.server, number, turn) - came)


def _trusts(rule: Any) -> bool:
    """Whether a rule, or one within it, holds an update of the server's own against the hospitals'."""
    return isinstance(rule, FLTrust) or (hasattr(rule, "then") and _trusts(rule.then))


def promised(federation: Federation) -> list[Claim]:
    """What is promised to each hospital; empty without a budget."""
    task = federation.task
    if isinstance(federation.rule, CentralDP):
        return [federation.rule.claim(federation.rounds, DELTA)] * len(federation.rows)
    return claims(task.private, map(len, federation.rows), task.batch, task.epochs) if task.private else []


@dataclass(frozen=True)
class FederatedTraining(TorchDefense):
    """Hospitals train one network in rounds and send parameters instead of rows, on Flower.

    Runs in this process, message by message (`federated.flower.grid`), with the same client and server apps as a
    deployment.
    Against a defense it is held like any other: the same attacks run on the model that comes out of it. What attacks on
    the federation itself do to it, by hostile hospitals and a curious server, is measured by attacks of their own.

    Of a hospital's rows nothing travels but what training leaves in parameters, and how many they are. That alone is no
    guarantee of privacy; `epsilon` makes it one. Where it is about rows, `notes` holds "epsilon_claimed",
    "epsilon_independent", "epsilon_replace_one" and "delta", each the largest of any hospital, so that they hold for
    every row of all.

    Validation rows belong to the server: a few of them are those that `fltrust` trusts in, and on which the operating
    point is chosen where the recipe asks for one. They stop nothing: all rounds are carried out, and the last model is
    returned.

    Attributes:
        rule: Joins updates (`medsec list aggregations`): a name, or a table as `{"name": "krum", "bad": 1}`; what mixes
            first has `then`, as `{"name": "nnm", "bad": 1, "then": {"name": "krum", "bad": 1}}`.
        rounds: Of the federation; all hospitals take part in each.
        epochs, batch, lr, proximal: Of a hospital's training in one round, as of `federated.task.task.Task`.
        column: Subgroup of the training rows that names the hospital.
        trusted: Rows of the server's own, at most.
        epsilon: How much may be given away in all rounds together; None for no bound.
        hides: What epsilon is about. "row": any one row of a hospital, from everybody, by DP-SGD there (`RecordDP` of
            `federated.aggregation.private`). "hospital": all that a hospital holds, from everybody, by noise of its own
            (`LocalDP`). "hospital, by the server": whether a hospital took part, from all but the server (`CentralDP`,
            which takes the place of the mean).
        clip: L2 norm to which a row's gradient, or a hospital's change, is cut where there is an epsilon.
        public_rows: Where epsilon is about rows: how many each hospital is publicly known to have, about; None rounds
            the number of each down.
        secure: The server sees no single update but their mean, as under secure aggregation. The protocol itself
            (`federated.flower.secure`) is not carried out here: what it changes is what a curious server sees.
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
    lr: LearningRate = 0.05
    proximal: NonNegative = 0.0
    column: str = field(default=HOSPITAL, kw_only=True)
    trusted: Count = field(default=100, kw_only=True)
    epsilon: Positive | None = field(default=None, kw_only=True)
    hides: Literal["row", "hospital", "hospital, by the server"] = field(default="row", kw_only=True)
    clip: Positive = field(default=1.0, kw_only=True)
    public_rows: Count | None = field(default=None, kw_only=True)
    secure: bool = field(default=False, kw_only=True)
    personal: Whole = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        self.aggregator  # noqa: B018 - a name that is unknown is told at once
        if not 0 <= self.proximal < np.inf or self.personal < 0:
            raise InputError(f"FederatedTraining: proximal and personal must not be negative, got {self.proximal:g} "
                             f"and {self.personal}")
        if self.secure and not isinstance(self.aggregator, Mean | FlowerStrategy):
            raise InputError("FederatedTraining: secure aggregation lets the server see the mean, and not what "
                             f"{self.rule} needs")
        if self.epsilon and self.hides == CENTRAL and not isinstance(self.aggregator, Mean):
            raise InputError(f"FederatedTraining: central DP is about the mean, and not what {self.rule} needs")

        if self.public_rows and not (self.epsilon and self.hides == "row"):
            raise InputError("FederatedTraining: public_rows is about an epsilon of rows; set epsilon and hides = "
                             "\"row\", or leave public_rows out")

    @cached_property
    def aggregator(self) -> Aggregator | FlowerStrategy:
        """What `rule` names."""
        return rule_of(self.rule)

    def check_data(self, train: Split) -> None:
        names = self._names(train)
        if isinstance(self.aggregator, Aggregator):
            self.aggregator.check(len(names))

    def _names(self, train: Split) -> list[str]:
        return np.unique(hospital_of(train, self.column, "the training split")).tolist()

    def federation(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                   device: str = "cpu") -> Federation:
        """The hospitals whose rows a training split holds.

        Raises:
            InputError: Nothing says whose rows they are.
            NotApplicable: The recipe is no network.
        """
        self.check(recipe)
        task = Task(recipe.suited(train), train.x.shape[1:], train.classes, train.space, self.epochs, self.batch,
                    self.lr, self.proximal, seed, device, self._budget)
        names = self._names(train)
        rows = tuple(train.take(np.flatnonzero(train.subgroups[self.column] == name)) for name in names)
        order = np.random.default_rng([seed, 6]).permutation(len(val))[:self.trusted]
        rule = self.aggregator
        if self.epsilon and self.hides == CENTRAL:
            rule = CentralDP.promising(self.epsilon, DELTA, self.rounds, len(names), self.clip, seed)
        return Federation(task, tuple(names), rows, rule, self.rounds, val.take(np.sort(order)))

    @property
    def _budget(self) -> RecordDP | LocalDP | None:
        """What each hospital keeps account of."""
        if self.epsilon is None or self.hides == CENTRAL:
            return None
        if self.hides == "row":
            return RecordDP(self.epsilon, self.rounds, max_grad_norm=self.clip, public_rows=self.public_rows)
        return LocalDP(self.epsilon, self.rounds, DELTA, self.clip)

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        federation = self.federation(recipe, train, val, seed, device)
        weights, record = federation.train(journal=log_file())
        made = federation.model(weights)
        made.notes |= {"hospitals": len(federation.names), "rounds": self.rounds, "parameters": len(weights)}
        made.notes |= record.events
        if (each := promised(federation)) and self.hides == "row":
            made.notes |= {"epsilon_claimed": max(c.epsilon for c in each),
                           "epsilon_independent": max(c.independent for c in each),
                           "epsilon_replace_one": max(c.replaced for c in each),
                           "delta": max(c.delta for c in each), "unit": "row", "neighbors": each[0].neighbors,
                           "public_rows_from": next((s for s in (AT_EDGE, ROUNDED) if s in {
                               c.public.source for c in each}), DECLARED)}
            if self.public_rows:
                made.notes["public_rows"] = self.public_rows
            if train.patients is not None:
                made.notes["rows_per_patient"] = int(np.unique(train.patients, return_counts=True)[1].max())
        return made


@measure_training.register
def _(defense: FederatedTraining, subject: Subject, sheet: Sheet) -> None:
    data = subject.data
    federation = defense.federation(subject.recipe, data.train, data.val, subject.seed, subject.device)
    task = federation.task
    came, alone = task.weights(subject.classifier), replace(task, proximal=0.0, private=None)
    fitted = replace(alone, epochs=defense.personal)

    def by_itself(rows: Split, _: int) -> TorchClassifier:
        key = repr((replace(alone, device=""), defense.rounds))
        return federation.model(kept(subject.shelf, key, rows,
                                     lambda: federate(alone, [rows], Mean(), defense.rounds)))

    def personal(rows: Split, number: int) -> TorchClassifier:
        return federation.model(fitted.train(came, rows, number, defense.rounds + 1) if defense.personal else came)

    tell_hospitals(defense.column, subject, sheet, by_itself, personal)
    for name, rows, claim in zip(federation.names, federation.rows, promised(federation), strict=False):
        at = {"subgroup": f"{defense.column}={name}", "people": len(np.unique(patients_of(rows))), "attack_params": {
            "unit": "row" if defense.hides == "row" else "hospital"} | claim.relation}
        sheet.add("hospital_epsilon_replace_one", claim.replaced, len(rows), **at)
        sheet.add("hospital_epsilon", claim.epsilon, len(rows), **at)
        sheet.add("hospital_epsilon_independent", claim.independent, len(rows), **at)
        sheet.add("hospital_delta", claim.delta, len(rows), **at)
