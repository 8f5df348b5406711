"""Tiny images whose class is told by something robust and by something useful, and a network that learns them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from suite.base.info import Info
from suite.core.data import Split
from suite.core.space import Space
from suite.training.loop import TorchRecipe

BOX = Space(0.0, 1.0)


@dataclass(frozen=True)
class SmallCNN(TorchRecipe):
    """A convolution with batch normalisation, and a linear layer; notes the size and mode of each forward pass."""

    info: ClassVar[Info] = Info("Small CNN", "none")
    epochs: int = 15
    batch: int = 50
    lr: float = 5e-3
    patience: int = 15
    width: int = 6
    passes: ClassVar[list[tuple[int, bool, bool]]] = []

    def network(self, inputs, classes):
        net = nn.Sequential(nn.Conv2d(inputs[0], self.width, 3, padding=1), nn.BatchNorm2d(self.width),
                            nn.ReLU(inplace=True), nn.Flatten(),
                            nn.Linear(self.width * inputs[1] * inputs[2], classes))
        net.register_forward_hook(_note)
        return net


def _note(net, args, _):
    SmallCNN.passes.append((len(args[0]), net.training, net[0].weight.requires_grad))


def squares(n=300, seed=0):
    """8 x 8 images: a square that is bright in the ill, but for a tenth, and a faint chessboard that never errs.

    Whoever may move each pixel by 0.1 can turn the chessboard around and not the square, so 90 % is the best robust
    accuracy, and a network that trusts the chessboard has almost none.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    sign = (2 * y - 1)[:, None, None]
    x = 0.5 + 0.05 * sign * (-1.0) ** np.add.outer(np.arange(8), np.arange(8)) + rng.normal(0, 0.02, (n, 8, 8))
    x[:, 2:6, 2:6] += 0.2 * sign * np.where(rng.random(n) < 0.9, 1, -1)[:, None, None]
    return Split(np.clip(x, 0, 1).astype(np.float32)[:, None], y, BOX, ("healthy", "ill"), np.arange(n))
