"""Where messages go: to hospitals in this process, and past a border that lets no broken reply in.

Flower's own way to simulate is Ray: processes, sockets, seconds of start-up. A strategy only talks to a `Grid`, so a
grid that calls the client app runs the same apps and strategies as plain function calls.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from federated.flower.client_app import COUNT, TURN, WEIGHTS, unpacked

logging.getLogger("flwr").setLevel(logging.ERROR)  # importing it makes it talk of every round
FIRST = 2
"""Node 1 is the server."""
CRASHED = 2
"""Flower's code for a client app that raised an exception."""
SAID = {MessageType.TRAIN: {COUNT}, MessageType.EVALUATE: {COUNT, "accuracy"}}
"""Metrics that a reply holds, by the kind of message; one to train also holds parameters."""
NORM = 1e3
"""L2 norm of a change of the parameters that no sound training comes near."""
TYPES = {"arrays": ArrayRecord, "metrics": MetricRecord}
"""Records of a reply, and of what type each has to be: Flower's strategies take a record of another type for missing,
and fail."""
MAX_HEADER, MAX_ITEM = 4096, 8
"""Bytes that a reply may take beside its parameters, and for each of them."""
MAX_TEXT = 200
"""Characters of a hospital's own words that are written into a journal or a log."""
Event = Callable[[str, dict[str, Any]], None]
"""`(what, facts)`: who is told what went wrong, and did not stop the federation."""


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """What somebody else has written as one line that ends no other: everything that is not printable is escaped (line
    breaks, terminal controls, marks that turn the direction of text), and the end is cut off.

    Example:
        >>> one_line("scanner\\nerror: all is well")
        'scanner\\\\nerror: all is well'
    """
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
                   for c in text[:limit])
    return safe if len(text) <= limit and len(safe) <= limit else safe[:limit - 1] + "…"


def _listed(names: Iterable[Any]) -> str:
    """The first names of many, each cut, in sorted order."""
    known = sorted(map(str, itertools.islice(names, 1000)))
    return ", ".join(one_line(name, 40) for name in known[:3]) + (f" and {len(known) - 3} more" * (len(known) > 3)) \
        or "nothing"


def _short(value: Any) -> str:
    """A value that a hospital claims, cut."""
    if isinstance(value, list) and len(value) > 3:
        return f"a list of {len(value)}"
    return one_line(repr(value), 60)


class InProcessGrid(Grid):
    """Hospitals as function calls, one after another, in the order of their numbers.

    Args:
        app: The client app of all of them. The context tells it which one it is: `partition-id` from 0 up.
        sites: How many there are.
        absent: Says of a hospital's number and a message whether no reply ever comes.
        done: Told `("worked", {"hospital", "seconds"})` whenever one has answered.
    """

    def __init__(self, app: ClientApp, sites: int, absent: Callable[[int, Message], bool] = lambda *_: False,
                 done: Event = lambda *_: None) -> None:
        # Flower's messages read who they are from; its own runtimes set this before they call a server app
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._app, self._absent, self._replies, self._numbers = app, absent, {}, itertools.count()
        self._done = done
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
            own = copy.copy(message)  # all of a round share their content, which an app may change
            own.content = RecordDict({key: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
                                      for key, record in message.content.items()})
            began = time.perf_counter()
            try:
                self._replies[name] = self._app(own, self.contexts[node])
            except Exception as e:
                self._replies[name] = Message(Error(CRASHED, f"{type(e).__name__}: {e}"), reply_to=message)
            self._done("worked", {"hospital": node - FIRST, "seconds": time.perf_counter() - began})
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


def size_of(message: Message) -> int:
    """Bytes of the arrays in a message, as they are sent; 0 of one that holds none."""
    arrays = None if message.has_error() else message.content.get("arrays")
    return sum(len(array.data) for array in arrays.values()) if isinstance(arrays, ArrayRecord) else 0


def _sizes(nodes: Iterable[int], replies: Iterable[Message]) -> list[int]:
    """Bytes of the arrays that came from each of the nodes."""
    sizes = dict.fromkeys(nodes, 0)
    for reply in replies:
        if reply.metadata.src_node_id in sizes:
            sizes[reply.metadata.src_node_id] += size_of(reply)
    return list(sizes.values())


Tamper = Callable[[int, np.ndarray, list[Message]], list[Message]]
"""What colluding hospitals make of a round (1, 2, ...), the (d,) parameters that came in, and all sound replies."""
Sound = Callable[[Message, Message], str]
"""Of a reply to train and its message, why the arrays that it holds cannot be used; empty for sound ones."""


