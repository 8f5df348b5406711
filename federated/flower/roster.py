"""Which of Flower's nodes is which hospital: a grid that speaks of hospitals by their numbers.

Flower draws the numbers of its nodes anew for every SuperLink. Rules, events and the order in which updates are added
need the hospitals' own numbers, so that a deployment gives the model that the grid in this process gives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from federated.flower.grid import FIRST, Event
from suite.base.errors import InputError


@dataclass
class Roster(Grid):
    """Flower's grid, of a simulation or a deployment, with hospital k as node `FIRST + k`.

    A hospital is told by the name that its key was registered with (`flwr supernode register KEY --name NAME`), which
    it cannot choose itself. Where no node has a name, as in Flower's simulation, the first is that which was registered
    first, and all have to be there once.

    Attributes:
        inner: Flower's grid.
        names: Of the hospitals, in the order of their numbers.
        least: Hospitals that have to be connected for a round to begin.
        patience: Seconds to wait for them; the round then begins with those that are there.
        event: Told of a "stranger" who is registered and connected under a name that is none of the hospitals'.
        own_numbers: Leave nodes their numbers in Flower, which secure aggregation writes into what it sends.
        asked, answered: Names of the hospitals that the last messages were sent to, and that sent something back.
    """

    inner: Any
    names: tuple[str, ...]
    least: int = 1
    patience: float = 600.0
    event: Event = lambda *_: None
    own_numbers: bool = False
    asked: list[str] = field(default_factory=list, init=False)
    answered: list[str] = field(default_factory=list, init=False)
    _numbers: dict[int, int] = field(default_factory=dict, init=False)
    _strangers: set[str] = field(default_factory=set, init=False)

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str,
                       ttl: float | None = None) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Of the hospitals that are connected.

        Raises:
            InputError: Two nodes were registered with the name of one hospital.
        """
        began = time.monotonic()
        while len(found := self._connected()) < self.least and time.monotonic() - began < self.patience:
            time.sleep(1)
        return sorted(self._spoken(node) for node in found)

    def name(self, node: int) -> str:
        """The hospital behind a node, by the number that is spoken here."""
        return next((self.names[k] for own, k in self._numbers.items() if self._spoken(own) == node), f"node {node}")

    def _spoken(self, node: int) -> int:
        return node if self.own_numbers else FIRST + self._numbers[node]

    def _connected(self) -> dict[int, int]:
        """Flower's number of each connected node -> number of the hospital."""
        nodes = list(self.inner.get_nodes())
        if any(node.name for node in nodes):
            self._numbers = self._named(nodes)
        elif not self._numbers and len(nodes) == len(self.names):
            nodes.sort(key=lambda node: node.registered_at)
            self._numbers = {node.node_id: number for number, node in enumerate(nodes)}
        return {node.node_id: self._numbers[node.node_id] for node in nodes if node.node_id in self._numbers}

    def _named(self, nodes: list[Any]) -> dict[int, int]:
        found: dict[int, int] = {}
        for node in nodes:
            if node.name in self.names:
                number = self.names.index(node.name)
                if number in found.values():
                    raise InputError(f"two SuperNodes are registered as hospital '{node.name}'")
                found[node.node_id] = number
            elif node.name not in self._strangers:
                self._strangers.add(node.name)
                self.event("stranger", {"name": node.name})
        return found

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError("a roster translates messages and their replies together, by send_and_receive")

    pull_messages = push_messages

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        hospitals = [message.metadata.dst_node_id for message in sent]
        nodes = {self._spoken(node): node for node in self._numbers}
        for message, hospital in zip(sent, hospitals, strict=True):
            message.metadata.dst_node_id = nodes[hospital]
        replies = list(self.inner.send_and_receive(sent, timeout=timeout))
        asked = {message.metadata.message_id: hospital for message, hospital in zip(sent, hospitals, strict=True)}
        for message, hospital in zip(sent, hospitals, strict=True):
            message.metadata.dst_node_id = hospital
        for reply in replies:
            source = reply.metadata.src_node_id
            # where a node was lost Flower itself replies, in the server's name
            spoken = self._spoken(source) if source in self._numbers else asked.get(reply.metadata.reply_to_message_id)
            reply.metadata.__dict__["_src_node_id"] = source if spoken is None else spoken
        self.asked = [self.name(hospital) for hospital in hospitals]
        self.answered = sorted({self.name(r.metadata.src_node_id) for r in replies if not r.has_error()})
        return replies
