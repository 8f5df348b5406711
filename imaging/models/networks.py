"""Networks of ours for images: small ones that two CPU cores can train and attack, and classics that MONAI lacks or
has only with a further library (its transformer).

All take standardised float32 `(n, channels, height, width)`, 28 to 224 pixels a side, and return `(n, classes)` logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 64
"""Pixels a side up to which networks made for 224 pixels do without their early reductions."""


def halvings(inputs: tuple[int, ...], side: int) -> int:
    """How often images (channels, height, width) are to be halved until no side is longer than `side`."""
    return max(0, ((max(inputs[1:]) - 1) // side).bit_length())


def convolution(inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch normalisation; sizes stay, but for the stride."""
    layer = nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return [layer, nn.BatchNorm2d(outside)]


def head(features: int, classes: int, dropout: float | None = None) -> list[nn.Module]:
    """Mean over the image, dropout (of maps it would average out), then a linear layer."""
    drop = [] if dropout is None else [nn.Dropout(dropout)]
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *drop, nn.Linear(features, classes)]


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


def resnet_small(inputs: tuple[int, ...], classes: int, widths: tuple[int, ...], dropout: float) -> nn.Module:
    """One residual block a width, each at half the size of the one before; the first at 16 pixels a side or less.

    Convolutions on few, small channels cost memory traffic rather than arithmetic, so full size is left at once.
    """
    layers: list[nn.Module] = []
    channels = inputs[0]
    for _ in range(max(1, halvings(inputs, 16))):
        layers += [*convolution(channels, widths[0], stride=2), nn.ReLU()]
        channels = widths[0]
    for n, width in enumerate(widths):
        layers.append(Residual(channels, width, 2 if n else 1))
        channels = width
    return nn.Sequential(*layers, *head(channels, classes, dropout))


def simple_cnn(inputs: tuple[int, ...], classes: int, widths: tuple[int, ...], dropout: float) -> nn.Module:
    """Strided convolutions and ReLUs, without normalisation: rows never mix."""
    layers: list[nn.Module] = []
    channels = inputs[0]
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, *head(channels, classes, dropout or None))


def vgg19(inputs: tuple[int, ...], classes: int) -> nn.Module:
    """VGG-19 with batch normalisation and one linear layer at the end."""
    layers: list[nn.Module] = []
    channels = inputs[0]
    for width, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(depth):
            layers += [*convolution(channels, width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers, *head(channels, classes))


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow (Sandler et al. 2018, arXiv 1801.04381, fig. 4)."""

    def __init__(self, inside: int, outside: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = inside * widen
        layers = [*convolution(inside, wide, 1), nn.ReLU6()] if widen > 1 else []
        layers += [*convolution(wide, wide, stride=stride, groups=wide), nn.ReLU6(), *convolution(wide, outside, 1)]
        self.body, self.straight = nn.Sequential(*layers), inside == outside and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.straight else self.body(x)


def mobilenet_v2(inputs: tuple[int, ...], classes: int, dropout: float) -> nn.Module:
    """MobileNetV2; the first convolution keeps the size of small images."""
    layers: list[nn.Module] = [*convolution(inputs[0], 32, stride=first_stride(inputs)), nn.ReLU6()]
    channels = 32
    # the paper's table 2: factor of widening, channels, repetitions, stride of the first
    for widen, width, repeat, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                         (6, 160, 3, 2), (6, 320, 1, 1)):
        for n in range(repeat):
            layers.append(InvertedResidual(channels, width, 1 if n else stride, widen))
            channels = width
    layers += [*convolution(channels, 1280, 1), nn.ReLU6()]
    return nn.Sequential(*layers, *head(1280, classes, dropout))


class Transformer(nn.Module):
    """A vision transformer: patches, a class token, learned positions (Dosovitskiy et al. 2021, arXiv 2010.11929).

    Args:
        inputs: (channels, height, width); what does not fill a patch at the right and the bottom is not seen.
        classes: Number of logits.
        patch: Pixels a side of a patch.
        width, layers, heads: Of the encoder.
        dropout: After attention, and after each layer of the perceptrons.
    """

    def __init__(self, inputs: tuple[int, ...], classes: int, patch: int, width: int, layers: int, heads: int,
                 dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(inputs[0], width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        places = 1 + (inputs[1] // patch) * (inputs[2] // patch)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, places, width), std=0.02))
        self.blocks = nn.Sequential(*(Encoder(width, heads, dropout) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        return self.head(self.blocks(z)[:, 0])


class Encoder(nn.Module):
    """Self-attention, then a perceptron, each normalised before and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.after = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.perceptron = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(),
                                        nn.Dropout(dropout), nn.Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        n, places, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, places, width)
        x = x + self.after(seen)
        return x + self.perceptron(x)


def first_stride(inputs: tuple[int, ...]) -> int:
    """Stride of the first convolution of a network made for 224 pixels."""
    return 1 if max(inputs[1:]) <= SMALL else 2
