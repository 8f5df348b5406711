"""The hospital's side, in Flower's Message API: train on one's own rows, send back parameters and a count."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated.aggregation.private import Round
from federated.task.task import Task
from suite.base.errors import InputError
from suite.core.data import Split

WEIGHTS = "weights"
"""Name of the one array that travels: all parameters in a row."""
NPY = "numpy.ndarray"
"""How Flower calls arrays in NumPy's own format."""
COUNT = "num-examples"
TURN = "server-round"
SPENT = "spent"
"""Where in its state a hospital keeps account of its budget."""


Check = Callable[[Context, Task, np.ndarray, str, Any], None]
"""`(context, task, (d,) parameters that came in, "train" or "evaluate", number of the round)`: raises where a hospital
must not answer."""


def hospital(rows: Callable[[Context], tuple[Task, Split, int]], check: Check = lambda *_: None) -> ClientApp:
    """A client app of one hospital, or of all of them in turn where they share a process.

    A hospital whose task has a budget of privacy (`Task.private`) writes down in the context's state what each round
    costs, and refuses what the budget does not allow: to Flower, an error, which `federated.flower.grid.Border` tells
    as an event. It never judges a model on its rows, as nothing of that answer is private.

    Args:
        rows: From Flower's context, which knows which hospital this is: the task, the hospital's rows and its number.
        check: Judges what the server sent, before anything is computed from rows.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task, own, number = rows(context)
        weights, turn = unpacked(message.content["arrays"]), message.content["config"][TURN]
        check(context, task, weights, message.metadata.message_type, turn)
        count = len(own)
        if task.private:
            _charge(context.state, task, count, turn)
            count = task.private.count(count)
        trained = task.train(weights, own, number, turn)
        return Message(RecordDict({"arrays": packed(trained), "metrics": MetricRecord({COUNT: count})}),
                       reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        task, own, _ = rows(context)
        if task.private:
            raise InputError("how often a model is right about its rows, the hospital's budget does not allow for")
        weights = unpacked(message.content["arrays"])
        check(context, task, weights, message.metadata.message_type, message.content["config"].get(TURN, 1))
        model = task.classifier(weights)
        right = float((model.predict(own.x) == own.y).mean())
        return Message(RecordDict({"metrics": MetricRecord({"accuracy": right, COUNT: len(own)})}), reply_to=message)

    return app


def ledger(state: RecordDict) -> list[Round]:
    """The rounds that a hospital with a budget has answered, from the state that Flower keeps for it."""
    columns = [state[SPENT][name] for name in Round._fields] if SPENT in state else []
    return [Round(*entry) for entry in zip(*columns, strict=True)]


def _charge(state: RecordDict, task: Task, rows: int, turn: int) -> None:
    """Write down what a round costs, or raise `InputError` where it must not be answered.

    Before training: a round that fails on its way may have told something.
    """
    terms, past = task.terms(rows), ledger(state)
    if past and state[SPENT]["level"] != task.private.level:
        raise InputError(f"a budget of another kind was begun: {state[SPENT]['level']}, not {task.private.level}")
    task.private.check(terms, past, turn)
    columns = zip(*past, (turn, *terms[:3]), strict=True)
    state[SPENT] = ConfigRecord({"level": task.private.level} | {
        name: list(column) for name, column in zip(Round._fields, columns, strict=True)})


def packed(weights: np.ndarray) -> ArrayRecord:
    """(d,) parameters as what Flower sends."""
    flat = np.ascontiguousarray(weights, np.float32)
    record = ArrayRecord()  # given a dictionary, it would make each array once more
    record[WEIGHTS] = Array("float32", flat.shape, NPY, b"".join((_header(len(flat)), flat.data)))
    return record


def unpacked(arrays: ArrayRecord) -> np.ndarray:
    """What `packed` has made of (d,) parameters, read-only; and of anything else, what Flower makes of it.

    Parsing the header of a small network takes longer than reading its parameters. Here it is compared with the only
    one that (d,) float32 of so many bytes can have.
    """
    array = arrays[WEIGHTS]
    size, rest = divmod(len(array.data) - len(_header(1)), 4)
    known = array.stype == NPY and not rest and size > 0 and array.data.startswith(_header(size))
    return np.frombuffer(array.data, np.float32, offset=len(_header(size))) if known else array.numpy()


@lru_cache(maxsize=8)
def _header(size: int) -> bytes:
    """What precedes (size,) float32 numbers in NumPy's own format."""
    whole = BytesIO()
    np.save(whole, np.zeros(size, np.float32))
    return whole.getvalue()[:-4 * size]
