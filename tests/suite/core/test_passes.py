"""Passes without autograd: the same to the bit as with it, and left alone wherever they could differ."""

import pytest
import torch
from torch import nn

from suite.core.classifier import TorchClassifier
from suite.core.normalize import Normalize
from suite.core.passes import direct
from suite.core.space import Space


def chain(*layers, width=6):
    torch.random.manual_seed(0)
    normalize = Normalize((width,))
    normalize.mean.uniform_(-50, 50)
    normalize.std.uniform_(0.1, 30)
    return nn.Sequential(normalize, nn.Sequential(*layers)).eval()


MLP = chain(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))
LINEAR = chain(nn.Linear(6, 2))


@pytest.mark.parametrize("module", [MLP, LINEAR, chain(nn.Identity(), nn.Linear(6, 4, bias=False), nn.ReLU())])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_logits_and_gradients_are_those_of_autograd_to_the_bit(module, rows):
    x = 40 * torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows))
    leaf = x.clone().requires_grad_()
    expected = module(leaf)
    weights = [torch.randn(expected.shape, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    logits, grads = direct(module)(x, lambda _: weights)
    assert torch.equal(logits, expected)
    for k, (grad, w) in enumerate(zip(grads, weights, strict=True)):
        assert torch.equal(grad, torch.autograd.grad(expected, leaf, w, retain_graph=k == 0)[0])
    assert not logits.requires_grad and all(p.grad is None for p in module.parameters())


def test_a_unit_that_is_exactly_off_passes_nothing_back():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    _, (grad,) = direct(module)(torch.zeros(1, 1), lambda logits: [torch.ones_like(logits)])
    assert grad.item() == 0


@pytest.mark.parametrize("module", [nn.Sequential(nn.Linear(6, 2), nn.Tanh()), nn.Sequential(nn.BatchNorm1d(6)),
                                    nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), nn.Bilinear(6, 6, 2)])
def test_other_modules_are_left_to_autograd(module):
    assert direct(module) is None


def test_subclasses_and_hooks_are_left_to_autograd():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert direct(nn.Sequential(Doubled(6, 2))) is None
    hooked = nn.Sequential(nn.Linear(6, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    assert direct(hooked) is None


def test_a_classifier_counts_the_same_and_follows_its_module():
    model = TorchClassifier(MLP, 3, Space(-100.0, 100.0))
    x = torch.ones(5, 6)
    before, _ = model.pull(x, lambda z: [torch.ones_like(z), z])
    assert (model.queries, model.gradients) == (5, 10)
    with torch.no_grad():
        MLP[1][-1].bias.add_(1)
    assert torch.allclose(model.pull(x, lambda z: [])[0], before + 1)
    model.module = chain(nn.Linear(6, 3))
    assert torch.equal(model.pull(x, lambda z: [])[0], model.module(x))


def test_in_training_mode_dropout_is_autograds():
    model = TorchClassifier(chain(nn.Linear(6, 512), nn.Dropout(0.5), nn.Linear(512, 2)), 2, Space(-1.0, 1.0))
    x = torch.ones(1, 6)
    still = [model.pull(x, lambda z: [])[0] for _ in range(2)]
    model.module.train()
    moving = [model.pull(x, lambda z: [])[0] for _ in range(2)]
    assert torch.equal(*still) and not torch.equal(*moving)
