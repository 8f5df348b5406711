"""A small network with dropout, a table for it, and whether two classifiers are the same."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from suite.core.data import Split
from suite.core.space import Space
from suite.training.loop import TorchRecipe


@dataclass(frozen=True)
class Net(TorchRecipe):
    hidden: int = 8
    dropout: float = 0.3

    def network(self, inputs, classes):
        return nn.Sequential(nn.Linear(inputs[0], self.hidden), nn.ReLU(), nn.Dropout(self.dropout),
                             nn.Linear(self.hidden, classes))


def table(n=200, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int64)
    x = (np.array([100.0, 5.0]) + np.array([20.0, 0.5]) * (rng.normal(size=(n, 2)) + 1.5 * y[:, None]))
    return Split(x.astype(np.float32), y, Space(0.0, 500.0), ("a", "b"), np.arange(n))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.module.state_dict().values(), b.module.state_dict().values(),
                                                 strict=True))
