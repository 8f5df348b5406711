"""Adversarial training: learn from the worst possible inputs near each training input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.attacks.ascent import Box, ascend, uniform
from suite.base.bounds import Budgets, Count, Fraction, NonNegative, Positive
from suite.base.info import Info
from suite.core.classifier import TorchClassifier, frozen
from suite.core.data import Split
from suite.core.space import Space
from suite.results.metrics import balanced_accuracy, collapsed
from suite.training.loop import Batch, Objective, TorchDefense, TorchRecipe, fit


@dataclass(frozen=True)
class RobustTraining(TorchDefense):
    """What adversarial training and TRADES share: the inner attack, and the choice of its budget.

    Too large a budget makes a network answer the majority class to everyone, which looks robust. So unless `eps` is
    given, the largest budget of `grid` is taken whose network, on the validation split, has not collapsed and is at
    most `tolerance` worse in balanced accuracy than the undefended one. `notes["eps"]` tells which; early stopping
    watches the loss under attack.

    Attributes:
        eps: Linf budget of the inner attack, in units of the space's scale; None to pilot it.
        grid: Budgets to pilot, largest first.
        tolerance: Balanced accuracy that robustness may cost on validation inputs, in [0, 1].
        steps: Steps of the inner attack.
        step: Length of a step, as a share of `eps`.
    """

    eps: Positive | None = None
    grid: Budgets = (0.1, 0.05, 0.025, 0.0125, 0.005)
    tolerance: Fraction = 0.1
    steps: Count = 7
    step: Positive = 0.25

    @abstractmethod
    def objective(self, space: Space, eps: float) -> Objective:
        """The loss of a batch under the inner attack."""

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)
        if self.eps is not None:
            return self._train(recipe, train, val, self.eps, seed, device)
        plain = recipe.fit(train, val, seed, device)
        least = balanced_accuracy(plain.predict(val.x), val.y) - self.tolerance
        for eps in self.grid:
            classifier = self._train(recipe, train, val, eps, seed, device)
            pred = classifier.predict(val.x)
            if not collapsed(pred, val.y) and balanced_accuracy(pred, val.y) >= least:
                return classifier
        classifier.notes["pilot"] = "every budget of the grid cost too much accuracy; the smallest was kept"
        return classifier

    def _train(self, recipe: TorchRecipe, train: Split, val: Split, eps: float, seed: int,
               device: str) -> TorchClassifier:
        classifier = fit(recipe, train, val, seed=seed, device=device,
                         objective=self.objective(train.space.to(device), eps))
        classifier.notes["eps"] = eps
        return classifier

    def worst_case(self, space: Space, eps: float) -> Objective:
        """Cross-entropy of the worst input that PGD finds."""
        def worst_case(module: nn.Module, batch: Batch) -> Tensor:
            z = self._attack(module, batch.x, space, eps, lambda box: uniform(box, batch.generator),
                             lambda logits: F.cross_entropy(logits, batch.y, reduction="sum"))
            return F.cross_entropy(module(z), batch.y, reduction="none")

        return worst_case

    def _attack(self, module: nn.Module, x: Tensor, space: Space, eps: float, start: Callable[[Box], Tensor],
                loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Possible inputs within `eps` of `x` with a large loss.

        The module is in evaluation mode meanwhile, so that its statistics stay those of clean inputs.
        """
        box = space.ball(x, eps)

        def gradient(z: Tensor) -> Tensor:
            z = z.detach().requires_grad_()
            return torch.autograd.grad(loss(module(z)), z)[0]

        with frozen(module):
            z = ascend(gradient, start(box), box, self.step * eps * space.scale, self.steps)
        return space.snap(z, x)


@dataclass(frozen=True)
class AdversarialTraining(RobustTraining):
    """PGD adversarial training: the loss is that of the worst input which a short PGD finds."""

    info: ClassVar[Info] = Info(
        "PGD adversarial training", "Madry et al. 2018, arXiv 1706.06083", threats=("evasion",),
        cost="1 + steps trainings; without `eps` at most 1 + 5 (1 + steps)",
        departs="keeps the epoch with the least loss under attack, and pilots the budget on validation inputs")

    def objective(self, space: Space, eps: float) -> Objective:
        return self.worst_case(space, eps)


@dataclass(frozen=True)
class Trades(RobustTraining):
    """TRADES: the loss on the clean input, plus how much the prediction can be changed nearby.

    Attributes:
        beta: Weight of the second term, the paper's 1 / lambda.
    """

    info: ClassVar[Info] = Info(
        "TRADES", "Zhang et al. 2019, arXiv 1901.08573", threats=("evasion",),
        cost="2 + steps trainings; without `eps` at most 1 + 5 times",
        departs="keeps the epoch with the least loss under attack, and pilots the budget on validation inputs; class "
                "weights apply to both terms")
    beta: NonNegative = 6.0

    def objective(self, space: Space, eps: float) -> Objective:
        def trade_off(module: nn.Module, batch: Batch) -> Tensor:
            with frozen(module), torch.no_grad():
                clean = module(batch.x).softmax(1)

            def nearby(box: Box) -> Tensor:  # at x itself the divergence has no gradient
                noise = torch.randn(batch.x.shape, generator=batch.generator).to(batch.x.device)
                return torch.minimum(torch.maximum(batch.x + 1e-3 * space.scale * noise, box[0]), box[1])

            # the divergence from the clean prediction and this cross-entropy differ by a constant
            z = self._attack(module, batch.x, space, eps, nearby,
                             lambda logits: F.cross_entropy(logits, clean, reduction="sum"))
            logits = module(batch.x)
            divergence = F.kl_div(module(z).log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True)
            return F.cross_entropy(logits, batch.y, reduction="none") + self.beta * divergence.sum(1)

        return trade_off
