"""The border of secure aggregation: of each of its four stages, a reply that is not what the protocol has there.

What a hospital's masked numbers add up to cannot be judged. That they are so many numbers, and that each stage holds
what the next one reads, can be. Flower's workflow reads replies as they are: a record of another type, a list that is
too short or a vector of another size ends the whole run with an error that names nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common import recorddict_compat
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import bytes_to_public_key

from federated.flower.grid import FIRST, MAX_HEADER, MAX_ITEM, Event, one_line

MAX_KEY = 1024
"""Bytes of a public key."""
MAX_SHARE = 4096
"""Bytes of an encrypted share of a hospital's two secrets, or of a share of one of them."""


@dataclass
class SecureBorder(Grid):
    """A grid that lets in no reply that would end Flower's workflow for SecAgg+ with an error.

    A refused reply is told to `event` ("refused") and is missing, as of a hospital that left: the protocol goes on
    while enough stay.

    Attributes:
        inner: What carries the messages.
        size: Number of parameters.
        most: Rows of the largest hospital.
        modulus: Of the masked numbers.
        event: `(what, facts)`.
        refused: Nodes whose replies were refused.
    """

    inner: Grid
    size: int
    most: int
    modulus: int
    event: Event = lambda *_: None
    refused: set[int] = field(default_factory=set, init=False)

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **named: Any) -> Message:
        return self.inner.create_message(*args, **named)

    def get_node_ids(self) -> list[int]:
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError("a border knows what was asked, so messages pass it by send_and_receive only")

    pull_messages = push_messages

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = {message.metadata.dst_node_id: message for message in messages}
        # before they are sent, as hospitals in this process may take the stage out
        asked = {node: dict(message.content.config_records[RECORD_KEY_CONFIGS]) for node, message in sent.items()}
        found: dict[int, Message] = {}
        for reply in self.inner.send_and_receive(list(sent.values()), timeout=timeout):
            node = reply.metadata.src_node_id
            if reply.has_error():
                found[node] = reply
                continue
            try:
                why = ("nobody asked it" if node not in asked else "it has answered already" if node in found
                       else self._wrong(reply.content, asked[node], node))
            except Exception as e:  # whatever a hospital has packed that nobody thought of
                why = f"it cannot be read: {type(e).__name__}: {e}"
            if why:
                self.refused.add(node)
                self.event("refused", {"hospital": node - FIRST, "why": one_line(why)})
            else:
                found[node] = reply
        return [found[node] for node in sorted(found)]

    def _wrong(self, reply: RecordDict, asked: dict[str, Any], node: int) -> str:
        """Why a reply cannot be used; empty for a sound one."""
        told = reply.get(RECORD_KEY_CONFIGS)
        stage = asked[Key.STAGE]
        if not isinstance(told, ConfigRecord):
            return f"stage {stage}: its {RECORD_KEY_CONFIGS} are a {type(told).__name__}, and no ConfigRecord"
        judge, wanted = self._stages[stage]
        if stage != Stage.COLLECT_MASKED_VECTORS and len(reply) != 1:
            return f"stage {stage}: it holds {len(reply)} records, and one is wanted"
        if told.keys() != wanted:
            return f"stage {stage}: it holds {len(told)} entries, and {', '.join(sorted(wanted))} are wanted"
        why = judge(self, told, asked, node, reply)
        return f"stage {stage}: {why}" if why else ""

    def _keys(self, told: ConfigRecord, _: dict[str, Any], __: int, ___: RecordDict) -> str:
        first, second = told[Key.PUBLIC_KEY_1], told[Key.PUBLIC_KEY_2]
        if not _short_bytes([first, second], MAX_KEY):
            return f"its public keys are not two texts of at most {MAX_KEY} bytes"
        if first == second:  # at which all others would stop
            return "its two public keys are the same"
        for key in (first, second):
            bytes_to_public_key(key)
        return ""

    def _shares(self, told: ConfigRecord, asked: dict[str, Any], node: int, _: RecordDict) -> str:
        others = {int(name) for name in asked if name != Key.STAGE} - {node}
        return _paired(told[Key.DESTINATION_LIST], told[Key.CIPHERTEXT_LIST], others)

    def _masked(self, told: ConfigRecord, _: dict[str, Any], __: int, reply: RecordDict) -> str:
        if any(record.values() for record in reply.array_records.values()):
            return "it holds arrays that are not masked"
        count = reply.get("fitres.num_examples")
        if not isinstance(count, MetricRecord) or set(count) != {"num_examples"}:
            return "it does not tell its number of rows, and nothing else, in one MetricRecord"
        if not isinstance(rows := count["num_examples"], int) or not 1 <= rows <= self.most:
            return f"num-examples is {one_line(repr(rows), 60)}, and may be from 1 to {self.most}"
        if recorddict_compat.recorddict_to_fitres(reply, True).metrics:
            return "it tells metrics, and none are wanted"
        packed = told[Key.MASKED_PARAMETERS]
        if not isinstance(packed, list) or len(packed) != 2 or not _short_bytes(packed, MAX_HEADER
                                                                               + MAX_ITEM * self.size):
            return f"its masked numbers are not two arrays for {self.size} parameters"
        for array, size in zip(map(bytes_to_ndarray, packed), (1, self.size), strict=True):
            if array.shape != (size,) or array.dtype != np.int64:
                return f"its masked numbers are {array.dtype} of shape {array.shape}, and ({size},) int64 are wanted"
            if array.min() < 0 or array.max() >= self.modulus:
                return f"its masked numbers lie outside 0 to {self.modulus - 1}"
        return ""

    def _unmasked(self, told: ConfigRecord, asked: dict[str, Any], _: int, __: RecordDict) -> str:
        return _paired(told[Key.NODE_ID_LIST], told[Key.SHARE_LIST],
                       {*asked[Key.ACTIVE_NODE_ID_LIST], *asked[Key.DEAD_NODE_ID_LIST]})

    _stages = {  # noqa: RUF012 what judges a stage, and the entries of a reply there
        Stage.SETUP: (_keys, {Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2}),
        Stage.SHARE_KEYS: (_shares, {Key.DESTINATION_LIST, Key.CIPHERTEXT_LIST}),
        Stage.COLLECT_MASKED_VECTORS: (_masked, {Key.MASKED_PARAMETERS}),
        Stage.UNMASK: (_unmasked, {Key.NODE_ID_LIST, Key.SHARE_LIST}),
    }


def _short_bytes(values: Iterable[Any], most: int) -> bool:
    return all(isinstance(value, bytes) and len(value) <= most for value in values)


def _paired(nodes: Any, texts: Any, wanted: set[int]) -> str:
    """Why these are not one text for each of the wanted nodes; empty where they are."""
    if not isinstance(nodes, list) or len(nodes) != len(wanted) or set(nodes) != wanted:
        return f"its shares are not one for each of {len(wanted)} hospitals"
    if not isinstance(texts, list) or len(texts) != len(wanted) or not _short_bytes(texts, MAX_SHARE):
        return f"its shares are not {len(wanted)} texts of at most {MAX_SHARE} bytes"
    return ""
