"""Where messages go: to hospitals in this process, and past a border that lets no broken reply in.

Flower's own way to simulate is Ray: processes, sockets, seconds of start-up. A strategy only talks to a `Grid`, so a
grid that calls the client app runs the same apps and strategies as plain function calls.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from federated.client_app import COUNT, WEIGHTS

logging.getLogger("flwr").setLevel(logging.ERROR)  # importing it makes it talk of every round
FIRST = 2
"""Node 1 is the server."""
CRASHED = 1
"""Flower's code for an error of unknown kind."""


class InProcessGrid(Grid):
    """Hospitals as function calls, one after another, in the order of their numbers.

    Args:
        app: The client app of all of them. The context tells it which one it is: `partition-id` from 0 up.
        sites: How many there are.
        absent: Says of a hospital's number and a message whether no reply ever comes.
    """

    def __init__(self, app: ClientApp, sites: int, absent: Callable[[int, Message], bool] = lambda *_: False) -> None:
        # Flower's messages read who they are from; its own runtimes set this before they call a server app
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._app, self._absent, self._replies, self._numbers = app, absent, {}, itertools.count()
        self._run: Any = None
        self.contexts = {number + FIRST: Context(
            run_id=1, node_id=number + FIRST, node_config={"partition-id": number, "num-partitions": sites},
            state=RecordDict(), run_config={}) for number in range(sites)}

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str,
                       ttl: float | None = None) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = []
        for message in messages:
            name = f"{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = name  # as Flower's own runtimes do
            sent.append(name)
            node = message.metadata.dst_node_id
            if self._absent(node - FIRST, message):
                continue
            try:
                self._replies[name] = self._app(message, self.contexts[node])
            except Exception as e:
                self._replies[name] = Message(Error(CRASHED, f"{type(e).__name__}: {e}"), reply_to=message)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


Tamper = Callable[[np.ndarray, list[Message]], list[Message]]
"""What colluding hospitals make of the (d,) parameters that came in and of a round's replies, all of which they see."""


@dataclass
class Border(Grid):
    """A grid whose replies are put in order and checked before any strategy sees them.

    Flower averages what comes: one NaN makes the model NaN, a false count takes it over, an order of arrival makes two
    runs differ. A reply that is refused is told to `event`, and is missing for the strategy like one that never came.

    Attributes:
        inner: What carries the messages: in this process, of Flower's simulation, or of its deployment.
        size: Number of parameters that travel.
        counts: The rows that each hospital has declared, by node; a reply that claims more is refused. Hospitals that
            have declared nothing may claim `most` each.
        most: See there.
        norm: Greatest L2 norm of parameters that is let in.
        tamper: Collusion between the hospitals and this border.
        event: `(what, facts)`.
    """

    inner: Grid
    size: int
    counts: dict[int, int] = field(default_factory=dict)
    most: int = 10**9
    norm: float = 1e6
    tamper: Tamper | None = None
    event: Callable[[str, dict[str, Any]], None] = lambda *_: None

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **named: Any) -> Message:
        return self.inner.create_message(*args, **named)

    def get_node_ids(self) -> list[int]:
        return sorted(self.inner.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return list(self.inner.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self._let_in(list(self.inner.pull_messages(message_ids)), set())

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        replies = list(self.inner.send_and_receive(sent, timeout=timeout))
        if self.tamper and replies:
            replies = self.tamper(sent[0].content["arrays"][WEIGHTS].numpy(), replies)
        return self._let_in(replies, {m.metadata.dst_node_id for m in sent})

    def _let_in(self, replies: list[Message], asked: set[int]) -> list[Message]:
        """The sound ones of some replies, by node; where it is known who was `asked`, of these only."""
        seen: set[int] = set()
        out = []
        for reply in sorted(replies, key=lambda r: r.metadata.src_node_id):
            node = reply.metadata.src_node_id
            why = self._wrong(reply)
            if not why and node in seen:
                why = "it has answered already"
            if not why and asked and node not in asked:
                why = "nobody asked it"
            if why:
                self.event("refused", {"hospital": node - FIRST, "why": why})
                continue
            seen.add(node)
            out.append(reply)
        for node in sorted(asked - {r.metadata.src_node_id for r in replies}):
            self.event("absent", {"hospital": node - FIRST})
        return out

    def _wrong(self, reply: Message) -> str:
        """Why a reply cannot be used; empty for a sound one."""
        if reply.has_error():
            return f"it failed: {reply.error.reason}"
        metrics = list(reply.content.metric_records.values())
        if len(metrics) != 1 or COUNT not in metrics[0]:
            return f"it tells no {COUNT}"
        count, node = metrics[0][COUNT], reply.metadata.src_node_id
        if not isinstance(count, int) or not 1 <= count <= self.counts.get(node, self.most):
            return f"{COUNT} is {count}, and may be from 1 to {self.counts.get(node, self.most)}"
        if not all(np.isfinite(v).all() for v in metrics[0].values()):
            return "a metric is not finite"
        if reply.metadata.message_type.startswith("train"):
            return self._broken(list(reply.content.array_records.values()))
        return ""

    def _broken(self, arrays: list[Any]) -> str:
        if len(arrays) != 1 or list(arrays[0]) != [WEIGHTS]:
            return f"it holds other arrays than {WEIGHTS}"
        weights = arrays[0][WEIGHTS].numpy()
        if weights.shape != (self.size,) or weights.dtype != np.float32:
            return f"its parameters are {weights.dtype} of shape {weights.shape}, and {self.size} float32 are wanted"
        length = float(np.linalg.norm(weights.astype(np.float64)))  # NaN or infinite where any of them is
        if not length <= self.norm:
            return f"its parameters have a norm of {length:g}, and at most {self.norm:g} is let in"
        return ""
