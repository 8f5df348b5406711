"""Speckle: noise in proportion to the intensity, as coherent imaging (ultrasound, optical coherence tomography) has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from suite.attacks._search import Goal, Hunt, Query, worst_of
from suite.attacks._shaped import Shaped
from suite.base.bounds import Count, Positive
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Kind, Reach

_UNIT = "largest share by which a pixel's intensity changes"


@dataclass(frozen=True)
class Speckle(Query):
    """The worst of some draws of random speckle, `x + x * n` (Lal et al. 2021): what a bad day at the scanner does.

    Attributes:
        noise: "gaussian": n of standard deviation `eps / 2`, cut off at `eps`; "uniform": n between `-eps` and `eps`.
        draws: Random fields tried for each image.
        early_stop: As for `suite.attacks.noise.RandomNoise`.
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Speckle noise", "Lal, Rehman, Shah, Meraj, Rauf, Damasevicius, Mohammed and Abdulkareem 2021, "
        "doi 10.3390/s21113922", "score", ("evasion-query",), "`draws` queries, fewer with early stop",
        "the worst of some draws, where the paper takes one; Gaussian noise is cut off at two standard deviations, so "
        "that it has a budget")
    unit: ClassVar[str] = _UNIT
    eps: Positive = 0.2
    noise: Literal["gaussian", "uniform"] = "gaussian"
    draws: Count = 32
    early_stop: bool = True

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        def draw(reach: Reach) -> Tensor:
            n = torch.empty_like(reach.x)
            if self.noise == "uniform":
                n.uniform_(-self.eps, self.eps, generator=generator)
            else:
                n.normal_(0, self.eps / 2, generator=generator).clamp_(-self.eps, self.eps)
            return reach.snap(torch.clamp(reach.x + reach.x * n, reach.lower, reach.upper))

        return worst_of(draw, self.draws, Hunt(classifier, reach, goal, self.early_stop))


@dataclass(frozen=True)
class AdversarialSpeckle(Shaped):
    """Speckle chosen by an attacker: gradient ascent over the field n of `x + x * n`, `|n| <= eps`."""

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Adversarial speckle", "noise model of Lal et al. 2021, doi 10.3390/s21113922; ascent as in Madry et al. 2017, "
        "arXiv 1706.06083", "white-box", ("evasion",),
        "`restarts` x (`steps` forward and input-gradient passes and 1 forward pass), fewer with early stop",
        "the paper's speckle is random; here the worst field is looked for", strong=True, strong_from=("steps", 20))
    unit: ClassVar[str] = _UNIT
    eps: Positive = 0.1

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.empty_like(x).uniform_(-1, 1, generator=generator)

    def render(self, x: Tensor, theta: Tensor) -> Tensor:
        return x + x * (self.eps * theta)
