"""Standardisation as the first layer of a network, which so takes data units."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Standardises data units, per column for tables and per channel for images; constant columns pass unscaled."""

    def __init__(self, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        shape = (1, inputs[0], *[1] * (len(inputs) - 1))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, x: np.ndarray) -> Normalize:
        """Take mean and standard deviation from (n, ...) training inputs."""
        axes = (0, *range(2, x.ndim))
        std = x.std(axis=axes, keepdims=True, dtype=np.float64)
        self.mean.copy_(torch.from_numpy(x.mean(axis=axes, keepdims=True, dtype=np.float64)))
        self.std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0)))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
