"""The hospital's side, in Flower's Message API: train on one's own rows, send back parameters and a count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated.task import Task
from suite.data import Split

WEIGHTS = "weights"
"""Name of the one array that travels: all parameters in a row."""
COUNT = "num-examples"
TURN = "server-round"


def hospital(rows: Callable[[Context], tuple[Task, Split, int]]) -> ClientApp:
    """A client app of one hospital, or of all of them in turn where they share a process.

    Args:
        rows: From Flower's context, which knows which hospital this is: the task, the hospital's rows and its number.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task, own, number = rows(context)
        weights = message.content["arrays"][WEIGHTS].numpy()
        trained = task.train(weights, own, number, int(message.content["config"][TURN]))
        return Message(RecordDict({"arrays": packed(trained), "metrics": MetricRecord({COUNT: len(own)})}),
                       reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        task, own, _ = rows(context)
        model = task.classifier(message.content["arrays"][WEIGHTS].numpy())
        right = float((model.predict(own.x) == own.y).mean())
        return Message(RecordDict({"metrics": MetricRecord({"accuracy": right, COUNT: len(own)})}), reply_to=message)

    return app


def packed(weights: np.ndarray) -> ArrayRecord:
    """(d,) parameters as what Flower sends."""
    return ArrayRecord({WEIGHTS: Array(np.ascontiguousarray(weights, np.float32))})
