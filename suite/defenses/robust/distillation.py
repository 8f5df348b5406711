"""Defensive distillation: training on a teacher's soft labels at a high temperature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from suite.base.bounds import Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.training.loop import Batch, Objective, TorchDefense, TorchRecipe, build, fit, tensors


@dataclass(frozen=True)
class Distillation(TorchDefense):
    """A network trained at a temperature on the soft labels of a teacher trained at that temperature.

    The network that is returned gives its raw logits, as at temperature 1. They are about `temperature` times as large
    as those of a plain network, so that softmax saturates and gradients of the cross-entropy vanish in float32: attacks
    that follow them look weak. This is masking, not robustness (Carlini and Wagner 2017, arXiv 1608.04644): attack its
    logits or margins.

    Attributes:
        temperature: Divides the logits while training, at least 1.
    """

    info: ClassVar[Info] = Info(
        "Defensive distillation", "Papernot et al. 2016, arXiv 1511.04508", threats=("evasion",), cost="two trainings",
        departs="the learning rate grows with the temperature; class weights, where the recipe asks for them, apply to "
                "teacher and student")
    temperature: Positive = 20.0

    def __post_init__(self) -> None:
        if not self.temperature >= 1:
            raise InputError(f"Distillation: temperature must be at least 1, got {self.temperature}")

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)
        faster, t = self._faster(recipe, train), self.temperature

        def hard(module: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(module(batch.x) / t, batch.y, reduction="none")

        teacher = fit(faster, train, val, seed=seed, device=device, objective=hard)
        student = fit(faster, train, val, seed=seed, device=device, objective=self._match(teacher, train),
                      val_objective=self._match(teacher, val))
        student.recipe = recipe
        return student

    def _faster(self, recipe: TorchRecipe, train: Split) -> TorchRecipe:
        """The recipe with the learning rate that lets logits grow `temperature` times as large in as many steps.

        Each of L weight layers has to grow by the L-th root of that, and AdamW moves a weight by about the learning
        rate a step. Without it a linear model would stop half trained.
        """
        network = build(recipe, train.x.shape[1:], len(train.classes))
        growth = self.temperature ** (1 / sum(p.ndim > 1 for p in network.parameters()))
        return replace(recipe, lr=recipe.lr * growth, weight_decay=recipe.weight_decay / growth)

    def _match(self, teacher: TorchClassifier, split: Split) -> Objective:
        """The loss of matching the teacher's soft labels on a split, which are computed once."""
        x, _ = tensors(split, teacher.device)
        soft = (teacher.scores(x) / self.temperature).softmax(1)

        def match(module: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(module(batch.x) / self.temperature, soft[batch.index], reduction="none")

        return match
