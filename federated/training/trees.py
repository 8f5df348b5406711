"""Federated boosting of trees on Flower: both sides, and the whole as a defense."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Literal, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from federated.core.record import Record
from federated.flower.client_app import COUNT, TURN
from federated.flower.grid import FIRST, Border, Event, InProcessGrid, size_of
from federated.partition.sites import HOSPITAL, hospital_of
from federated.training.boosting import Boosting
from federated.training.hospitals import tell_hospitals
from suite.base.bounds import Count
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.base.logs import log_file
from suite.base.progress import advance
from suite.core.classifier import EstimatorClassifier
from suite.core.data import Split
from suite.core.defense import Defense
from suite.core.recipe import Recipe
from suite.core.space import Kind
from suite.evaluate.subject import Subject, measure_training
from suite.results.measurement import Sheet
from tabular.models import XGBoost

TREES = "0"
"""Name of the one array that travels, XGBoost's JSON as uint8; Flower's own strategies for XGBoost call it so."""
How = Literal["bagging", "cyclic"]


def grower(rows: Callable[[Context], tuple[Boosting, Split]]) -> ClientApp:
    """A client app of one hospital, or of all in turn where they share a process, that sends back new trees only.

    Args:
        rows: From Flower's context, which knows which hospital this is: the model, and the hospital's rows.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        boosting, own = rows(context)
        grown = boosting.grow(message.content["arrays"][TREES].numpy().tobytes(), own)
        return Message(RecordDict({"arrays": packed(grown), "metrics": MetricRecord({COUNT: len(own)})}),
                       reply_to=message)

    return app


def packed(model: bytes) -> ArrayRecord:
    """A model as what Flower sends."""
    return ArrayRecord({TREES: Array(np.frombuffer(model, np.uint8))})


MAX_BYTES = 2**24
"""Of the trees in one reply, before they are read."""


def sound(boosting: Boosting) -> Callable[[Message, Message], str]:
    """What a `Border` asks about replies with trees."""
    def why(reply: Message, _: Message) -> str:
        arrays = reply.content["arrays"]
        if list(arrays) != [TREES]:
            return f"it holds other arrays than {TREES}"
        if (sent := size_of(reply)) > MAX_BYTES:
            return f"it holds {sent} bytes of arrays, and at most {MAX_BYTES} are let in"
        grown = arrays[TREES].numpy()
        if grown.dtype != np.uint8 or grown.ndim != 1:
            return f"its trees are {grown.dtype} of shape {grown.shape}, and a row of uint8 is wanted"
        return boosting.flaw(grown.tobytes(), reply.content["metrics"][COUNT])

    return why


