"""The one training loop: every network of every package is trained here, plainly or by a defense."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.batches import batch_size
from suite.checkpoints import Checkpoint
from suite.classifier import TorchClassifier
from suite.data import Split
from suite.devices import random_state, set_random_state
from suite.folding import fold
from suite.normalize import Normalize
from suite.operating import balance
from suite.progress import advance
from suite.recipe import TorchRecipe
from suite.seeding import seeded, torch_generator


def build(recipe: TorchRecipe, inputs: tuple[int, ...], classes: int, seed: int = 0) -> nn.Sequential:
    """An untrained `Normalize` + network, initialised from `seed`."""
    with seeded(seed):
        return nn.Sequential(Normalize(inputs), recipe.network(inputs, classes))


@dataclass(frozen=True)
class Batch:
    """What an objective sees: (n, ...) inputs, (n,) labels, (n,) positions in the split, and a local generator."""

    x: Tensor
    y: Tensor
    index: Tensor
    generator: torch.Generator


Objective = Callable[[nn.Module, Batch], Tensor]
"""`(module, batch) -> (n,)` losses, one a row. Class weights are applied by the loop."""


@runtime_checkable
class Stateful(Protocol):
    """What an objective, or what is asked whether training is `spoiled`, offers when it remembers anything from call to
    call: else a training that goes on from a checkpoint would end elsewhere."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that it remembers."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Remember what `state_dict` gave, on the device of the training."""


def cross_entropy(module: nn.Module, batch: Batch) -> Tensor:
    """Plain training."""
    return F.cross_entropy(module(batch.x), batch.y, reduction="none")


def shuffled(n: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Positions of one epoch, in random order, `size` at a time; a last one does not stay alone, as batch normalisation
    learns nothing from one."""
    pieces = [*torch.randperm(n, generator=generator).split(size)]
    if len(pieces) > 1 and len(pieces[-1]) == 1 < size:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def class_weights(y: Tensor, classes: int, balanced: bool) -> Tensor:
    """(classes,) weights that average 1 over the rows; all 1 unless `balanced`."""
    if not balanced:
        return torch.ones(classes, device=y.device)
    counts = torch.bincount(y, minlength=classes).float()
    return torch.where(counts > 0, len(y) / (counts.clamp(min=1) * (counts > 0).sum()), torch.zeros_like(counts))


