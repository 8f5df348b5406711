"""Small classifiers and spaces for the tests of attacks."""

import torch
from torch import nn

from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier
from suite.core.space import Space
from tabular.schema import Schema


def linear(inputs: int = 6, classes: int = 2, *, scale=None, bound: float = 50.0, rejects: bool = False):
    """A linear classifier on a wide box whose features are measured in unequal units."""
    with seeded(1):
        module = nn.Linear(inputs, classes + rejects)
        scale = torch.rand(inputs) + 0.5 if scale is None else scale
    return TorchClassifier(module, classes, Space(-bound, bound, scale), rejects=rejects)


def rows(classifier, n: int, shape=(6,), seed: int = 0, spread: float = 1.0):
    """Inputs and the labels that the classifier gives them ("refused" counts as the best label)."""
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) * spread
    with torch.no_grad():
        return x, classifier.module(x)[:, : len(classifier.classes_)].argmax(1)


def moons():
    """A trained network on two interleaving arcs in the box [0, 1], its 200 test inputs and their labels."""
    with seeded(0):
        angle, y = torch.rand(600) * torch.pi, torch.arange(600) % 2
        arc = torch.stack([angle.cos() + y, (angle.sin() - 0.4) * (1 - 2 * y)], 1)
        x = ((arc + 0.08 * torch.randn(600, 2) + torch.tensor([1.5, 1.0])) / torch.tensor([4.5, 2.0])).clamp(0, 1)
        module = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[:400]), y[:400]).backward()
            optimizer.step()
    module.zero_grad()
    return TorchClassifier(module, 2, Space(0.0, 1.0)), x[400:], y[400:]


def images(channels: int, classes: int = 2):
    """An untrained convolutional network on 8 x 8 images, 6 images and the labels it gives them."""
    with seeded(2):
        module = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(),
                               nn.Linear(288, classes))
        x = torch.rand(6, channels, 8, 8)
    classifier = TorchClassifier(module, classes, Space(0.0, 1.0))
    with torch.no_grad():
        return classifier, x, module(x).argmax(1)


def patients(relations: bool = True, seed: int = 3):
    """A network on a table with every kind of column, 60 possible patients and the labels it gives them."""
    columns = {
        "glucose": {"min": 40, "max": 250, "integer": True},
        "bmi": {"min": 10, "max": 60},
        "age": {"min": 18, "max": 90, "integer": True, "change": "never"},
        "smoker": {"min": 0, "max": 1, "values": (0, 1), "change": "up"},
        "thal": {"min": 3, "max": 7, "values": (3, 6, 7)},
        "rate": {"min": 40, "max": 200, "integer": True, "change": "down"},
    }
    related = [{"name": "not both run high", "terms": {"rate": 1, "glucose": 0.5}, "max": 260}]
    schema = Schema(columns=columns, relations=related if relations else [])
    space = schema.space()
    with seeded(seed):
        low, width = space.lower, space.upper - space.lower
        x = low + width * (0.2 + 0.6 * torch.rand(60, 6))
        x[:, [0, 2, 5]] = x[:, [0, 2, 5]].round()
        x[:, 3], x[:, 4] = torch.randint(2, (60,)).float(), torch.tensor([3.0, 6.0, 7.0])[torch.randint(3, (60,))]
        x[:, 5] = x[:, 5].clamp(max=120)
        module = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
        with torch.no_grad():
            module[0].weight.div_(width / 8)
            module[0].bias.sub_(module[0].weight @ (low + width / 2))
    classifier = TorchClassifier(module, 2, space)
    with torch.no_grad():
        return classifier, x, module(x).argmax(1)