@dataclass
class Border(Grid):
    """A grid whose replies are put in order and checked before any strategy sees them.

    Flower averages what comes: one NaN makes the model NaN, a false count takes it over, an order of arrival makes two
    runs differ. A reply that is refused is told to `event`, and is missing for the strategy like one that never came.

    Attributes:
        inner: What carries the messages: in this process, of Flower's simulation, or of its deployment.
        size: Number of parameters that travel; not used with `sound`.
        counts: The rows that each hospital has declared, by node; a reply that claims more is refused. Hospitals that
            have declared nothing may claim `most` each.
        most: See there.
        norm: Greatest L2 norm of a change of the parameters that is let in; not used with `sound`.
        tamper: Collusion between the hospitals and this border, in rounds of training.
        event: `(what, facts)`: "refused" or "absent".
        done: Told `("round", {"round", "asked", "answered", "bytes asked", "bytes answered", "seconds"})` after each
            round of training: numbers of hospitals; bytes of parameters to each of the asked; and bytes from each of
            the asked, in their order, whether or not they were let in.
        sound: Judges what a reply to train holds, where that is not one vector of parameters.
    """

    inner: Grid
    size: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    most: int = 10**9
    norm: float = NORM
    tamper: Tamper | None = None
    event: Event = lambda *_: None
    done: Event = lambda *_: None
    sound: Sound | None = None

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
        raise NotImplementedError("a border knows what was asked, so messages pass it by send_and_receive only")

    pull_messages = push_messages

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = {m.metadata.dst_node_id: m for m in sorted(messages, key=lambda m: m.metadata.dst_node_id)}
        if not sent:
            return []
        began = time.perf_counter()
        replies = list(self.inner.send_and_receive(list(sent.values()), timeout=timeout))
        self._miss(sent, replies)
        arrived, replies, first = replies, self._let_in(replies, sent), next(iter(sent.values()))
        if first.metadata.message_type == MessageType.TRAIN:
            turn = int(first.content["config"][TURN])
            if self.tamper and replies:
                arrived = self._tampered(turn, first, replies)
                replies = self._let_in(arrived, sent)
            self.done("round", {
                "round": turn, "asked": [node - FIRST for node in sent],
                "answered": [r.metadata.src_node_id - FIRST for r in replies],
                "bytes asked": size_of(first), "bytes answered": _sizes(sent, arrived),
                "seconds": round(time.perf_counter() - began, 3)})
        return replies

    def _tampered(self, turn: int, message: Message, replies: list[Message]) -> list[Message]:
        """What colluding hospitals make of sound replies; one that they keep back is missing like any other."""
        weights = np.asarray(message.content["arrays"][WEIGHTS].numpy(), np.float32)  # some strategies send float64
        had = [reply.metadata.src_node_id for reply in replies]
        found = self.tamper(turn, weights, replies)
        self._miss(had, found)
        return found

    def _miss(self, nodes: Iterable[int], replies: Iterable[Message]) -> None:
        """Tell which of the nodes, in rising order, have not replied."""
        for node in sorted(set(nodes) - {r.metadata.src_node_id for r in replies}):
            self.event("absent", {"hospital": node - FIRST})

    def _let_in(self, replies: list[Message], sent: Mapping[int, Message]) -> list[Message]:
        """The sound ones of the replies to messages, by node."""
        out: dict[int, Message] = {}
        for reply in sorted(replies, key=lambda r: r.metadata.src_node_id):
            node = reply.metadata.src_node_id
            try:
                why = "it has answered already" if node in out else self._wrong(reply, sent.get(node))
            except Exception as e:  # whatever a hospital has packed that nobody thought of
                why = f"it cannot be read: {type(e).__name__}: {e}"
            if why:
                self.event("refused", {"hospital": node - FIRST, "why": one_line(why)})
            else:
                out[node] = reply
        return list(out.values())

    def _wrong(self, reply: Message, message: Message | None) -> str:
        """Why a reply cannot be used; empty for a sound one."""
        if message is None:
            return "nobody asked it"
        if reply.has_error():
            return f"it failed: {reply.error.reason}"
        kind, asked = message.metadata.message_type, message.metadata.message_id
        if reply.metadata.message_type != kind or (asked and reply.metadata.reply_to_message_id != asked):
            return "it answers another message"
        train = kind == MessageType.TRAIN
        wanted = {"arrays", "metrics"} if train else {"metrics"}
        if set(reply.content) != wanted:
            return f"it holds {_listed(reply.content)}"
        for name in sorted(wanted):
            if not isinstance(reply.content[name], TYPES[name]):
                return f"its {name} are a {type(reply.content[name]).__name__}, and no {TYPES[name].__name__}"
        said = reply.content["metrics"]
        if said.keys() != SAID[kind]:
            return f"it tells {_listed(said)}, and {', '.join(sorted(SAID[kind]))} is wanted"
        most = self.counts.get(reply.metadata.src_node_id, self.most)
        if not isinstance(said[COUNT], int) or not 1 <= said[COUNT] <= most:
            return f"{COUNT} is {_short(said[COUNT])}, and may be from 1 to {most}"
        if train:
            return (self.sound or self._broken)(reply, message)
        right = said["accuracy"]
        return "" if isinstance(right, float) and 0 <= right <= 1 else f"its accuracy is {_short(right)}"

    def _broken(self, reply: Message, message: Message) -> str:
        arrays, came = reply.content["arrays"], unpacked(message.content["arrays"])
        if list(arrays) != [WEIGHTS]:
            return f"it holds other arrays than {WEIGHTS}"
        if (sent := size_of(reply)) > MAX_HEADER + MAX_ITEM * self.size:  # before any of it is read
            return f"it holds {sent} bytes of arrays, and {self.size} float32 are wanted"
        weights = unpacked(arrays)
        if weights.shape != (self.size,) or weights.dtype != np.float32:
            return f"its parameters are {weights.dtype} of shape {weights.shape}, and {self.size} float32 are wanted"
        # NaN or infinite where any of them is
        length = float(np.linalg.norm(weights.astype(np.float64) - came))
        if not length <= self.norm:
            return f"its change has a norm of {length:g}, and at most {self.norm:g} is let in"
        return ""
