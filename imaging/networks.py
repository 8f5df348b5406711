"""Networks of ours for images: small ones that two CPU cores can train and attack, and two classics that MONAI lacks.

All take standardised float32 `(n, channels, height, width)`, 28 to 224 pixels a side, and return `(n, classes)` logits.
"""

from __future__ import annotations

from torch import Tensor, nn

SIDE = 32
"""Larger images are halved by strided convolutions until their longer side is no more than this."""


def halvings(inputs: tuple[int, ...], side: int = SIDE) -> int:
    """How often images (channels, height, width) are to be halved until no side is longer than `side`."""
    return max(0, ((max(inputs[1:]) - 1) // side).bit_length())


def convolution(inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch normalisation; sizes stay, but for the stride."""
    return [nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outside)]


def head(features: int, classes: int) -> list[nn.Module]:
    """Mean over the image, then a linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution(inside, outside, stride=stride), nn.ReLU(),
                                  *convolution(outside, outside))
        straight = inside == outside and stride == 1
        self.shortcut = nn.Identity() if straight else nn.Sequential(*convolution(inside, outside, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def resnet_small(inputs: tuple[int, ...], classes: int, widths: tuple[int, ...] = (16, 32, 64),
                 dropout: float = 0.0) -> nn.Module:
    """One residual block a width, the later ones at half the size of the one before."""
    layers: list[nn.Module] = [*convolution(inputs[0], widths[0]), nn.ReLU()]
    for stride in [2] * halvings(inputs):
        layers[-3:] = []
        layers += [*convolution(inputs[0], widths[0], stride=stride), nn.ReLU()]
    for n, width in enumerate(widths):
        layers.append(Residual(widths[max(n - 1, 0)], width, 2 if n else 1))
    return nn.Sequential(*layers, nn.Dropout(dropout), *head(widths[-1], classes))
