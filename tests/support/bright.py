"""A network that looks at brightness."""

import torch
from torch import nn

from imaging.space import ImageSpace
from suite.core.classifier import TorchClassifier


def bright(channels=1, size=12):
    """Says "opacity" where the mean intensity exceeds 0.5."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[0.0], [60.0]]) / (channels * size * size))
        module[1].bias.copy_(torch.tensor([0.0, -30.0]))
    return TorchClassifier(module, 2, ImageSpace())
