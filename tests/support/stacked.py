"""A network that is trained in stacks."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from suite.training.loop import TorchRecipe


@dataclass(frozen=True)
class Net(TorchRecipe):
    hidden: tuple[int, ...] = (16, 8)
    dropout: bool = False

    def network(self, inputs, classes):
        widths = [inputs[0], *self.hidden]
        layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers, *[nn.Dropout(0.5)] * self.dropout, nn.Linear(widths[-1], classes))
