"""What a network makes of its inputs: the right tensors, whatever the network looks like inside."""

import pytest
import torch
from monai.networks.nets import resnet18
from torch import nn

from suite.base.errors import NotApplicable
from suite.base.seeding import seeded
from suite.defenses.robust.smoothing import smoothed
from suite.detectors import Mahalanobis
from suite.training.features import Layers, Penultimate
from tests.support import models as _models


class Tokens(nn.Module):
    """Four tokens an image, as transformers have."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.embed(x.flatten(1).view(len(x), 4, 16)).mean(1))


class Twice(nn.Module):
    """Its layers run in another order than they were made in, and see the batch twice over."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(5, 2), nn.Linear(3, 5)

    def forward(self, x):
        return self.head(self.body(torch.cat([x, x + 1])).view(2, len(x), 5).mean(0))


def networks():
    with seeded(0):
        yield nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.rand(4, 3)
        yield _models.images(3)[0].module, torch.rand(4, 3, 8, 8)
        yield Tokens(), torch.rand(4, 1, 8, 8)
        yield Twice(), torch.rand(4, 3)
        yield nn.Sequential(nn.Identity(), resnet18(spatial_dims=2, n_input_channels=1, num_classes=2)).eval(), \
            torch.rand(2, 1, 32, 32)


def last_linear(module):
    """The layer that makes the logits."""
    return module.head if hasattr(module, "head") else [m for m in module.modules() if isinstance(m, nn.Linear)][-1]


@pytest.mark.parametrize(("module", "x"), list(networks()), ids=["mlp", "cnn", "tokens", "twice", "resnet"])
def test_the_last_layer_makes_the_logits_of_the_features(module, x):
    features, logits = Penultimate(module).both(x)
    assert features.shape[0] == len(x) and features.dim() == 2
    assert torch.equal(logits, module(x))
    assert torch.allclose(last_linear(module)(features), logits, atol=1e-6)


@pytest.mark.parametrize(("module", "x"), list(networks()), ids=["mlp", "cnn", "tokens", "twice", "resnet"])
def test_features_follow_the_input_and_leave_no_hook(module, x):
    x = x.requires_grad_()
    grad, = torch.autograd.grad(Penultimate(module)(x).sum(), x)
    assert grad.flatten(1).abs().sum(1).gt(0).all()
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_layers_are_the_inputs_of_layers_with_weights_averaged_over_places():
    classifier, x, _ = _models.images(2)
    first, last = Layers(classifier.module)(x)
    assert torch.allclose(first, x.mean((2, 3)))
    assert torch.equal(last, Penultimate(classifier.module)(x))


def test_of_a_deep_network_evenly_spaced_layers_with_the_first_and_the_last():
    module = nn.Sequential(*[nn.Linear(2, 2) for _ in range(9)])
    x = torch.rand(3, 2)
    inputs = [module[:i](x) for i in range(9)]
    assert all(torch.equal(a, inputs[i]) for a, i in zip(Layers(module, 3)(x), (0, 4, 8), strict=True))
    assert torch.equal(Layers(module, 1)(x)[0], inputs[8])


def test_a_layer_that_sees_the_inputs_several_times_over_is_left_out():
    assert [z.shape for z in Layers(Twice())(torch.rand(4, 3))] == [(4, 5)]


def randomised():
    """A network under noise, and four inputs."""
    return smoothed(_models.images(1)[0], sigma=0.1, draws=3), torch.rand(4, 1, 8, 8)


def test_of_a_randomised_network_the_mean_over_its_draws():
    classifier, x = randomised()
    noise, network = classifier.module.inner
    with torch.no_grad():
        classifier.module.chance.start(x.device, fresh=False)
        seen = Penultimate(network)(noise(x.repeat(3, 1, 1, 1))).unflatten(0, (3, 4))
        features, logits = Penultimate(classifier.module).both(x)
        assert [z.shape for z in Layers(classifier.module)(x)] == [(4, 1), (4, 288)]
    torch.testing.assert_close(features, seen.mean(0))
    assert not torch.allclose(seen[0], seen[1]) and torch.equal(logits, classifier.scores(x))
    assert Mahalanobis(ridge=0.1).fit(x.numpy(), classifier=classifier).score(x.numpy()).shape == (4,)


def test_features_of_a_randomised_network_follow_the_input():
    classifier, x = randomised()
    features = Penultimate(classifier.module)
    with torch.no_grad():
        fixed = features(x)
    followed = features(x.requires_grad_())
    grad, = torch.autograd.grad(followed.sum(), x)
    assert torch.equal(followed, fixed) and grad.flatten(1).abs().sum(1).gt(0).all()
    assert classifier.module.chance.passes == 0 and not classifier.module.chance.held


def test_a_network_that_sees_its_inputs_only_several_times_over_has_no_features():
    module = Twice()
    module.head = nn.Identity()
    with pytest.raises(NotApplicable, match="several times over"):
        Penultimate(module)(torch.rand(4, 3))


def test_a_network_without_linear_layers_has_no_features():
    with pytest.raises(NotApplicable, match="no linear layer"):
        Penultimate(nn.Conv2d(1, 2, 3))
