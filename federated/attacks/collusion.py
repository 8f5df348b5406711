"""Hostile hospitals in a running federation: between the replies and the border, they see each other's updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import Message

from federated.flower.client_app import WEIGHTS, packed
from federated.flower.grid import FIRST


@dataclass
class Collusion:
    """What `federated.flower.grid.Border` takes as `tamper`: some hospitals send what an attack makes of everybody's
    updates.

    The attacker knows the updates of all honest hospitals whose replies are sound, those that its own hospitals would
    honestly have sent, and how the model changed in the last round. Where no honest hospital answers, it does nothing.

    Attributes:
        attack: What they send, a `federated.attacks.hostile.UpdateAttack`.
        bad: Numbers of the hospitals, from 0 up.
        seed: Of the attack, with the number of the round.
    """

    attack: Callable[..., torch.Tensor]
    bad: frozenset[int]
    seed: int = 0
    _came: np.ndarray | None = field(default=None, repr=False)

    def __call__(self, turn: int, came: np.ndarray, replies: list[Message]) -> list[Message]:
        last = None if turn == 1 or self._came is None else torch.from_numpy(came - self._came)
        self._came = np.array(came)
        theirs, others = ([r for r in replies if (r.metadata.src_node_id - FIRST in self.bad) == bad]
                          for bad in (True, False))
        if theirs and others:
            honest, own = (torch.from_numpy(np.stack([r.content["arrays"][WEIGHTS].numpy() - came for r in part]))
                           for part in (others, theirs))
            seed = int(np.random.SeedSequence([self.seed, turn]).generate_state(1)[0])
            made = self.attack(honest, len(theirs), seed, own, last)
            for reply, update in zip(theirs, made, strict=True):
                reply.content["arrays"] = packed(came + update.numpy())
        return replies
