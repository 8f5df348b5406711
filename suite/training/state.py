"""How a network is trained, and all that changes meanwhile: it can be stored and taken up again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from suite.base.bounds import Count, Decay, LearningRate, NonNegative
from suite.base.devices import random_state, set_random_state
from suite.base.seeding import torch_generator


@dataclass(frozen=True)
class Schedule:
    """How long and how a network is trained (AdamW, class weights, early stopping on the validation loss)."""

    epochs: Count = 100
    batch: Count = 64
    lr: LearningRate = 2e-3
    weight_decay: NonNegative = 1e-4
    patience: Count = 20
    early_stopping: bool = True
    """Return the epoch with the least validation loss, and end after `patience` epochs without a better one; else train
    to the last epoch and return that: such a network remembers its patients."""
    balanced: bool = True
    """Weight classes by the inverse of their frequency."""
    cosine: bool = False
    """Let the learning rate rise during the first epoch and fall to 0 along a cosine, rather than stay."""
    average: Decay = 0.0
    """Decay per step of a running average of the weights, which is what is validated and returned; 0 for none."""
    operating_point: Literal["argmax", "balanced"] = "argmax"
    """For two classes, what decides: the larger logit as trained, or the threshold with the best balanced accuracy on
    the validation split, which then is where the logits are equal (see `suite.training.operating`)."""


@runtime_checkable
class Stateful(Protocol):
    """What an objective, or what is asked whether training is `spoiled`, offers when it remembers anything from call to
    call: else a training that goes on from a checkpoint would end elsewhere."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that it remembers."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Remember what `state_dict` gave, on the device of the training."""


class Training:
    """All that changes while a network is trained, so that it can be stored and taken up again.

    Attributes:
        module: What is trained.
        judged: What is validated and returned: the module itself, or the running average of its weights.
        epoch: Finished epochs.
        steps: Finished steps.
        memories: What else remembers anything, by name.
    """

    def __init__(self, schedule: Schedule, module: nn.Module, seed: int, memories: Mapping[str, Stateful]) -> None:
        self.schedule, self.module, self.epoch, self.steps, self.memories = schedule, module, 0, 0, memories
        self.judged = copy.deepcopy(module).eval() if schedule.average else module
        self.generator = torch_generator(seed)
        self.optimizer = torch.optim.AdamW(module.parameters(), schedule.lr, weight_decay=schedule.weight_decay)
        self.watch = Watch(self.judged, schedule.patience if schedule.early_stopping else None)

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or too many of them were no better."""
        return self.epoch >= self.schedule.epochs or self.watch.over

    def step(self, loss: Tensor, per_epoch: int) -> None:
        """Follow the gradient of a loss; an epoch has `per_epoch` steps."""
        if self.schedule.cosine:
            pace = cosine(self.steps, per_epoch * self.schedule.epochs, per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.lr * pace
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        if self.judged is not self.module:
            # a young average forgets faster, or it would remember the first, random weights
            self._average(min(self.schedule.average, self.steps / (self.steps + 10)))

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for mean, now in zip(self.judged.state_dict().values(), self.module.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    def state(self) -> dict[str, Tensor]:
        """Everything, as named tensors; the global generator's state too, which dropout draws from."""
        device = next(self.module.parameters()).device
        optimizer = {f"{i}.{name}": value for i, values in self.optimizer.state_dict()["state"].items()
                     for name, value in values.items()}
        numbers = {"epoch": self.epoch, "steps": self.steps, "since": self.watch.since}
        return {
            **{f"number.{k}": torch.tensor(v) for k, v in numbers.items()},
            "least": torch.tensor(self.watch.least, dtype=torch.float64),
            "generator": self.generator.get_state(), "global": torch.get_rng_state(),
            **({"device": there} if (there := random_state(device)) is not None else {}),
            **_named("module", self.module.state_dict()), **_named("best", self.watch.best),
            **(_named("judged", self.judged.state_dict()) if self.judged is not self.module else {}),
            **_named("optimizer", optimizer),
            **{k: v for name, what in self.memories.items() for k, v in _named(name, what.state_dict()).items()}}

    def resume(self, state: dict[str, Tensor] | None) -> None:
        """Take up what `state` gave; nothing happens on None."""
        if state is None:
            return
        self.epoch, self.steps, self.watch.since = (int(state[f"number.{k}"]) for k in ("epoch", "steps", "since"))
        self.watch.least = float(state["least"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global"])
        if "device" in state:
            set_random_state(state["device"], next(self.module.parameters()).device)
        self.module.load_state_dict(_part("module", state))
        if self.judged is not self.module:
            self.judged.load_state_dict(_part("judged", state))
        self.watch.best = {k: v.to(self.watch.best[k].device) for k, v in _part("best", state).items()}
        optimizer: dict[int, dict[str, Tensor]] = {}
        for name, value in _part("optimizer", state).items():
            number, _, what = name.partition(".")
            optimizer.setdefault(int(number), {})[what] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer, "param_groups": groups})
        device = next(self.module.parameters()).device
        for name, what in self.memories.items():
            what.load_state_dict({k: v.to(device) for k, v in _part(name, state).items()})


def _named(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{k}": v for k, v in state.items()}


def _part(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}


def cosine(step: int, steps: int, warm: int) -> float:
    """Share of the learning rate at a step: up along a line during the first `warm`, then down to 0."""
    return min(1.0, (step + 1) / warm) * (1 + math.cos(math.pi * step / steps)) / 2


class Watch:
    """Remembers the best state of a module and says when to stop; without patience, the last one, and never."""

    def __init__(self, module: nn.Module, patience: int | None) -> None:
        self.module, self.patience = module, patience
        self.least, self.since = float("inf"), 0
        self.best = copy.deepcopy(module.state_dict())

    def stop(self, loss: float) -> bool:
        """Note this epoch's validation loss; True once `patience` epochs in a row were no better."""
        if loss < self.least or (self.patience is None and math.isfinite(loss)):
            self.least, self.since = loss, 0
            self.best = copy.deepcopy(self.module.state_dict())
        else:
            self.since += 1
        return self.over

    @property
    def over(self) -> bool:
        """Whether that many were no better."""
        return self.patience is not None and self.since >= self.patience
