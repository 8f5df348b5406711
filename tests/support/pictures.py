"""A linear model of pictures, and its exact distances."""

import torch

from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier
from suite.core.space import Space


def exact(classifier, x, norm):
    """Distance of each row to the boundary of a linear classifier of two labels, in units of scale."""
    weight, bias = (p[1] - p[0] for p in (classifier.module.weight, classifier.module.bias))
    slope = (weight * classifier.space.scale).detach()
    return ((x @ weight + bias).abs() / (slope.abs().sum() if norm == "linf" else slope.norm())).detach()


def picture():
    """An untrained convolutional network on 28 x 28 images, whose median score divides its classes."""
    with seeded(4):
        module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 5, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 3, 2),
                                     torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 2))
        x = torch.rand(24, 1, 28, 28)
        with torch.no_grad():
            gap = module(x).diff(dim=1)[:, 0]
            module[-1].bias[0] += gap.median()
    classifier = TorchClassifier(module, 2, Space(0.0, 1.0))
    return classifier, x, classifier.judge(x)
