"""Detectors by distance: to the middle of a class, or to the nearest clean inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from suite.base.bounds import Count, NonNegative, Several
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.classifier import TorchClassifier
from suite.detectors._torch import TorchDetector, View, labels, some

WIDEST = 8192
"""Features of which a covariance is still computed."""


def check_width(features: int) -> None:
    """Raise `NotApplicable` for more features than a covariance is computed of."""
    if features > WIDEST:
        raise NotApplicable(f"Mahalanobis: a covariance of {features} features is too large (at most {WIDEST}); give a "
                            "network, whose features are fewer")


@dataclass
class Mahalanobis(TorchDetector):
    """Mahalanobis distance to the mean of the clean data, or to the nearest class mean where labels are given.

    Looks at what enters the last linear layer of a network or, where there is none, at the inputs, flattened, which
    suits up to a few thousand features. The covariance is that of standardised features, pooled over classes.

    Attributes:
        ridge: Added to the diagonal of the covariance of standardised data, >= 0. Columns that never vary or that
            follow from others need more than 0.
    """

    info: ClassVar[Info] = Info(
        "Mahalanobis distance", "Li and Zhu 2020 (ISBI); Lee et al. 2018, arXiv 1807.03888", cost="one covariance",
        departs="one covariance for all classes and the nearest mean, as in Lee et al., whose noise on the inputs and "
                "weights of layers, fitted on attacks, are left out")
    ridge: NonNegative = 1e-3

    def learn(self, clean: np.ndarray, y: np.ndarray | None, classifier: TorchClassifier | None) -> nn.Module:
        if classifier is None:
            check_width(clean[0].size)
        view = View(clean, classifier)
        rows, which = view.rows.double(), labels(y, len(clean))
        check_width(rows.shape[1])
        if len(rows) <= int(which.max()) + 1:
            raise InputError(f"Mahalanobis: {len(rows)} clean inputs of {int(which.max()) + 1} classes have no spread "
                             "around the means of their classes; it needs more")
        means = torch.stack([rows[which == i].mean(0) for i in range(int(which.max()) + 1)])
        spread = rows - means[which]
        covariance = spread.T @ spread / (len(rows) - len(means)) + self.ridge * torch.eye(rows.shape[1]).double()
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise InputError(f"Mahalanobis: columns that never vary or follow others need ridge above {self.ridge}")
        whiten = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).double(), upper=False).T
        return _Whitened(view, whiten.float(), (means @ whiten).float())


class _Whitened(nn.Module):
    """Distance to the nearest of some points after a linear map that makes the covariance the identity."""

    def __init__(self, view: View, whiten: Tensor, points: Tensor) -> None:
        super().__init__()
        self.view = view
        self.register_buffer("whiten", whiten)
        self.register_buffer("points", points)

    def forward(self, x: Tensor) -> Tensor:
        # the matmul form of cdist loses the digits that a threshold needs
        return torch.cdist(self.view(x) @ self.whiten, self.points,
                           compute_mode="donot_use_mm_for_euclid_dist").amin(1)


@dataclass
class Neighbors(TorchDetector):
    """Distance to the k-th nearest clean input, in standardised units: assumes no shape of the data.

    Looks at what enters the last linear layer of a network or, where there is none, at the inputs.

    Attributes:
        k: Which neighbor.
        most: Clean inputs kept; a random subset is taken of more, to bound memory and time.
    """

    info: ClassVar[Info] = Info("k-nearest-neighbor distance", "Ramaswamy, Rastogi and Shim 2000 (SIGMOD)",
                                cost="distances to the clean data for each input")
    k: Count = 10
    most: Several = 5000

    def learn(self, clean: np.ndarray, y: np.ndarray | None, classifier: TorchClassifier | None) -> nn.Module:
        if not 1 <= self.k <= min(len(clean), self.most):
            raise InputError(f"Neighbors: k={self.k} neighbors asked for among {min(len(clean), self.most)} inputs")
        view = View(clean, classifier)
        return _KthDistance(view, view.rows[some(len(clean), self.most)], self.k)


class _KthDistance(nn.Module):
    """Distance to the k-th nearest row."""

    def __init__(self, view: View, rows: Tensor, k: int) -> None:
        super().__init__()
        self.view, self.k = view, k
        self.register_buffer("rows", rows)

    def forward(self, x: Tensor) -> Tensor:
        # one way to compute it however many inputs are asked about: else an input's score would hang on the batch
        return torch.cdist(self.view(x), self.rows,
                           compute_mode="use_mm_for_euclid_dist").kthvalue(self.k, dim=1).values
