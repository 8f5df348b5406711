"""Label smoothing: training towards labels that are almost sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from suite.base.bounds import Decay
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.training.loop import Batch, TorchDefense, TorchRecipe, fit


@dataclass(frozen=True)
class LabelSmoothing(TorchDefense):
    """A share of each label is spread evenly over all classes, so that no row is worth learning to the last.

    It draws rows of a class together, which makes model inversion easier (Struppek, Hintersdorf and Kersting 2024,
    arXiv 2310.06549): what it hides has to be held against what it shows.

    Attributes:
        share: Of each label, in [0, 1); a model that fits its rows to the last is `1 - share + share / classes` sure.
    """

    info: ClassVar[Info] = Info(
        "Label smoothing", "Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2016, arXiv 1512.00567",
        threats=("membership",), cost="one training; probabilities that are less sure than the model is")
    share: Decay = 0.1

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)

        def smooth(module: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(module(batch.x), batch.y, reduction="none", label_smoothing=self.share)

        return fit(recipe, train, val, seed=seed, device=device, objective=smooth)
