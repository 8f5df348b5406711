"""A small trained network on made-up images: a bright shape on a textured ground, 16 x 16."""

from functools import cache

import torch
from torch import nn

from imaging.space import ImageSpace
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier


@cache
def _trained(classes: int):
    with seeded(0):
        y = torch.arange(480) % classes
        x = torch.rand(480, 1, 16, 16) * 0.4
        row, column = torch.randint(3, 9, (2, 480))
        for i, (r, c) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
            part = x[i, 0, r:r + 5, c:c + 5]
            part[[(..., 2), (2, ...), ([0, 1, 3, 4], [0, 1, 3, 4])][y[i]]] += 0.35  # a bar up, a bar across, a diagonal
        module = nn.Sequential(nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3),
                               nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, classes))
        optimizer = torch.optim.Adam(module.parameters(), 5e-3)
        for _ in range(40):
            for some in torch.randperm(320).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(x[some]), y[some]).backward()
                optimizer.step()
    module.zero_grad(set_to_none=True)
    return module, x, y


def figures(classes: int = 3):
    """The trained network, the 320 images it learned, and 160 others; each with labels."""
    module, x, y = _trained(classes)
    return TorchClassifier(module, classes, ImageSpace()), (x[:320], y[:320]), (x[320:], y[320:])


def brightness(side: int = 6, channels: int = 1, *, seed: int = 0):
    """A linear classifier of two labels on images, 8 images away from 0 and 1, and the labels it gives them."""
    with seeded(seed):
        module = nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, 2, bias=False))
        x = 0.2 + 0.4 * torch.rand(8, channels, side, side)
    with torch.no_grad():
        return TorchClassifier(module, 2, ImageSpace()), x, module(x).argmax(1)
