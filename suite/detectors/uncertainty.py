"""A detector by disagreement: an input is suspicious when several versions of the network judge it differently."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from suite.base.bounds import Several
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.detectors._torch import TorchDetector
from suite.training.randomized import DROPOUT, Randomized, Together, drawing


@dataclass
class Uncertainty(TorchDetector):
    """Variance of the probabilities over the draws of a network, or over the members of an ensemble, summed over the
    classes.

    For networks that are asked several times already (defenses mc-dropout, ensemble and randomized-smoothing), and for
    any other that was trained with dropout, which then goes on in a copy of it that the detector asks.

    Attributes:
        draws: Of a network whose dropout is over when it is asked, at least 2. Others have a number of their own.
    """

    info: ClassVar[Info] = Info(
        "Bayesian uncertainty", "Feinman, Curtin, Shintre and Gardner 2017, arXiv 1703.00410",
        cost="`draws` passes an input, or as many as the network makes for a prediction",
        departs="also for ensembles and noise in front; leaves the same units out for all inputs, so that scores can "
                "be repeated; the paper's logistic regression fitted on attacks is left out")
    needs: ClassVar[Literal["gradients"]] = "gradients"
    draws: Several = 50

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise InputError(f"Uncertainty: draws must be at least 2, got {self.draws}")

    def learn(self, clean: np.ndarray, y: np.ndarray | None, classifier: TorchClassifier) -> nn.Module:
        network = classifier.module
        if isinstance(network, Randomized | Together):
            several = network
        elif any(isinstance(layer, DROPOUT) and layer.p > 0 for layer in network.modules()):
            several = drawing(deepcopy(network), self.draws)
        else:
            raise NotApplicable(f"Uncertainty: {type(network).__name__} has neither dropout nor members, so it gives "
                                "one answer only; mc-dropout and ensemble are defenses that give several")
        return _Variance(several, len(classifier.classes_))


class _Variance(nn.Module):
    def __init__(self, several: Randomized | Together, classes: int) -> None:
        super().__init__()
        self.several, self.classes = several, classes

    def forward(self, x: Tensor) -> Tensor:
        proba = self.several.draw(x)[..., :self.classes].softmax(2)
        return (proba - proba.mean(0)).square().mean(0).sum(1)
