"""Models of medical images: a small residual network by default, and the architectures that papers report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from imaging.models import networks
from imaging.models.augment import MODALITIES
from suite.audit.plan import Modality
from suite.base.bounds import Blocks, Count, Decay, LearningRate, NonNegative, Width, Widths
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.data import Split
from suite.core.space import Kind
from suite.training.loop import TorchRecipe


@dataclass(frozen=True)
class ImageRecipe(TorchRecipe):
    """A network for images and how to train it: cosine schedule, running average of the weights, augmentation, and an
    operating point chosen on the validation split.

    Attributes:
        modality: The kind of image, which decides what augmentation may change (`imaging.models.augment.MODALITIES`);
            that of the data where it is left out, and "other" where nobody knows.
    """

    inputs: ClassVar[Kind] = "image"
    epochs: Count = 20
    patience: Count = 20
    weight_decay: NonNegative = 5e-2
    cosine: bool = True
    average: Decay = 0.99
    operating_point: Literal["argmax", "balanced"] = "balanced"
    modality: Modality | None = None

    def __post_init__(self) -> None:
        if self.modality not in (None, *MODALITIES):
            raise InputError(f"{type(self).__name__}: modality must be one of {', '.join(MODALITIES)}, "
                             f"got {self.modality!r}")

    def suited(self, train: Split) -> ImageRecipe:
        return self if self.modality else replace(self, modality=train.modality or "other")

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return MODALITIES[self.modality or "other"](x, generator)


@dataclass(frozen=True)
class ResNetSmall(ImageRecipe):
    """The default on a CPU: three residual blocks at 14 pixels a side and less.

    Attributes:
        widths: Channels of each block.
        dropout: Before the last layer.
    """

    info: ClassVar[Info] = Info(
        "Small residual network", "He et al. 2016, arXiv 1512.03385",
        cost="on one core about 0.8 ms an image and epoch at 28 pixels, 4 ms at 128",
        departs="three blocks, and size is halved before the first of them")
    widths: Widths = (16, 32, 64)
    dropout: Decay = 0.0

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        return networks.resnet_small(inputs, classes, self.widths, self.dropout)


@dataclass(frozen=True)
class SimpleCNN(ImageRecipe):
    """Three convolutions: what a surrogate or a shadow model needs, and DP-SGD takes as it is.

    Attributes:
        widths: Channels of each convolution.
        dropout: Before the last layer.
    """

    info: ClassVar[Info] = Info("Simple CNN", "LeCun et al. 1998, Proc. IEEE 86:2278", cost="the least of all networks",
                                departs="ReLU, strides instead of pooling, mean over the image")
    widths: Widths = (16, 32, 64)
    dropout: Decay = 0.0

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        return networks.simple_cnn(inputs, classes, self.widths, self.dropout)


@dataclass(frozen=True)
class _ResNet(ImageRecipe):
    """A residual network of MONAI's; small images keep their size in its first layers."""

    lr: LearningRate = 1e-3
    depth: ClassVar[str]

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        from monai.networks import nets

        small = networks.first_stride(inputs) == 1
        return getattr(nets, self.depth)(
            pretrained=False, spatial_dims=2, n_input_channels=inputs[0], num_classes=classes, bias_downsample=False,
            conv1_t_size=3 if small else 7, conv1_t_stride=1 if small else 2, no_max_pool=small,
            act=("relu", {"inplace": False}))


@dataclass(frozen=True)
class ResNet18(_ResNet):
    """ResNet-18."""

    info: ClassVar[Info] = Info("ResNet-18", "He et al. 2016, arXiv 1512.03385",
                                cost="on one core about 60 ms an image and epoch; better on a GPU",
                                departs="up to 64 pixels: a first convolution of 3 x 3, no stride, no pooling")
    depth: ClassVar[str] = "resnet18"


@dataclass(frozen=True)
class ResNet50(_ResNet):
    """ResNet-50."""

    info: ClassVar[Info] = Info("ResNet-50", "He et al. 2016, arXiv 1512.03385", cost="twice ResNet-18; needs a GPU",
                                departs="up to 64 pixels: a first convolution of 3 x 3, no stride, no pooling")
    depth: ClassVar[str] = "resnet50"


