"""A detector by density: how many clean inputs of the predicted class lie nearby."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from suite.base.bounds import Positive, Several
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.detectors._torch import TorchDetector, View, some

GRID = torch.logspace(-1, 1, 17).tolist()
"""Bandwidths that are tried, in units of the median distance to the nearest clean input."""


@dataclass
class KernelDensity(TorchDetector):
    """Minus the logarithm of a Gaussian kernel density over the clean inputs of the predicted class.

    Looks at what enters the last linear layer of a network. Where there is none, at the inputs; then the class is the
    one in which the density is greatest. Features are standardised first, so one bandwidth suits all.

    Attributes:
        bandwidth: Standard deviation of the kernel, in standard deviations of the features; chosen by the likelihood of
            each clean input given the others (leave-one-out cross-validation) when it is None.
        most: Clean inputs kept; a random subset is taken of more, to bound memory and time.
    """

    info: ClassVar[Info] = Info(
        "Kernel density", "Feinman, Curtin, Shintre and Gardner 2017, arXiv 1703.00410",
        cost="distances to the clean data for each input",
        departs="density in logarithms, where far inputs do not all come out at 0; the paper's second feature is a "
                "detector of its own, and its logistic regression fitted on attacks is left out")
    bandwidth: Positive | None = None
    most: Several = 2000

    def __post_init__(self) -> None:
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise InputError(f"KernelDensity: bandwidth must be greater than 0, got {self.bandwidth!r}")

    def learn(self, clean: np.ndarray, y: np.ndarray | None, classifier: TorchClassifier | None) -> nn.Module:
        view, kept = View(clean, classifier), some(len(clean), self.most)
        which = torch.zeros(len(kept), dtype=torch.int64) if y is None else torch.as_tensor(y)[kept]
        rows = view.rows.flatten(1)[kept]
        known = classifier is not None and y is not None  # then the classes of `y` are those of the logits
        return _Density(view, rows, which, self.bandwidth or cross_validated(rows, which), known)


class _Density(nn.Module):
    """Minus log density in the predicted class, or in the one where it is greatest."""

    def __init__(self, view: View, rows: Tensor, which: Tensor, bandwidth: float, predicted: bool) -> None:
        super().__init__()
        self.view, self.bandwidth, self.predicted = view, bandwidth, predicted
        self.register_buffer("rows", rows)
        outside = which != torch.arange(int(which.max()) + 1)[:, None]
        self.register_buffer("outside", outside)  # (classes, rows)
        self.register_buffer("count", (~outside).sum(1).clamp(min=1).float())

    def forward(self, x: Tensor) -> Tensor:
        z, logits = self.view.both(x)
        # one way to compute it however many inputs are asked about: else an input's score would hang on the batch
        distance = torch.cdist(z, self.rows, compute_mode="use_mm_for_euclid_dist")
        kernel = -distance.square() / (2 * self.bandwidth ** 2)
        within = torch.stack([kernel.masked_fill(out, -torch.inf).logsumexp(1) for out in self.outside], 1)
        density = within - self.count.log() - z.shape[1] * (math.log(self.bandwidth) + math.log(2 * math.pi) / 2)
        if not self.predicted:
            return -density.amax(1)
        label = logits[:, :len(self.outside)].argmax(1)
        return -density.gather(1, label[:, None])[:, 0]


def cross_validated(rows: Tensor, which: Tensor) -> float:
    """The bandwidth under which each row is likeliest given the other rows of its class.

    Args:
        rows: (n, d).
        which: (n,) classes.
    """
    square = torch.cdist(rows.double(), rows.double()).square()
    other = which[:, None] == which
    other.fill_diagonal_(False)
    shared = other.any(1)
    nearest = square.masked_fill(~other, torch.inf).amin(1)[shared].sqrt()
    if not (nearest > 0).any():
        return 1.0  # copies of each other, or each alone in its class: nothing to learn a width from
    unit = float(nearest[nearest > 0].median())

    def likelihood(h: float) -> float:
        kernel = (-square / (2 * h * h)).masked_fill(~other, -torch.inf)[shared].logsumexp(1)
        return float(kernel.mean()) - rows.shape[1] * math.log(h)

    return max((unit * share for share in GRID), key=likelihood)
