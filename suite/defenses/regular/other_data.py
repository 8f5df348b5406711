"""Distillation for membership privacy: a student that never meets the training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.base.bounds import Count, Positive
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.training.loop import Batch, TorchDefense, TorchRecipe, fit, tensors


@dataclass(frozen=True)
class OtherDataDistillation(TorchDefense):
    """A student of the recipe learns a teacher's soft labels on inputs that are no training rows.

    The inputs are those of the validation split, and copies of them with noise in units of the space's scale, snapped
    to possible inputs. What the teacher remembers of single training rows reaches the student only through its answers
    about others. The validation rows are not protected.

    Attributes:
        copies: Noisy copies of each validation input, besides the input itself.
        noise: Greatest change of a feature in a copy, in units of scale.
        temperature: Divides the teacher's and the student's logits.
    """

    info: ClassVar[Info] = Info(
        "Distillation on other data", "Shejwalkar and Houmansadr 2021, arXiv 1906.06589 (DMP)", threats=("membership",),
        cost="two trainings",
        departs="the other data are validation inputs and noisy copies of them, all of which are used: the paper has a "
                "public set, of which it takes those rows that the teacher is sure of")
    copies: Count = 8
    noise: Positive = 0.1
    temperature: Positive = 2.0

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)
        teacher = recipe.fit(train, val, seed, device)
        other, t = self._other(val, seed), self.temperature
        x, _ = tensors(other, teacher.device)
        soft = (teacher.scores(x) / t).softmax(1)

        def match(module: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(module(batch.x) / t, soft[batch.index], reduction="none") * t**2

        def judged(module: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(module(batch.x), batch.y, reduction="none")

        student = fit(replace(recipe, balanced=False), other, val, seed=seed, device=device, objective=match,
                      val_objective=judged)
        student.recipe = recipe
        return student

    def _other(self, val: Split, seed: int) -> Split:
        """Validation inputs, and their copies."""
        rows = val.take(np.tile(np.arange(len(val)), 1 + self.copies))
        space, rng = val.space.to("cpu"), np.random.default_rng([seed, 3])
        base = torch.from_numpy(rows.x[len(val):])
        noise = torch.from_numpy(rng.uniform(-self.noise, self.noise, base.shape).astype(np.float32)) * space.scale
        return replace(rows, x=np.concatenate([val.x, space.snap(base + noise, base).numpy()]))