@dataclass(frozen=True)
class EfficientNetB0(ImageRecipe):
    """EfficientNet-B0."""

    info: ClassVar[Info] = Info("EfficientNet-B0", "Tan and Le 2019, arXiv 1905.11946",
                                cost="on one core 20 ms an image and epoch at 28 pixels, 70 ms at 128",
                                departs="up to 64 pixels the first convolution has no stride; all pad both sides alike")
    lr: LearningRate = 1e-3

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        from monai.networks.nets import EfficientNetBN

        # MONAI's own momentum of 0.01 takes thousands of steps to learn the statistics
        network = EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=inputs[0], num_classes=classes,
                                 norm=("batch", {"eps": 1e-3}))
        network.set_swish(memory_efficient=False)  # whose gradient has no gradient
        if networks.first_stride(inputs) == 1:
            network._conv_stem.stride = (1, 1)
        for block in network.modules():
            for name, layer in [*block.named_children()]:
                if isinstance(layer, nn.Conv2d):  # MONAI's own padding is that of 224 pixels
                    layer.padding = tuple(side // 2 for side in layer.kernel_size)
                    setattr(block, f"{name}_padding", nn.Identity())
        return network


@dataclass(frozen=True)
class DenseNet121(ImageRecipe):
    """DenseNet-121."""

    info: ClassVar[Info] = Info("DenseNet-121", "Huang et al. 2017, arXiv 1608.06993", cost="three times ResNet-18",
                                departs="up to 64 pixels: no stride and no pooling in the first layers")
    lr: LearningRate = 1e-3

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        from monai.networks.nets import DenseNet121 as Network

        network = Network(spatial_dims=2, in_channels=inputs[0], out_channels=classes, pretrained=False,
                          act=("relu", {"inplace": False}))
        if networks.first_stride(inputs) == 1:
            network.features.conv0.stride = (1, 1)
            network.features.pool0 = nn.Identity()
        return network


@dataclass(frozen=True)
class ViT(ImageRecipe):
    """A vision transformer, by default of the size of DeiT-Ti, with 7 to 14 patches a side.

    Attributes:
        width, layers, heads: Of the transformer.
        dropout: In all its layers.
    """

    info: ClassVar[Info] = Info("Vision transformer", "Dosovitskiy et al. 2021, arXiv 2010.11929",
                                cost="as ResNet-18", departs="the size of DeiT-Ti; patches of 4 to 16 pixels")
    lr: LearningRate = 5e-4
    width: Width = 192
    layers: Blocks = 12
    heads: Blocks = 3
    dropout: Decay = 0.0

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        patch = min(16, 1 << max(min(inputs[1:]) // 7, 1).bit_length() - 1)
        return networks.Transformer(inputs, classes, patch, self.width, self.layers, self.heads, self.dropout)


@dataclass(frozen=True)
class VGG19(ImageRecipe):
    """VGG-19 with batch normalisation."""

    info: ClassVar[Info] = Info("VGG-19", "Simonyan and Zisserman 2015, arXiv 1409.1556", cost="needs a GPU",
                                departs="batch normalisation, and one linear layer on the mean over the image")
    lr: LearningRate = 5e-4

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        return networks.vgg19(inputs, classes)


@dataclass(frozen=True)
class MobileNetV2(ImageRecipe):
    """MobileNetV2.

    Attributes:
        dropout: Before the last layer.
    """

    info: ClassVar[Info] = Info("MobileNetV2", "Sandler et al. 2018, arXiv 1801.04381",
                                cost="on one core 11 ms an image and epoch at 28 pixels, 30 ms at 128",
                                departs="up to 64 pixels the first convolution has no stride")
    dropout: Decay = 0.2

    def network(self, inputs: tuple[int, ...], classes: int) -> nn.Module:
        return networks.mobilenet_v2(inputs, classes, self.dropout)
