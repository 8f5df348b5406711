"""The one training loop: every network of every package is trained here, plainly or by a defense."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.base.errors import NotApplicable
from suite.base.progress import advance
from suite.base.seeding import seeded, torch_generator
from suite.core.batches import batch_size
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.core.defense import Defense
from suite.core.normalize import Normalize
from suite.core.recipe import Recipe
from suite.training.checkpoints import Checkpoint
from suite.training.folding import fold
from suite.training.operating import balance
from suite.training.state import Schedule, Stateful, Training


@dataclass(frozen=True)
class TorchRecipe(Schedule, Recipe):
    """A network and how to train it."""

    offers: ClassVar[tuple[str, ...]] = ("gradients",)

    def suited(self, train: Split) -> TorchRecipe:
        """This recipe with what it leaves to the data settled; training starts with it."""
        return self

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Other versions of (n, ...) training inputs in data units, on their device; the inputs themselves here."""
        return x

    @abstractmethod
    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        """An untrained module `(n, *inputs) standardised float32 -> (n, classes) logits`.

        Training puts a `suite.core.normalize.Normalize` before it, so that the whole takes data units.
        """

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> TorchClassifier:
        return fit(self, train, val, seed=seed, device=device)


@dataclass(frozen=True)
class TorchDefense(Defense):
    """A defense that changes how a network is trained."""

    def check(self, recipe: Recipe) -> None:
        if not isinstance(recipe, TorchRecipe):
            raise NotApplicable(f"{type(self).__name__} trains networks only, and {type(recipe).__name__} is none")

    def rebuilt(self, recipe: TorchRecipe, bare: Callable[[TorchRecipe], TorchClassifier]) -> TorchClassifier:
        """A classifier shaped like those that this defense returns, for `suite.models.artifacts.load` to put weights
        in.

        Args:
            recipe: What was trained.
            bare: Gives a classifier shaped like those of plain training.
        """
        return bare(recipe)


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

    Inside `suite.training.checkpoints.checkpoints` a training that was killed goes on from its last checkpoint, to the
    result that it would have had. On CUDA, images are trained in bfloat16 and channels-last.

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
    folded = fold(module.eval())
    classifier = TorchClassifier(folded, classes, train.space, device=device, recipe=recipe,
                                 changed=() if folded is module else ("folded",))
    balance(classifier, val)
    return classifier


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


