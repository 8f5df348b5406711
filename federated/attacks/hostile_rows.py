"""Hospitals that train on poisoned rows, and where they plant a backdoor may send so much of it that it prevails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from federated.attacks.attackers import HostileAttack
from federated.attacks.hostile import Scaling
from federated.flower.grid import Tamper
from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.attack import Poisoned, PoisoningAttack
from suite.core.data import Split, joined
from suite.core.space import Kind


@dataclass(frozen=True)
class HostileRows(HostileAttack):
    """Hostile hospitals poison their own rows together, so that they plant one trigger, and train on them honestly.

    Attributes:
        poison: What they do to their rows: a registered poisoning attack, or a table as `{"name": "backdoor", "rate":
            0.3}`, where `rate` is the share of the hostile hospitals' rows.
        replace_model: Send the update so large that it outweighs the honest ones: `federated.attacks.hostile.Scaling`.
    """

    poison: str | dict[str, Any] = field(default_factory=lambda: {"name": "label-flip-random", "rate": 0.9})
    replace_model: bool = False

    def __post_init__(self) -> None:
        self._poison  # noqa: B018 - a name that is unknown is told at once

    @cached_property
    def _poison(self) -> PoisoningAttack:
        spec = {"name": self.poison} if isinstance(self.poison, str) else dict(self.poison)
        made = registry.make("attacks", spec.pop("name", ""), spec)
        if not isinstance(made, PoisoningAttack):
            raise InputError(f"poison '{self.poison}' is no poisoning attack")
        return made

    @property
    def info(self) -> Info:
        """Of the poisoning, in a federation."""
        own = self._poison.info
        papers = own.paper + ("; " + Scaling.info.paper if self.replace_model else "")
        return Info(f"{own.title} at hospitals" + (", with model replacement" if self.replace_model else ""), papers,
                    "data", own.threats, "one federation", own.departs, own.strong, own.strong_from)

    @property
    def inputs(self) -> Kind:
        """As of the poisoning."""
        return self._poison.inputs

    def hindered(self, rows: Split, seed: int = 0) -> str:
        """As of `HostileAttack`: the poisoning finds nothing to do, as a backdoor among rows of its own target."""
        try:
            done = self._poison(rows, seed)
        except NotApplicable:
            raise
        except InputError as e:
            return str(e)
        return "" if done.mask.any() else f"none of {len(rows)} training rows would be changed"

    def poisoned(self, rows: Sequence[Split], bad: frozenset[int], seed: int = 0) -> tuple[list[Split], Poisoned]:
        order = sorted(bad)
        done = self._poison(joined(*(rows[k] for k in order)), seed)
        ends = np.cumsum([len(rows[k]) for k in order])
        own, out = np.split(np.arange(ends[-1]), ends[:-1]), list(rows)
        for k, index in zip(order, own, strict=True):
            out[k] = done.train.take(index)
        return out, done

    def tamper(self, bad: frozenset[int], seed: int = 0) -> Tamper | None:
        return Scaling().tamper(bad, seed) if self.replace_model else None


LABEL_FLIP = HostileRows({"name": "label-flip-random", "rate": 0.9})
BACKDOOR = HostileRows({"name": "backdoor", "rate": 0.5}, replace_model=True)
BADNETS, WANET = (HostileRows({"name": name, "rate": 0.3}, replace_model=True) for name in ("badnets", "wanet"))
