"""A hospital's part of a round as a function of its rows, to be differentiated: what it would send if it had these.

It repeats `Task.train` step by step, with momentum, weight decay, class weights and the pull of FedProx, so that what
is matched with a real update is that of all local steps and not a mean gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from federated.task.task import MOMENTUM, Task, pieces
from suite.base.errors import InputError
from suite.base.seeding import seeded, torch_generator
from suite.core.data import Split
from suite.training.loop import class_weights


def seen(task: Task, came: np.ndarray, rows: Split, number: int, turn: int) -> np.ndarray:
    """(d,) float32: the update that a server without secure aggregation sees of a hospital; arguments as of
    `Task.train`."""
    return task.train(came, rows, number, turn) - came


def steps(task: Task, rows: int) -> int:
    """Local steps of a hospital with so many rows in one round."""
    return task.epochs * len(pieces(torch.arange(rows), task.batch, task.min_batch))


def gradient(task: Task, came: np.ndarray, update: np.ndarray, rows: int) -> np.ndarray:
    """(d,) float64: the gradient of the loss over all rows, from the update of a hospital.

    Of one local step it is exact. Of several it is the mean gradient of the steps, each weighted by how often momentum
    repeats it, taken as if all steps had been taken from the model that came in.
    """
    t = np.arange(1, steps(task, rows) + 1)
    travel = float(((1 - MOMENTUM**t) / (1 - MOMENTUM)).sum())
    return -np.asarray(update, np.float64) / (task.lr * travel) - task.recipe.weight_decay * came


@dataclass(frozen=True)
class Local:
    """A hospital's training in one round.

    Attributes:
        task: What it trains.
        came: (d,) the parameters that came in.
        seed: Of the order of rows.
        same: Whether `seed` is the hospital's own (`draws`), so that inputs are augmented as they were there; else
            nobody knows how they were, and they are not.
        dtype: Of all numbers.
    """

    task: Task
    came: np.ndarray
    seed: int
    same: bool
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if np.shape(self.came) != (self.task.size,):
            raise InputError(f"model: needs {self.task.size} parameters, got the shape {np.shape(self.came)}")

    def updates(self, x: Tensor, y: Tensor) -> Tensor:
        """(k, d): what each of k hospitals would send.

        Args:
            x: (k, n, ...) their rows in data units, as `dtype`.
            y: (n,) int64 labels, the same for all.
        """
        with seeded(self.seed):  # dropout knows the global generator only
            return torch.func.vmap(lambda rows: self._trained(rows, y, self.costs(y)), randomness="same")(x)

    def slopes(self, x: Tensor, label: int) -> Tensor:
        """(k, d): the gradient of the loss of each of (k, ...) rows alone, if it had this label, with weight 1."""
        y = torch.tensor([label], device=x.device)
        ones = torch.ones(len(self.task.classes), device=x.device, dtype=self.dtype)
        each = torch.func.vmap(lambda row: grad(self._loss)(self.first, row[None], y, ones), randomness="same")(x)
        return torch.cat([each[k].flatten(1) for k in self.first], 1)

    def statistics(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(channels,) mean and variance of what enters each batch normalisation of the network, of (n, ...) rows of
        the first step, in the order in which they run; empty where the network has none."""
        entered: list[tuple[Tensor, Tensor]] = []

        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            z = inputs[0].transpose(0, 1).flatten(1)
            entered.append((z.mean(1), z.var(1, correction=0)))

        hooks = [layer.register_forward_pre_hook(note) for layer in _normalisations(self.network)]
        try:
            functional_call(self.network, self.first, (x,))
        finally:
            for hook in hooks:
                hook.remove()
        return entered

    def far(self, x: Tensor, statistics: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """(k,): distance of the statistics of (k, n, ...) rows from others, added up over all layers."""
        if not statistics or len(statistics) != len(_normalisations(self.network)):
            raise InputError(f"statistics of {len(statistics)} batch normalisations, and the network has "
                             f"{len(_normalisations(self.network))}")

        def distance(rows: Tensor) -> Tensor:
            return sum((a - b).norm() for own, other in zip(self.statistics(rows), statistics, strict=True)
                       for a, b in zip(own, other, strict=True))

        return torch.func.vmap(distance)(x)

    def costs(self, y: Tensor) -> Tensor:
        """(classes,) what a row of each class weighs, of a hospital with (n,) labels."""
        return class_weights(y, len(self.task.classes), self.task.recipe.balanced).to(self.dtype)

    @cached_property
    def network(self) -> nn.Sequential:
        """The module, whose parameters are not used."""
        network = copy.deepcopy(self.task.network()[0]).to(self.dtype).train()
        for layer in _normalisations(network):  # running averages are written in place
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
        return network

    @cached_property
    def first(self) -> dict[str, Tensor]:
        """The parameters that came in, by name."""
        came = torch.from_numpy(np.asarray(self.came, np.float64)).to(self.task.device, self.dtype)
        parts = came.split([p.numel() for p in self.network.parameters()])
        return {name: part.view_as(p) for (name, p), part in zip(self.network.named_parameters(), parts, strict=True)}

    def _loss(self, now: dict[str, Tensor], x: Tensor, y: Tensor, costs: Tensor) -> Tensor:
        return (F.cross_entropy(functional_call(self.network, now, (x,)), y, reduction="none") * costs[y]).mean()

    def _trained(self, x: Tensor, y: Tensor, costs: Tensor) -> Tensor:
        task, generator, now, velocity = self.task, torch_generator(self.seed), self.first, None
        for _ in range(task.epochs):
            for index in pieces(torch.randperm(len(y), generator=generator), task.batch, task.min_batch):
                inputs = x[index]
                if self.same:  # in the precision that augmentation is made for
                    inputs = task.recipe.augment(inputs.float(), generator).to(self.dtype)
                slope = {k: g + task.recipe.weight_decay * now[k] + task.proximal * (now[k] - self.first[k])
                         for k, g in grad(self._loss)(now, inputs, y[index], costs).items()}
                velocity = slope if velocity is None else {k: MOMENTUM * velocity[k] + slope[k] for k in slope}
                now = {k: p - task.lr * velocity[k] for k, p in now.items()}
        return torch.cat([(now[k] - self.first[k]).flatten() for k in self.first])

    def data_units(self, standard: Tensor) -> Tensor:
        """(n, ...) inputs in data units, of what the network makes of them before its first layer."""
        normalize = self.network[0]
        return standard * normalize.std + normalize.mean


def _normalisations(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
