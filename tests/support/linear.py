"""Linear classifiers of images, for which the answers are known in closed form."""

import torch
from torch import nn

from imaging.space import ImageSpace
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier


def linear(shape, classes=2, n=8, rejects=False):
    """A linear classifier, `n` images (at most 64) of medium greys that it is not sure of, and its labels of them."""
    with seeded(1):
        module = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes + rejects))
        x = 0.35 + 0.3 * torch.rand(64, *shape)
    with torch.no_grad():  # the boundary runs through the middle of the images
        module[1].bias.sub_(module(x).mean(0))
        x = x[:n]
        return TorchClassifier(module, classes, ImageSpace(), rejects), x, module(x)[:, :classes].argmax(1)


def slope(classifier, x, y):
    """Lead of the other label over the true one of a binary classifier, and its gradient, shaped as the images."""
    weight = classifier.module[1].weight.detach()
    side = (1.0 - 2 * y)[:, None]
    with torch.no_grad():
        return ((classifier.module(x)[:, 1:] - classifier.module(x)[:, :1]) * side)[:, 0], (
            side * (weight[1] - weight[0])).view(x.shape)


def constant(shape, n=8):
    """A classifier that nothing fools, and images."""
    classifier, x, y = linear(shape, n=n)
    with torch.no_grad():
        classifier.module[1].weight.zero_()
        classifier.module[1].bias.copy_(torch.tensor([1.0, 0.0]))
    return classifier, x, torch.zeros_like(y)
