"""Trainings that are audited by canaries."""

import numpy as np
import torch

from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.private.dpsgd import DPSGD

COLUMNS = 600
"""So many that one layer has room for every canary."""


def rows(n, seed, columns=COLUMNS):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = rng.normal(0.5, 0.2, (n, columns))
    x[:, :5] += 0.2 * y[:, None] - 0.1
    return Split(np.clip(x, 0, 1).astype(np.float32), y, Space(torch.zeros(columns), torch.ones(columns)),
                 ("healthy", "ill"), np.arange(n))
TRAIN, VAL, FRESH = rows(60, 0), rows(30, 1), rows(150, 2)
HONEST = {"epsilon": 0.5, "delta": 1e-5, "epochs": 20, "batch": 1000, "lr": 0.05, "max_grad_norm": 0.1}


class Quiet(DPSGD):
    """A thirtieth of the noise that it claims to add."""

    def _train(self, module, train, rate, steps, sigma, seed, device):
        super()._train(module, train, rate, steps, sigma / 30, seed, device)


class Blank(Classifier):
    def _proba(self, x):
        return np.full((len(x), len(self.classes_)), 1 / len(self.classes_))


def flat(n, seed, classes=2, shape=(3,)):
    rng = np.random.default_rng(seed)
    return Split(rng.random((n, *shape), np.float32), np.zeros(n, np.int64), Space(0.0, 1.0),
                 tuple(f"class {k}" for k in range(classes)), np.arange(n))
