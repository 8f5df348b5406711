"""Outlier detectors: how unlike the clean training data an input is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from suite.attack import Info
from suite.errors import InputError
from suite.recipe import Detector
from suite.seeding import torch_generator
from suite.training import Normalize


@dataclass
class TorchDetector(Detector):
    """A detector whose score is a module, so that a guard can use it in front of a network and attacks can follow it.

    Attributes:
        module: After `fit`, `(n, ...) float32 inputs -> (n,) scores`, differentiable; its state is in its buffers.
    """

    def fit(self, clean: np.ndarray, y: np.ndarray | None = None) -> Self:
        """Learn what clean inputs look like.

        Args:
            clean: (n, ...) inputs in data units, n >= 2.
            y: (n,) int64 labels, for detectors that look at each class by itself; others ignore them.
        """
        if len(clean) < 2:
            raise InputError(f"{type(self).__name__} needs at least two clean inputs, got {len(clean)}")
        self.module = self.learn(np.ascontiguousarray(clean, np.float32), y)
        return self

    @abstractmethod
    def learn(self, clean: np.ndarray, y: np.ndarray | None) -> nn.Module:
        """The scoring module."""

    def score(self, x: np.ndarray) -> np.ndarray:
        device = next(self.module.buffers()).device
        x = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        with torch.inference_mode():
            parts = [self.module(part.to(device)).double().cpu() for part in x.split(1024)]
        return torch.cat(parts).numpy() if len(x) else np.zeros(0)


@dataclass
class Mahalanobis(TorchDetector):
    """Mahalanobis distance to the mean of the clean data, or to the nearest class mean where labels are given.

    The covariance is that of the standardised columns (tables) or channels (images), pooled over classes; inputs are
    flattened, which suits up to a few thousand features.

    Attributes:
        ridge: Added to the diagonal of the covariance of standardised data, >= 0. Columns that never vary or that
            follow from others need more than 0.
    """

    info: ClassVar[Info] = Info(
        "Mahalanobis distance", "Li and Zhu 2020 (ISBI); Lee et al. 2018, arXiv 1807.03888", cost="one covariance",
        departs="on the inputs, not on features of the network, so that it guards any model")
    ridge: float = 1e-3

    def learn(self, clean: np.ndarray, y: np.ndarray | None) -> nn.Module:
        normalize = Normalize(clean.shape[1:]).fit(clean)
        rows = normalize(torch.from_numpy(clean)).flatten(1).double()
        labels = torch.zeros(len(rows), dtype=torch.int64) if y is None else torch.as_tensor(y)
        present, which = labels.unique(return_inverse=True)
        means = torch.stack([rows[which == i].mean(0) for i in range(len(present))])
        spread = rows - means[which]
        covariance = spread.T @ spread / (len(rows) - len(present)) + self.ridge * torch.eye(rows.shape[1]).double()
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise InputError(f"Mahalanobis: columns that never vary or follow others need ridge above {self.ridge}")
        whiten = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).double(), upper=False).T
        return _Whitened(normalize, whiten.float(), (means @ whiten).float())


class _Whitened(nn.Module):
    """Distance to the nearest of some points after a linear map that makes the covariance the identity."""

    def __init__(self, normalize: Normalize, whiten: Tensor, points: Tensor) -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("whiten", whiten)
        self.register_buffer("points", points)

    def forward(self, x: Tensor) -> Tensor:
        # the matmul form of cdist loses the digits that a threshold needs
        return torch.cdist(self.normalize(x).flatten(1) @ self.whiten, self.points,
                           compute_mode="donot_use_mm_for_euclid_dist").amin(1)


@dataclass
class Neighbors(TorchDetector):
    """Distance to the k-th nearest clean input, in standardised units: assumes no shape of the data.

    Attributes:
        k: Which neighbor.
        most: Clean inputs kept; a random subset is taken of more, to bound memory and time.
    """

    info: ClassVar[Info] = Info("k-nearest-neighbor distance", "Ramaswamy, Rastogi and Shim 2000 (SIGMOD)",
                                cost="distances to the clean data for each input")
    k: int = 10
    most: int = 5000

    def learn(self, clean: np.ndarray, y: np.ndarray | None) -> nn.Module:
        if not 1 <= self.k <= min(len(clean), self.most):
            raise InputError(f"Neighbors: k={self.k} neighbors asked for among {min(len(clean), self.most)} inputs")
        normalize = Normalize(clean.shape[1:]).fit(clean)
        rows = normalize(torch.from_numpy(clean)).flatten(1)
        if len(rows) > self.most:
            rows = rows[torch.randperm(len(rows), generator=torch_generator(0))[:self.most]]
        return _KthDistance(normalize, rows, self.k)


class _KthDistance(nn.Module):
    """Distance to the k-th nearest row."""

    def __init__(self, normalize: Normalize, rows: Tensor, k: int) -> None:
        super().__init__()
        self.normalize, self.k = normalize, k
        self.register_buffer("rows", rows)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(self.normalize(x).flatten(1), self.rows).kthvalue(self.k, dim=1).values
