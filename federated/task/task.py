"""What the hospitals of a federation train together, and what one of them does in a round. Knows nothing of Flower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from federated.aggregation.private import LocalDP, RecordDP, Terms
from suite.base.seeding import torch_generator, torch_seeded
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.private.clipping import clipped_sum
from suite.defenses.private.dpsgd import PrivateGradient, standardise
from suite.training.groupnorm import without_batch_norm
from suite.training.loop import TorchRecipe, build, class_weights, tensors

MOMENTUM = 0.9
"""Of a hospital's training, which starts anew each round."""


@dataclass(frozen=True)
class Task:
    """A network that all hospitals know the shape of, and how each trains it on its own rows.

    All parameters travel as one flat vector. Nothing else does: inputs are standardised by the bounds of the space, so
    that no mean of anybody's patients is needed, and batch normalisation, whose averages would be of one hospital,
    gives way to group normalisation.

    Attributes:
        recipe: The network. Its own way of training is not used, but for class balancing, augmentation and weight
            decay. Balancing is by each hospital's own rows: where one has hardly any of a class, single rows weigh so
            much that a deep network may diverge.
        inputs: Shape of one input.
        classes: Their names, the same at every hospital.
        space: The possible inputs, the same at every hospital.
        epochs, batch, lr: Of a hospital's training in one round (SGD with momentum 0.9, which starts anew each round).
        proximal: Pull towards the model that came in (FedProx: Li et al. 2020, arXiv 1812.06127); 0 for none.
        seed: Of the first model, and with round and hospital of all else.
        device: Where networks are trained.
        private: What a hospital may give away in all rounds; None for no bound.
        min_batch: Rows below which a hospital makes no step: the last rows of an epoch join the step before. Of no
            meaning with `RecordDP`, which draws each batch anew and adds noise to its gradient.
    """

    recipe: TorchRecipe
    inputs: tuple[int, ...]
    classes: tuple[str, ...]
    space: Space
    epochs: int = 1
    batch: int = 32
    lr: float = 0.05
    proximal: float = 0.0
    seed: int = 0
    device: str = "cpu"
    private: RecordDP | LocalDP | None = None
    min_batch: int = 1

    def __getstate__(self) -> dict[str, Any]:
        """Without what is cached: a copy of `_module` would no longer lie in the copy of `_shared`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def network(self) -> tuple[nn.Sequential, str]:
        """The untrained module, and what was replaced in it."""
        module = build(self.recipe, self.inputs, len(self.classes), self.seed)
        standardise(module[0], self.space, self.inputs)
        module[1], replaced = without_batch_norm(module[1])
        return module.to(self.device), replaced

    @cached_property
    def _module(self) -> nn.Sequential:
        """One that is filled again and again: building takes longer than a small hospital's round."""
        return self.network()[0].train()

    @cached_property
    def _shared(self) -> Tensor:
        """(d,) memory that the parameters of `_module` lie in, so that to fill or to read it is one copy."""
        with torch.no_grad():
            shared = nn.utils.parameters_to_vector(self._module.parameters())
        nn.utils.vector_to_parameters(shared, self._module.parameters())
        return shared

    @cached_property
    def _optimizer(self) -> torch.optim.SGD:
        """Of `_module`; its state, the momentum, is to be cleared before a hospital begins."""
        return torch.optim.SGD(self._module.parameters(), self.lr, momentum=MOMENTUM,
                               weight_decay=self.recipe.weight_decay)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self._module.parameters())

    def initial(self) -> np.ndarray:
        """(d,) float32, the parameters of the untrained network."""
        return _flat(self.network()[0])

    def train(self, weights: np.ndarray, rows: Split, number: int, turn: int) -> np.ndarray:
        """The parameters after a hospital's part of a round.

        Args:
            weights: (d,) float32, as they came in.
            rows: What the hospital has.
            number: Of the hospital, from 0 up.
            turn: The round, from 1 up.

        Returns:
            (d,) float32. With `private` it costs `terms`, which whoever calls this keeps account of.
        """
        match self.private:
            case None:
                return self._train(weights, rows, number, turn)
            case RecordDP():
                return self._train_on_records(self.private, weights, rows, number, turn)
            case LocalDP():
                change = self._train(weights, rows, number, turn) - weights
                rng = np.random.default_rng([self.seed, number, turn, self.private.secret])
                return (weights + self.private.cover(change, rng)).astype(np.float32)

    def terms(self, rows: int) -> Terms:
        """What a round costs a hospital with so many rows; `private` must be set."""
        return self.private.terms(rows, self.batch, self.epochs)

    def _train(self, weights: np.ndarray, rows: Split, number: int, turn: int) -> np.ndarray:
        module, optimizer, came = self._start(weights)
        x, y = tensors(rows, self.device)
        costs = class_weights(y, len(self.classes), self.recipe.balanced)
        seed = draws(self, number, turn)
        generator = torch_generator(seed)
        with torch_seeded(seed):  # dropout knows the global generator only
            for _ in range(self.epochs):
                for index in pieces(torch.randperm(len(y), generator=generator), self.batch, self.min_batch):
                    index = index.to(self.device)
                    inputs, labels = self.recipe.augment(x[index], generator), y[index]
                    losses = F.cross_entropy(module(inputs), labels, reduction="none")
                    if self.recipe.balanced:
                        losses = losses * costs[labels]
                    optimizer.zero_grad(set_to_none=True)
                    losses.mean().backward()
                    if self.proximal:
                        self._pull(module, came)
                    optimizer.step()
        return self._trained()

    def _train_on_records(self, private: RecordDP, weights: np.ndarray, rows: Split, number: int,
                          turn: int) -> np.ndarray:
        """Nothing but clipped, noised gradients touches the rows."""
        terms = self.terms(len(rows))
        module, optimizer, came = self._start(weights)
        x, y = tensors(rows, self.device)
        x = module[0](x)
        drop, draw, noise = (int(s) for s in np.random.SeedSequence(
            [self.seed, number, turn, private.secret]).generate_state(3))
        generator = torch_generator(draw)
        with torch_seeded(drop), clipped_sum(module[1]) as clipped:
            gradient = PrivateGradient(clipped, private.max_grad_norm, terms.sigma,
                                       private.divisor(len(rows), self.batch), torch_generator(noise, self.device))
            for _ in range(terms.steps):
                chosen = (torch.rand(len(y), generator=generator) < terms.rate).to(self.device)
                gradient(x[chosen], y[chosen])
                if self.proximal:
                    self._pull(module, came)
                optimizer.step()
        return self._trained()

    def _start(self, weights: np.ndarray) -> tuple[nn.Sequential, torch.optim.SGD, Tensor]:
        """The module as it came in, what trains it, and the (d,) parameters that came."""
        self._optimizer.state.clear()
        return self._filled(weights), self._optimizer, self._shared.clone()

    def _trained(self) -> np.ndarray:
        """(d,) float32, the parameters as they are now."""
        return self._shared.cpu().numpy().copy()

    def _pull(self, module: nn.Module, came: Tensor) -> None:
        """Add the gradient of `proximal / 2` times the squared distance from what came in."""
        start = 0
        for p in module.parameters():
            p.grad.add_(p.detach() - came[start:start + p.numel()].view_as(p), alpha=self.proximal)
            start += p.numel()

    def digest(self, weights: np.ndarray) -> str:
        """As the function, of a network with (d,) parameters."""
        return digest(self._filled(weights).state_dict())

    def _filled(self, weights: np.ndarray) -> nn.Sequential:
        self._shared.copy_(torch.from_numpy(np.array(weights, np.float32)))
        return self._module

    def classifier(self, weights: np.ndarray) -> TorchClassifier:
        """The model of (d,) parameters, with a module of its own."""
        module, replaced = self.network()
        vector = torch.from_numpy(np.array(weights, np.float32)).to(self.device)
        nn.utils.vector_to_parameters(vector, module.parameters())
        for p in module.parameters():
            p.data = p.data.clone()
        return TorchClassifier(module.eval(), len(self.classes), self.space, device=self.device, recipe=self.recipe,
                               changed=("group-norm",) if replaced else ())

    @staticmethod
    def weights(classifier: TorchClassifier) -> np.ndarray:
        """(d,) float32, the parameters of a model that `classifier` has made, or that was stored since."""
        return _flat(classifier.module)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's state: of the names, types, shapes and bytes of its tensors, sorted by name."""
    whole = sha256()
    for name, tensor in sorted(state.items()):
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        whole.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        whole.update(array)
    return whole.hexdigest()


def _flat(module: nn.Module) -> np.ndarray:
    """(d,) float32, all parameters in a row."""
    with torch.no_grad():
        return nn.utils.parameters_to_vector(module.parameters()).cpu().numpy()


def draws(task: Task, number: int, turn: int) -> int:
    """The seed of all that a hospital draws in a round. It follows from what the whole federation knows."""
    return int(np.random.SeedSequence([task.seed, number, turn]).generate_state(1)[0])


def pieces(order: Tensor, batch: int, least: int) -> list[Tensor]:
    """The rows of each step of an epoch: (n,) rows in pieces of `batch`; a last one of fewer than `least` joins the one
    before it. Whoever chooses `batch` could otherwise leave a single patient for the last step.

    Example:
        >>> [len(rows) for rows in pieces(torch.arange(65), 32, 8)]
        [32, 33]
    """
    parts = list(order.split(batch))
    if len(parts) > 1 and len(parts[-1]) < least:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