class Boosted(FedAvg):
    """Rounds in which hospitals add trees to one model: all of them at once, or one after another.

    Does what Flower's FedXgbBagging and FedXgbCyclic do, which also run with `grower` (the latter if it sent back whole
    models), but for this: hospitals are asked in the order of their numbers, which Flower draws from Python's global
    generator; all trees of a reply are added, each to its class, where Flower's bagging takes the first, for the first
    class; one after another, a hospital adds to the model and cannot replace it; and the model is written once a
    round, rather than read and written for each reply.

    Args:
        boosting: The model.
        how: "bagging" or "cyclic".
        event: Told of rounds without a result, which leave the model as it was.
    """

    def __init__(self, boosting: Boosting, how: How, event: Event = lambda *_: None) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._boosting, self._how, self._event = boosting, how, event
        self._model = json.loads(boosting.empty)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord,
                        grid: Grid) -> Iterable[Message]:
        nodes = sorted(grid.get_node_ids())
        if self._how == "cyclic":
            nodes = [nodes[(server_round - 1) % len(nodes)]]
        config[TURN] = server_round
        return self._construct_messages(RecordDict({"arrays": arrays, "config": config}), nodes, MessageType.TRAIN)

    def aggregate_train(self, server_round: int,
                        replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        if not replies:
            self._event("no result", {"round": server_round, "answered": 0, "why": "nobody has answered"})
            return None, None
        for reply in replies:
            self._boosting.add(self._model, reply.content["arrays"][TREES].numpy().tobytes())
        return packed(json.dumps(self._model).encode()), MetricRecord({"hospitals": len(replies)})


def boost(boosting: Boosting, grid: Border, how: How, number: int, event: Event = lambda *_: None) -> bytes:
    """Carry out a federation.

    Args:
        boosting: The model.
        grid: Carries the messages, and checks the replies with `sound`.
        how: "bagging": all hospitals boost in each round, each for what the model lacked before it. "cyclic": one
            hospital in each round, by their numbers.
        number: Rounds.
        event: Told of rounds without a result ("no result").

    Returns:
        The model, as XGBoost's JSON.
    """
    def told(turn: int, _: ArrayRecord) -> None:
        advance("federated trees", turn, number)

    result = Boosted(boosting, how, event).start(grid=grid, initial_arrays=packed(boosting.empty), num_rounds=number,
                                                 evaluate_fn=told)
    return result.arrays[TREES].numpy().tobytes() if len(result.arrays) else boosting.empty


def boost_here(boosting: Boosting, hospitals: Sequence[Split], how: How, number: int,
               event: Event = lambda *_: None, done: Event = lambda *_: None) -> bytes:
    """`boost` with hospitals in this process, of which the training rows are given; `event` is also told what the
    border refused, and `done` what `InProcessGrid` and `Border` have done.

    Raises:
        InputError: No hospitals.
    """
    if not hospitals:
        raise InputError("a federation needs hospitals, and there are none")
    app = grower(lambda context: (boosting, hospitals[context.node_config["partition-id"]]))
    counts = {FIRST + k: len(rows) for k, rows in enumerate(hospitals)}
    grid = Border(InProcessGrid(app, len(hospitals), done=done), counts=counts, event=event, done=done,
                  sound=sound(boosting))
    return boost(boosting, grid, how, number, event)


@dataclass(frozen=True)
class FederatedTrees(Defense):
    """XGBoost's trees, boosted by hospitals that keep their rows to themselves.

    Depth, learning rate and class balancing are the recipe's, and `rounds` takes the place of its number of trees.
    Nothing stops early, as nothing does in the recipe, and `val` is not used. What travels are trees, and how many rows
    a hospital has. Trees tell about the rows that they were grown on: nothing here is private in a stricter sense.

    Attributes:
        how: "bagging": each round, all hospitals boost for what the model lacks, at the learning rate divided by their
            number, and all their trees are added. "cyclic": each round, one of them boosts, and the next goes on.
        rounds: How often.
        trees: Times that a hospital boosts in a round.
        column: Subgroup of the training split that says whose a row is.
    """

    info: ClassVar[Info] = Info(
        "Federated XGBoost", "Flower's FedXgbBagging and FedXgbCyclic (Beutel et al. 2020, arXiv 2007.14390), which "
        "follow no paper of their own", cost="`rounds` x `trees` trees at one hospital (cyclic) or each, and as often "
        "the whole model read by it",
        departs="the start margin is 0, not of the first hospital's patients; bagging divides the learning rate by the "
                "number of hospitals, an option of Flower's examples; replies are checked; nothing is drawn at random")
    inputs: ClassVar[Kind] = "table"
    how: How = "bagging"
    rounds: Count = 50
    trees: Count = 1
    column: str = HOSPITAL

    def __post_init__(self) -> None:
        if self.how not in get_args(How) or self.rounds < 1 or self.trees < 1:
            raise InputError("FederatedTrees: needs how = 'bagging' or 'cyclic', rounds >= 1 and trees >= 1")

    def check(self, recipe: Recipe) -> None:
        if not isinstance(recipe, XGBoost):
            raise NotApplicable(f"FederatedTrees trains XGBoost only, and this is {type(recipe).__name__}")

    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> EstimatorClassifier:
        self.check(recipe)
        names, whose = np.unique(hospital_of(train, self.column, "the training split"), return_inverse=True)
        share = 1 / len(names) if self.how == "bagging" else 1.0
        boosting = Boosting(recipe, train.x.shape[1], len(train.classes), self.trees, share)
        rows = [train.take(np.flatnonzero(whose == k)) for k in range(len(names))]
        record = Record(names.tolist(), [len(split) for split in rows], log_file(), rounds=self.rounds, rule=self.how,
                        seed=seed)
        model = boost_here(boosting, rows, self.how, self.rounds, record.event, record.done)
        made = boosting.classifier(model, train.space)
        record.end(sha256(bytes(made.estimator.get_booster().save_raw("json"))).hexdigest())  # what will be stored
        made.notes |= {"hospitals": len(names), "rounds": self.rounds} | record.events
        return made

    def check_data(self, train: Split) -> None:
        hospital_of(train, self.column, "the training split")


@measure_training.register
def _(defense: FederatedTrees, subject: Subject, sheet: Sheet) -> None:
    def by_itself(rows: Split, _: int) -> EstimatorClassifier:
        boosting = Boosting(subject.recipe, rows.x.shape[1], len(rows.classes), defense.trees)
        return boosting.classifier(boost_here(boosting, [rows], defense.how, defense.rounds), rows.space)

    tell_hospitals(defense.column, subject, sheet, by_itself)
