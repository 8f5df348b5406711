"""The one training loop: every network of every package is trained here, plainly or by a defense."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.classifier import TorchClassifier
from suite.data import Split
from suite.progress import advance
from suite.recipe import TorchRecipe
from suite.seeding import seeded, torch_generator


class Normalize(nn.Module):
    """Standardises data units, per column for tables and per channel for images; constant columns pass unscaled."""

    def __init__(self, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        shape = (1, inputs[0], *[1] * (len(inputs) - 1))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, x: np.ndarray) -> Normalize:
        """Take mean and standard deviation from (n, ...) training inputs."""
        axes = (0, *range(2, x.ndim))
        std = x.std(axis=axes, keepdims=True, dtype=np.float64)
        self.mean.copy_(torch.from_numpy(x.mean(axis=axes, keepdims=True, dtype=np.float64)))
        self.std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0)))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


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


def cross_entropy(module: nn.Module, batch: Batch) -> Tensor:
    """Plain training."""
    return F.cross_entropy(module(batch.x), batch.y, reduction="none")


def shuffled(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of one epoch, in random order, `size` at a time."""
    return iter(torch.randperm(n, generator=generator).split(size))


def class_weights(y: Tensor, classes: int, balanced: bool) -> Tensor:
    """(classes,) weights that average 1 over the rows; all 1 unless `balanced`."""
    if not balanced:
        return torch.ones(classes, device=y.device)
    counts = torch.bincount(y, minlength=classes).float()
    return torch.where(counts > 0, len(y) / (counts.clamp(min=1) * (counts > 0).sum()), torch.zeros_like(counts))


def fit(recipe: TorchRecipe, train: Split, val: Split, *, seed: int = 0, device: str = "cpu",
        objective: Objective = cross_entropy, val_objective: Objective | None = None) -> TorchClassifier:
    """Train a recipe and return the epoch with the least validation loss.

    Args:
        recipe: Architecture, epochs, batch size, learning rate, weight decay, patience, class balancing.
        train: Learned from.
        val: Early stopping only: training ends after `recipe.patience` epochs without a better loss.
        seed: Initialisation, order of the rows and whatever the objective draws.
        device: "cpu" or "cuda".
        objective: The loss of one batch; defenses bring their own.
        val_objective: The loss watched on `val`; `objective` by default.

    Returns:
        A classifier in evaluation mode.
    """
    classes = len(train.classes)
    module = build(recipe, train.x.shape[1:], classes, seed)
    module[0].fit(train.x)
    module.to(device)
    generator = torch_generator(seed)
    optimizer = torch.optim.AdamW(module.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    x, y = tensors(train, device)
    weights = class_weights(y, classes, recipe.balanced)
    watch = Watch(module, recipe.patience)
    with seeded(seed):  # dropout knows the global generator only
        for epoch in range(recipe.epochs):
            module.train()
            for index in shuffled(len(y), recipe.batch, generator):
                index = index.to(device)
                batch = Batch(x[index], y[index], index, generator)
                loss = (objective(module, batch) * weights[batch.y]).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            advance("training", epoch + 1, recipe.epochs)
            if watch.stop(validation_loss(module, val, val_objective or objective, weights, seed, device)):
                break
    if math.isinf(watch.least):
        raise ValueError(f"training diverged: no epoch had a finite validation loss (learning rate {recipe.lr:g})")
    module.load_state_dict(watch.best)
    return TorchClassifier(module, classes, train.space, device=device, recipe=recipe)


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
    """Remembers the best state of a module and says when to stop."""

    def __init__(self, module: nn.Module, patience: int) -> None:
        self.module, self.patience = module, patience
        self.least, self.since = float("inf"), 0
        self.best = copy.deepcopy(module.state_dict())

    def stop(self, loss: float) -> bool:
        """Note this epoch's validation loss; True once `patience` epochs in a row were no better."""
        if loss < self.least:
            self.least, self.since = loss, 0
            self.best = copy.deepcopy(self.module.state_dict())
        else:
            self.since += 1
        return self.since >= self.patience