def fit(recipe: TorchRecipe, train: Split, val: Split, *, seed: int = 0, device: str = "cpu",
        objective: Objective = cross_entropy, val_objective: Objective | None = None, replays: int = 1,
        spoiled: Callable[[nn.Module], bool] | None = None) -> TorchClassifier:
    """Train a recipe and return the epoch with the least validation loss, or the last where it does not stop early.

    Inside `suite.checkpoints.checkpoints` a training that was killed goes on from its last checkpoint, to the result
    that it would have had. On CUDA, images are trained in bfloat16 and channels-last.

    Args:
        recipe: Architecture, epochs, batch size, learning rate and its schedule, weight decay, weight average,
            augmentation, early stopping, class balancing, operating point.
        train: Learned from.
        val: For early stopping (training ends after `recipe.patience` epochs without a better loss), and for the
            operating point where the recipe asks for one.
        seed: Initialisation, order of the rows, augmentation and whatever the objective draws.
        device: As PyTorch names it.
        objective: The loss of one batch; defenses bring their own. `Stateful` where it remembers anything.
        val_objective: The loss watched on `val`; `objective` by default.
        replays: Steps taken on each batch before the next one.
        spoiled: Asked about the module after each epoch; True ends training, and that epoch is not returned. `Stateful`
            where it remembers anything.

    Returns:
        A classifier in evaluation mode, its batch normalisation folded into the convolutions before it.
    """
    classes, recipe = len(train.classes), recipe.suited(train)
    module = build(recipe, train.x.shape[1:], classes, seed)
    module[0].fit(train.x)
    module.to(device)
    fast = torch.device(device).type == "cuda" and train.x.ndim == 4
    if fast:
        module.to(memory_format=torch.channels_last)
    memories = {"objective": objective, "spoiled": spoiled}
    training = Training(recipe, module, seed, {k: v for k, v in memories.items() if isinstance(v, Stateful)})
    x, y = tensors(train, device)
    weights = class_weights(y, classes, recipe.balanced)
    # an objective may run the module with and without gradients, and autocast's cache would lose the former
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=fast, cache_enabled=False)
    size = min(1024, batch_size(TorchClassifier(training.judged, classes, train.space, device=device), x))
    checkpoint = Checkpoint(train, val, recipe, seed, device, (val_objective or objective).__qualname__)
    with seeded(seed):  # dropout knows the global generator only
        training.resume(checkpoint.read())
        while not training.over:
            module.train()
            pieces = shuffled(len(y), recipe.batch, training.generator)
            for index in pieces:
                index = index.to(device)
                batch = Batch(recipe.augment(x[index], training.generator), y[index], index, training.generator)
                if fast:
                    batch = replace(batch, x=batch.x.contiguous(memory_format=torch.channels_last))
                for _ in range(replays):
                    with autocast:
                        losses = objective(module, batch)
                    training.step((losses * weights[batch.y]).mean(), replays * len(pieces))
            training.epoch += 1
            advance("training", training.epoch, recipe.epochs)
            if spoiled and spoiled(training.judged):
                break
            with autocast:
                loss = validation_loss(training.judged, val, val_objective or objective, weights, seed, device, size)
            training.watch.stop(loss)
            if checkpoint.due:
                checkpoint.write(training.state())
    if math.isinf(training.watch.least):
        raise ValueError(f"training diverged: no epoch had a finite validation loss (learning rate {recipe.lr:g})")
    module = training.judged
    module.load_state_dict(training.watch.best)
    classifier = TorchClassifier(fold(module.eval()), classes, train.space, device=device, recipe=recipe)
    balance(classifier, val)
    return classifier


class Training:
    """All that changes while a network is trained, so that it can be stored and taken up again.

    Attributes:
        module: What is trained.
        judged: What is validated and returned: the module itself, or the running average of its weights.
        epoch: Finished epochs.
        steps: Finished steps.
        memories: What else remembers anything, by name.
    """

    def __init__(self, recipe: TorchRecipe, module: nn.Module, seed: int, memories: Mapping[str, Stateful]) -> None:
        self.recipe, self.module, self.epoch, self.steps, self.memories = recipe, module, 0, 0, memories
        self.judged = copy.deepcopy(module).eval() if recipe.average else module
        self.generator = torch_generator(seed)
        self.optimizer = torch.optim.AdamW(module.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        self.watch = Watch(self.judged, recipe.patience if recipe.early_stopping else None)

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or too many of them were no better."""
        return self.epoch >= self.recipe.epochs or self.watch.over

    def step(self, loss: Tensor, per_epoch: int) -> None:
        """Follow the gradient of a loss; an epoch has `per_epoch` steps."""
        if self.recipe.cosine:
            pace = cosine(self.steps, per_epoch * self.recipe.epochs, per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.lr * pace
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        if self.judged is not self.module:
            # a young average forgets faster, or it would remember the first, random weights
            self._average(min(self.recipe.average, self.steps / (self.steps + 10)))

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


def tensors(split: Split, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a split on a device."""
    return torch.from_numpy(split.x).to(device), torch.from_numpy(split.y).to(device)


def validation_loss(module: nn.Module, val: Split, objective: Objective, weights: Tensor, seed: int,
                    device: str | torch.device, size: int = 1024) -> float:
    """Class-weighted mean of an objective over a split, in evaluation mode, with the same randomness each time."""
    module.eval()
    x, y = tensors(val, device)
    total, generator = 0.0, torch_generator(seed)
    for index in torch.arange(len(y), device=x.device).split(size):
        batch = Batch(x[index], y[index], index, generator)
        # an objective may need gradients (to craft its attack), so they stay on
        total += float((objective(module, batch) * weights[batch.y]).detach().sum())
    return total / len(y)


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
