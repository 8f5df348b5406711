"""Training many small networks at once: as many independent trainings, in steps that they share.

A small network spends most of a step on being called. Stacked along a first axis, `k` of them are called once; with
their gradients written by hand and one optimizer over all their weights, the arithmetic is what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.base.seeding import torch_generator
from suite.core.classifier import Classifier, TorchClassifier
from suite.core.data import Split
from suite.core.passes import flat
from suite.core.recipe import Recipe
from suite.training.loop import TorchRecipe, build, class_weights, shuffled
from suite.training.operating import balance
from suite.training.state import cosine

AT_ONCE = 64
"""Networks in one stack: more leave the caches, and memory must not grow with how many are asked for."""


def fit_many(recipe: Recipe, trains: Iterable[Split], val: Split, seeds: Iterable[int],
             device: str = "cpu") -> Iterator[Classifier]:
    """What `recipe.fit` returns for each training split and seed, but for rounding, in order.

    Plain chains of linear layers and ReLUs are trained in stacks where their splits have equally many rows, all others
    one by one. No more splits are taken than are trained at once.

    Args:
        recipe: What to train.
        trains: Splits of the same classes and features.
        val: For early stopping and the operating point of all.
        seeds: One a split.
        device: As PyTorch names it.
    """
    pairs = zip(trains, seeds, strict=True)
    first = list(islice(pairs, 1))
    pairs, size = chain(first, pairs), AT_ONCE if first and stackable(recipe, first[0][0]) else 1
    while part := list(islice(pairs, size)):
        splits, numbers = zip(*part, strict=True)
        if len(part) > 1 and len({(len(split), recipe.suited(split)) for split in splits}) == 1:
            yield from _Stack(recipe, splits, val, numbers, device).train()
        else:
            yield from (recipe.fit(split, val, number, device) for split, number in part)


def stackable(recipe: Recipe, train: Split) -> bool:
    """Whether a recipe is trained by the common loop, without augmentation, and is a chain of linear layers with biases
    and a ReLU between any two.

    Dropout draws from one stream for all weights, which stacked networks would not share alike; so it is trained alone.
    """
    kind = type(recipe)
    if not isinstance(recipe, TorchRecipe) or (kind.fit, kind.augment) != (TorchRecipe.fit, TorchRecipe.augment):
        return False
    network = build(recipe.suited(train), train.x.shape[1:], len(train.classes))[1]
    leaves = [m for m in network.modules() if not any(m.children())]
    layers = flat(network)
    if train.x.ndim != 2 or layers is None or len(layers) != len(leaves) or len(set(layers)) < len(layers):
        return False
    kinds = [type(m) for m in layers]
    return (kinds[0] is kinds[-1] is nn.Linear and all({a, b} == {nn.Linear, nn.ReLU} for a, b in pairwise(kinds))
            and all(m.bias is not None for m in layers[::2]))


class _Stack:
    """As many networks in training as there are splits; those that stop early leave.

    Attributes:
        weights: (k, parameters) of the networks still in training; `layers` are views of it.
        judged: (k, parameters) that are validated: `weights`, or their running average.
        best, least, since: (k, parameters), (k,), (k,) as `suite.training.state.Watch` keeps them.
        where: (k,) the positions of these networks among all.
    """

    def __init__(self, recipe: TorchRecipe, trains: Sequence[Split], val: Split, seeds: Sequence[int],
                 device: str) -> None:
        self.recipe, self.trains, self.val, self.device = recipe.suited(trains[0]), trains, val, device
        classes = len(val.classes)
        self.modules = [build(self.recipe, t.x.shape[1:], classes, s) for t, s in zip(trains, seeds, strict=True)]
        self.generators = [torch_generator(s) for s in seeds]
        for module, train in zip(self.modules, trains, strict=True):
            module[0].fit(train.x)
        linear = [m for m in flat(self.modules[0][1]) if isinstance(m, nn.Linear)]
        self.shapes = [tuple(m.weight.shape) for m in linear]
        self.weights = nn.Parameter(torch.stack([
            torch.cat([p.detach().flatten() for p in m[1].parameters()]) for m in self.modules]).to(device))
        standard = [m[0](torch.from_numpy(t.x)) for m, t in zip(self.modules, trains, strict=True)]
        self.x = torch.stack(standard).to(device)
        self.y = torch.stack([torch.from_numpy(t.y) for t in trains]).to(device)
        self.val_x = torch.stack([m[0](torch.from_numpy(val.x)) for m in self.modules]).to(device)
        self.val_y = torch.from_numpy(val.y).to(device)
        self.costs = torch.stack([class_weights(y, classes, self.recipe.balanced) for y in self.y])
        self.judged = self.weights.detach().clone() if recipe.average else self.weights.data
        self.best = self.judged.clone()
        self.least = torch.full((len(trains),), torch.inf, dtype=torch.float64)
        self.since = torch.zeros(len(trains), dtype=torch.long)
        self.where = torch.arange(len(trains))
        self.done: dict[int, tuple[Tensor, float]] = {}
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([self.weights], self.recipe.lr, weight_decay=self.recipe.weight_decay, fused=True)

    def train(self) -> Iterator[TorchClassifier]:
        steps = 0
        for _ in range(self.recipe.epochs):
            steps = self._epoch(steps)
            self._watch()
            if not len(self.where):
                break
        self._leave(torch.ones_like(self.where, dtype=torch.bool))
        for k, (module, train) in enumerate(zip(self.modules, self.trains, strict=True)):
            best, least = self.done[k]
            if math.isinf(least):
                raise ValueError(f"training diverged: no epoch had a finite validation loss (learning rate "
                                 f"{self.recipe.lr:g})")
            nn.utils.vector_to_parameters(best, module[1].parameters())
            classifier = TorchClassifier(module, len(train.classes), train.space, device=self.device,
                                         recipe=self.recipe)
            balance(classifier, self.val)
            yield classifier

    def _epoch(self, steps: int) -> int:
        """One pass over all rows; returns how many steps there have been."""
        orders = [shuffled(self.x.shape[1], self.recipe.batch, self.generators[k]) for k in self.where.tolist()]
        sizes = [len(piece) for piece in orders[0]]
        order = torch.stack([torch.cat(pieces) for pieces in orders]).to(self.device)
        x, y = self.x.gather(1, order[:, :, None].expand_as(self.x)), self.y.gather(1, order)
        costs = self.costs.gather(1, y)
        self.weights.grad = torch.empty_like(self.weights)
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            self._gradient(x[:, part], y[:, part], costs[:, part] / size)
            if self.recipe.cosine:
                pace = cosine(steps, len(sizes) * self.recipe.epochs, len(sizes))
                self.optimizer.param_groups[0]["lr"] = self.recipe.lr * pace
            self.optimizer.step()
            steps, start = steps + 1, start + size
            if self.judged.data_ptr() != self.weights.data_ptr():
                self.judged.lerp_(self.weights.detach(), 1 - min(self.recipe.average, steps / (steps + 10)))
        return steps

    @torch.no_grad()
    def _gradient(self, x: Tensor, y: Tensor, costs: Tensor) -> None:
        """Put the gradient of the summed cross-entropies, each row's with its cost, into `weights.grad`."""
        layers, grads = self._layers(self.weights.detach()), self._layers(self.weights.grad)
        outputs = self._forward(layers, x)
        g = outputs[-1].softmax(2)
        g.scatter_add_(2, y[:, :, None], g.new_full((1, 1, 1), -1.0).expand(*y.shape, 1)).mul_(costs[:, :, None])
        for n in range(len(layers) - 1, -1, -1):
            inputs = outputs[n - 1] if n else x
            torch.bmm(g.transpose(1, 2), inputs, out=grads[n][0])
            torch.sum(g, 1, keepdim=True, out=grads[n][1])
            if n:
                g = torch.ops.aten.threshold_backward(torch.bmm(g, layers[n][0]), inputs, 0)

    def _layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(k, outputs, inputs) weights and (k, 1, outputs) biases of each linear layer, as views."""
        layers, start = [], 0
        for rows, columns in self.shapes:
            middle, end = start + rows * columns, start + rows * columns + rows
            layers.append((flat[:, start:middle].unflatten(1, (rows, columns)), flat[:, None, middle:end]))
            start = end
        return layers

    @staticmethod
    def _forward(layers: list[tuple[Tensor, Tensor]], x: Tensor) -> list[Tensor]:
        """What each layer returns, after the ReLU but for the last."""
        outputs = []
        for n, (weight, bias) in enumerate(layers):
            x = torch.baddbmm(bias, x, weight.transpose(1, 2))
            outputs.append(x.relu_() if n < len(layers) - 1 else x)
        return outputs

    @torch.no_grad()
    def _watch(self) -> None:
        """Validate, remember what is best, and let those go that were no better for too long."""
        logits = self._forward(self._layers(self.judged), self.val_x)[-1]
        losses = F.cross_entropy(logits.flatten(0, 1), self.val_y.repeat(len(logits)), reduction="none")
        loss = (losses.view(len(logits), -1) * self.costs[:, self.val_y]).sum(1).cpu().double() / len(self.val_y)
        better = loss < self.least if self.recipe.early_stopping else loss.isfinite()
        now = better.to(self.device)
        self.best[now] = self.judged[now]
        self.least, self.since = torch.where(better, loss, self.least), torch.where(better, 0, self.since + 1)
        if self.recipe.early_stopping and (over := self.since >= self.recipe.patience).any():
            self._leave(over)

    def _leave(self, over: Tensor) -> None:
        """Keep the results of some, and go on with the others."""
        for k in over.nonzero()[:, 0].tolist():
            self.done[int(self.where[k])] = self.best[k].cpu(), float(self.least[k])
        left = (~over).nonzero()[:, 0]
        alone = self.judged.data_ptr() != self.weights.data_ptr()
        state = self.optimizer.state.get(self.weights, {})
        on_device = left.to(self.device)
        self.weights = nn.Parameter(self.weights.detach()[on_device])
        self.judged = self.judged[on_device] if alone else self.weights.data
        self.x, self.y, self.val_x, self.costs, self.best = (
            t[on_device] for t in (self.x, self.y, self.val_x, self.costs, self.best))
        self.least, self.since, self.where = self.least[left], self.since[left], self.where[left]
        self.optimizer = self._optimizer()
        if state:
            self.optimizer.state[self.weights] = {k: v[on_device] if v.dim() else v for k, v in state.items()}
