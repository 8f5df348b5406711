"""Adversarial training at the price of one or two plain trainings, and the watchdog that the cheap ones need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.attacks.ascent import Box, uniform
from suite.base.bounds import Count, Fraction, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.classifier import TorchClassifier, frozen
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.robust.adversarial import RobustTraining
from suite.training.loop import Batch, Objective, TorchRecipe, fit, tensors


@dataclass(frozen=True)
class FreeAdversarialTraining(RobustTraining):
    """Free adversarial training: one backward pass gives the step of the weights and that of the attack.

    Each batch is replayed `replays` times, in as many fewer epochs; the perturbation is kept from one replay, and from
    one batch, to the next. `steps` and `step` are those of the attack under which epochs are compared.

    Attributes:
        replays: Of each batch, at least 1.
    """

    info: ClassVar[Info] = Info(
        "Free adversarial training", "Shafahi et al. 2019, arXiv 1904.12843", threats=("evasion",),
        cost="one training, and `steps` passes over the validation inputs an epoch; without `eps` at most 6 times",
        departs="keeps the epoch with the least loss under PGD, and pilots the budget on validation inputs")
    replays: Count = 4

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise InputError(f"FreeAdversarialTraining: replays must be at least 1, got {self.replays}")

    def objective(self, space: Space, eps: float) -> Objective:
        return _Free(space, eps)

    def _train(self, recipe: TorchRecipe, train: Split, val: Split, eps: float, seed: int,
               device: str) -> TorchClassifier:
        space = train.space.to(device)
        fewer = replace(recipe, epochs=math.ceil(recipe.epochs / self.replays),
                        patience=math.ceil(recipe.patience / self.replays))
        classifier = fit(fewer, train, val, seed=seed, device=device, objective=self.objective(space, eps),
                         val_objective=self.worst_case(space, eps), replays=self.replays)
        classifier.recipe = recipe
        classifier.notes["eps"] = eps
        return classifier


class _Free:
    """The loss of a batch, perturbed by what the backward passes of the batches before it suggest."""

    def __init__(self, space: Space, eps: float) -> None:
        self.space, self.eps = space, eps
        self.delta: Tensor | None = None  # as many rows as the largest batch
        self.last: Tensor | None = None  # what the loop's last backward pass differentiated

    def __call__(self, module: nn.Module, batch: Batch) -> Tensor:
        x, n = batch.x, len(batch.x)
        reach = self.eps * self.space.scale
        if self.delta is None or len(self.delta) < n:
            self.delta, self.last = torch.zeros_like(x), None
        if self.last is not None and self.last.grad is not None:
            part = self.delta[:len(self.last)]
            part.copy_((part + reach * self.last.grad.sign()).clamp(-reach, reach))
        lower, upper = self.space.ball(x, self.eps)
        self.last = (torch.minimum(torch.maximum(x + self.delta[:n], lower), upper)).requires_grad_()
        # the forward pass is at the nearest possible input, whose gradient is taken for that of `last`
        possible = self.last + (self.space.snap(self.last, x) - self.last).detach()
        return F.cross_entropy(module(possible), batch.y, reduction="none")

    def state_dict(self) -> dict[str, Tensor]:
        """The perturbation, and where the last backward pass pushes it."""
        return {} if self.delta is None else {"delta": self.delta, "push": self.last.grad}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            self.delta, self.last = state["delta"], torch.zeros_like(state["push"])
            self.last.grad = state["push"]


@dataclass(frozen=True)
class FastAdversarialTraining(RobustTraining):
    """Fast adversarial training: one signed gradient step from a random start, and a watchdog.

    A network may suddenly learn to withstand that one step and nothing else ("catastrophic overfitting"). So after each
    epoch it is attacked in several steps on held inputs; when its accuracy falls by more than `fall` under them and not
    under one step, training ends, and the best epoch so far is returned. `notes["overfitting_at_epoch"]` tells when.
    `steps` and `step` are those of the attack under which epochs are compared.

    Attributes:
        reach: Length of the one step, in units of `eps`.
        fall: Loss of accuracy that counts as overfitting.
    """

    info: ClassVar[Info] = Info(
        "Fast adversarial training", "Wong, Rice and Kolter 2020, arXiv 2001.03994", threats=("evasion",),
        cost="two trainings, and some passes over validation inputs an epoch; without `eps` at most 11",
        departs="attacks in evaluation mode, so that statistics of batches are those of the inputs trained on; keeps "
                "the epoch with the least loss under PGD; the learning rate is the recipe's; pilots the budget on "
                "validation inputs")
    reach: Positive = 1.25
    fall: Fraction = 0.2

    def objective(self, space: Space, eps: float) -> Objective:
        return self._single().worst_case(space, eps)

    def _single(self) -> FastAdversarialTraining:
        return replace(self, steps=1, step=self.reach)

    def _train(self, recipe: TorchRecipe, train: Split, val: Split, eps: float, seed: int,
               device: str) -> TorchClassifier:
        space, watchdog = train.space.to(device), self.watchdog(val, eps, seed, device)
        classifier = fit(recipe, train, val, seed=seed, device=device, objective=self.objective(space, eps),
                         val_objective=self.worst_case(space, eps), spoiled=watchdog)
        classifier.notes["eps"] = eps
        if watchdog.bitten:
            classifier.notes["overfitting_at_epoch"] = watchdog.epoch
        return classifier

    def watchdog(self, val: Split, eps: float, seed: int, device: str, rows: int = 256) -> Watchdog:
        """One that attacks the first rows of `val`, with the same start each time."""
        space, (x, y) = val.space.to(device), tensors(val.take(slice(rows)), device)

        def accuracy(module: nn.Module, attack: RobustTraining) -> float:
            generator = torch_generator(seed)

            def start(box: Box) -> Tensor:
                return uniform(box, generator)

            z = attack._attack(module, x, space, eps, start, lambda z: F.cross_entropy(z, y, reduction="sum"))
            with frozen(module), torch.no_grad():
                return float((module(z).argmax(1) == y).float().mean())

        return Watchdog(lambda module: accuracy(module, self), lambda module: accuracy(module, self._single()),
                        self.fall)


class Watchdog:
    """Says whether a module has just overfitted to the single step that it is trained against.

    Args:
        several, single: `module -> accuracy` under an attack of several steps, and of one.
        fall: By how much the first must fall below its best, and the second must fall by less than half of that.

    Attributes:
        epoch: How often it was asked, from 1.
        bitten: Whether it has said yes.
    """

    def __init__(self, several: Callable[[nn.Module], float], single: Callable[[nn.Module], float],
                 fall: float) -> None:
        self.several, self.single, self.fall = several, single, fall
        self.best = self.best_single = 0.0
        self.epoch, self.bitten = 0, False

    def __call__(self, module: nn.Module) -> bool:
        self.epoch += 1
        several, single = self.several(module), self.single(module)
        fallen = self.best - several
        self.bitten = fallen > self.fall and self.best_single - single < fallen / 2
        if several > self.best:
            self.best, self.best_single = several, single
        return self.bitten

    def state_dict(self) -> dict[str, Tensor]:
        """Its history."""
        return {"history": torch.tensor([self.best, self.best_single, self.epoch, self.bitten], dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.best, self.best_single, epoch, bitten = state["history"].tolist()
        self.epoch, self.bitten = int(epoch), bool(bitten)
