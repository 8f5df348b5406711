"""One-logit and multi-label networks as classifiers of two classes; what a user's network returns is checked first."""

import numpy as np
import pytest
import torch
from torch import nn

from suite.attacks.apgd import APGD
from suite.attacks.gradient import PGD
from suite.attacks.minimal import DeepFool
from suite.base.errors import InputError
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.models.artifacts import Fitted
from suite.training.heads import Finding, OneLogit


def split(classes=("well", "ill"), n=80):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return Split(x, np.arange(n) % len(classes), Space(-9.0, 9.0), classes, np.arange(n))


def linear(width, bias=0.0):
    with seeded(3):
        layer = nn.Linear(4, width)
    nn.init.constant_(layer.bias, bias)
    return layer


class Flat(nn.Module):
    """(n,) logits."""

    def __init__(self):
        super().__init__()
        self.layer = linear(1)

    def forward(self, x):
        return self.layer(x)[:, 0]


@pytest.mark.parametrize("module", [linear(1), Flat()])
def test_one_logit_gives_sigmoid_probabilities_and_its_own_gradients(module):
    x = torch.from_numpy(split().x)
    z = module(x).reshape(-1)
    classifier = TorchClassifier(OneLogit(module), 2, Space(-9.0, 9.0))
    assert torch.allclose(torch.from_numpy(classifier.predict_proba(split().x))[:, 1], z.double().sigmoid(), atol=1e-6)
    _, margin, gradient = classifier.gradient(x, lambda logits: logits[:, 1] - logits[:, 0])
    weight = next(module.parameters())
    assert torch.equal(margin, z) and torch.equal(gradient, weight.expand(len(x), -1))
    assert (classifier.predict(split().x) == (z > 0).numpy()).all()


def test_a_finding_is_its_own_logit():
    module, x = linear(3), torch.from_numpy(split().x)
    for k in range(3):
        assert torch.equal(Finding(module, k)(x), torch.stack([torch.zeros(len(x)), module(x)[:, k]], 1))
    for k in (3, -1):
        with pytest.raises(InputError, match="has 3, numbered from 0"):
            Finding(module, k)(x)


@pytest.mark.parametrize("attack", [PGD(eps=2.0, step=0.25), APGD(eps=2.0), DeepFool(eps=20.0)])
@pytest.mark.parametrize("module", [OneLogit(linear(1)), Finding(linear(3), 1)])
def test_attacks_work_on_them(attack, module):
    """The nearest point of the other class is known: a step against the sign of the weights."""
    classifier, x = TorchClassifier(module, 2, Space(-9.0, 9.0)), torch.from_numpy(split().x)
    y = classifier.judge(x)
    layer = module.module
    weight = layer.weight[getattr(module, "k", 0)].detach()
    reachable = (x @ weight).abs() / weight.abs().sum() < 1.9
    assert (classifier.judge(attack(classifier, x, y)) != y)[reachable].all() and reachable.sum() > 40


def test_a_fitted_one_logit_network_is_wrapped():
    for module in (linear(1), Flat()):
        found = Fitted(module, "m").classifier(split())
        assert found.predict_proba(split().x).shape == (80, 2) and found.queries == 80 and not found.notes


class Drawn(nn.Module):
    def forward(self, x):
        return x[:, :2] + torch.rand(len(x), 2)


@pytest.mark.parametrize(("module", "message"), [
    (linear(5), r"returns 5 logits a row.*suite.training.heads.Finding\(module, k\)"),
    (nn.Sequential(linear(2), nn.Softmax(1)), "returns probabilities .*softmax"),
    (nn.Sequential(linear(1), nn.Sigmoid()), "probabilities .*sigmoid"),
    (nn.Sequential(linear(2), nn.Sigmoid()), "probabilities .*sigmoid"),
    (linear(2, float("nan")), "not finite for 80|not finite for 64 of 64"),
    (linear(2, float("inf")), "not finite for 64 of 64"),
    (nn.Unflatten(1, (2, 2)), r"returns shape \(64, 2, 2\)"),
])
def test_outputs_that_cannot_be_logits_are_refused(module, message):
    with pytest.raises(InputError, match=message):
        Fitted(module, "m").classifier(split())


def test_widths_of_more_classes():
    three = split(("a", "b", "c"))
    assert Fitted(linear(3), "m").classifier(three).classes_.tolist() == [0, 1, 2]
    for width, message in ((1, "one logit a row, but there are 3"), (2, "2 logits a row, but there are 3"),
                           (4, "4 logits a row, but there are 3")):
        with pytest.raises(InputError, match=message):
            Fitted(linear(width), "m").classifier(three)


def test_logits_that_happen_to_be_small_are_no_probabilities():
    """A few rows between 0 and 1 prove nothing."""
    for width in (1, 2):
        assert Fitted(nn.Sequential(linear(width), nn.Sigmoid()), "m").classifier(split(n=8))


def test_a_randomised_network_is_noted():
    assert "randomised" in Fitted(Drawn(), "m").classifier(split()).notes
    assert "randomised" not in Fitted(nn.Sequential(linear(2), nn.Dropout()), "m").classifier(split()).notes
