"""Hospitals whose replies are no sound ones: broken programs, or the simplest of attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from flwr.app import Error, Message, MetricRecord

from federated.attacks.attackers import HostileAttack
from federated.flower.client_app import COUNT, WEIGHTS, packed
from federated.flower.grid import CRASHED, FIRST, Tamper
from suite.base.errors import InputError
from suite.base.info import Info

COUNTS = {"count": 10**9, "negative": -1, "none": 0, "lower": 1}
"""False numbers of rows, by their names in `Broken.sends`."""
Kind = Literal["nan", "infinite", "zero", "shape", "count", "negative", "none", "lower", "silent", "replay", "crash"]


@dataclass(frozen=True)
class Broken(HostileAttack):
    """Each hostile hospital sends something that no strategy of Flower's looks at before it takes it.

    Attributes:
        sends: "nan" or "infinite" parameters; "zero", no change at all; parameters of another "shape"; a false number
            of rows, of a billion ("count"), "negative", "none" at all, or "lower" than it has, which nobody can see and
            which only takes weight from it; nothing ("silent"); its answer to the round before ("replay"); or that its
            program has failed ("crash").
    """

    info: ClassVar[Info] = Info("Broken replies", "none", "no-box", ("poisoning",), "nothing")
    sends: Kind = "nan"

    def __post_init__(self) -> None:
        if self.sends not in get_args(Kind):
            raise InputError(f"Broken: sends must be one of {', '.join(get_args(Kind))}, got {self.sends!r}")

    def tamper(self, bad: frozenset[int], seed: int = 0) -> Tamper:
        before: dict[int, Message] = {}

        def broken(_: int, came: np.ndarray, replies: list[Message]) -> list[Message]:
            out = []
            for reply in replies:
                node = reply.metadata.src_node_id
                if node - FIRST not in bad:
                    out.append(reply)
                elif self.sends == "replay":
                    out.append(before.get(node, reply))
                    before[node] = reply
                elif self.sends != "silent":
                    out.append(self._spoiled(reply, came))
            return out

        return broken

    def _spoiled(self, reply: Message, came: np.ndarray) -> Message:
        if self.sends == "crash":
            return Message(Error(CRASHED, "RuntimeError: none of its business"), metadata=reply.metadata)
        if self.sends in COUNTS:
            reply.content["metrics"] = MetricRecord({COUNT: COUNTS[self.sends]})
            return reply
        own = reply.content["arrays"][WEIGHTS].numpy()
        reply.content["arrays"] = packed({"nan": np.full_like(own, np.nan), "infinite": np.full_like(own, np.inf),
                                          "zero": came, "shape": own[:-1]}[self.sends])
        return reply
