"""Networks for images: every size and channel, learning, storing, and the same function after folding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from imaging.models.models import EfficientNetB0, MobileNetV2, ResNetSmall, SimpleCNN, ViT
from imaging.space import ImageSpace
from suite.attacks.gradient import FGSM
from suite.base import registry
from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.defenses.private.dpsgd import DPSGD
from suite.defenses.robust.adversarial import AdversarialTraining
from suite.models import artifacts
from suite.training.folding import fold
from suite.training.groupnorm import without_batch_norm
from suite.training.loop import build

NAMES = ("resnet-small", "simple-cnn", "resnet18", "resnet50", "efficientnet-b0", "densenet121", "vit", "vgg19",
         "mobilenet-v2")


def bright(n=64, seed=0, shape=(1, 28, 28), classes=2):
    """Images that are the brighter the higher their class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = np.clip(rng.random((n, *shape)) * 0.5 + 0.4 * y[:, None, None, None] / (classes - 1), 0, 1)
    return Split(x.astype(np.float32), y, ImageSpace(), tuple("abc"[:classes]), np.arange(n))


@pytest.mark.parametrize("name", NAMES)
def test_every_network_takes_small_images_and_gives_gradients(name):
    module = build(registry.make("models", name), (1, 28, 28), 3).eval().requires_grad_(False)
    x = torch.rand(2, 1, 28, 28, requires_grad=True)
    logits = module(x)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert logits.shape == (2, 3) and gradient.shape == x.shape and gradient.isfinite().all()
    assert sum(isinstance(m, nn.Linear) and m.out_features == 3 for m in module.modules()) == 1


@pytest.mark.parametrize("recipe", [ResNetSmall(), SimpleCNN(), ViT(layers=1), MobileNetV2()])
@pytest.mark.parametrize("inputs", [(3, 64, 80), (1, 131, 97), (3, 224, 224)])
def test_other_sizes_and_channels(recipe, inputs):
    assert build(recipe, inputs, 2).eval()(torch.rand(1, *inputs)).shape == (1, 2)


@pytest.mark.parametrize("recipe", [ResNetSmall(dropout=0.5), MobileNetV2(dropout=0.5)])
def test_dropout_is_not_averaged_out_over_the_image(recipe):
    module = build(recipe, (1, 28, 28), 2)
    seen = []
    module[1][-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(torch.rand(4, 1, 28, 28))
    assert (seen[0] == 0).float().mean() > 0.4


@pytest.mark.parametrize(("inputs", "last"), [((1, 8, 40), (1, 3)), ((1, 33, 45), (3, 3)), ((1, 97, 65), (4, 3))])
def test_efficientnet_halves_sizes_rounded_up_whatever_they_are(inputs, last):
    module = build(EfficientNetB0(), inputs, 2).eval()
    seen = []
    module[1]._conv_head.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:]))
    assert module(torch.rand(1, *inputs)).shape == (1, 2) and seen == [last]


@pytest.mark.parametrize("name", ["resnet-small", "efficientnet-b0", "densenet121", "vgg19", "mobilenet-v2"])
def test_folding_keeps_the_function(name):
    """With statistics unlike the initial ones; DenseNet's norms that follow no convolution stay."""
    module = build(registry.make("models", name), (1, 28, 28), 2).eval()
    generator = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t, low in ((m.running_mean, -0.5), (m.running_var, 0.5), (m.weight.data, 0.5), (m.bias.data, -0.5)):
                t.copy_(torch.rand(t.shape, generator=generator) + low)
    folded, x = fold(module), torch.rand(3, 1, 28, 28, generator=generator)
    left = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert left == (62 if name == "densenet121" else 0)
    with torch.no_grad():
        assert torch.allclose(folded(x), module(x), rtol=1e-3, atol=1e-3 * module(x).abs().max())
        assert module(x).std(0).max() > 0


class Shared(nn.Module):
    """Reads a convolution's output twice, so its normalisation cannot be folded."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_var.fill_(9.0)

    def forward(self, x):
        z = self.convolution(x)
        return (z + self.norm(z)).mean((2, 3))


class Reused(nn.Module):
    """Runs a convolution twice, and a normalisation after each: the same one, or another, or none."""

    def __init__(self, after):
        super().__init__()
        self.convolution, self.norms = nn.Conv2d(1, 4, 3), nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        for norm, spread in zip(self.norms, (9.0, 4.0), strict=True):
            norm.running_var.fill_(spread)
        self.after = after

    def forward(self, x):
        return sum((i + 1) * (self.convolution(x.flip(2)) if k is None else self.norms[k](self.convolution(x)))
                   for i, k in enumerate(self.after)).mean((2, 3))


@pytest.mark.parametrize(("after", "foldable"), [((0, 0), True), ((0, 1), False), ((0, None), False)])
def test_a_convolution_that_runs_twice_is_folded_only_where_both_agree(after, foldable):
    module = nn.Sequential(build(SimpleCNN(), (1, 28, 28), 2)[0], Reused(after)).eval()
    folded, x = fold(module), torch.rand(3, 1, 28, 28)
    assert (folded is not module) == foldable
    with torch.no_grad():
        assert torch.allclose(folded(x), module(x), atol=1e-5)


def test_what_cannot_be_folded_stays():
    module = nn.Sequential(build(SimpleCNN(), (1, 28, 28), 2)[0], Shared()).eval()
    assert fold(module) is module
    plain = build(SimpleCNN(), (1, 28, 28), 2)
    assert fold(plain) is plain


@pytest.mark.parametrize("recipe", [ResNetSmall(epochs=5, lr=5e-3), SimpleCNN(epochs=12, lr=5e-3),
                                    MobileNetV2(epochs=1)])
def test_a_trained_network_is_stored_as_it_is(tmp_path, recipe):
    name = {"ResNetSmall": "resnet-small", "SimpleCNN": "simple-cnn", "MobileNetV2": "mobilenet-v2"}
    train, val, test = bright(), bright(32, 1), bright(32, 2)
    made = replace(recipe, batch=16, modality="none").fit(train, val)
    if not isinstance(recipe, MobileNetV2):
        assert (made.predict(test.x) == test.y).mean() > 0.9
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.module.modules())
    artifacts.save(made, tmp_path, name[type(recipe).__name__])
    found = artifacts.load(tmp_path, name[type(recipe).__name__], 2, ImageSpace())
    assert np.array_equal(found.predict_proba(test.x), made.predict_proba(test.x)) and found.notes == made.notes


def test_adversarial_training_takes_them_and_attacks_reach_them():
    train, val = bright(32), bright(32, 1)
    robust = AdversarialTraining(eps=0.02, steps=1)(ResNetSmall(epochs=3, batch=16, lr=5e-3), train, val)
    assert "operating_point" in robust.notes
    x, y = torch.from_numpy(val.x), torch.from_numpy(val.y)
    fooled = FGSM(eps=0.3)(robust, x, y)
    assert (robust.judge(fooled) != y).sum() > (robust.judge(x) != y).sum()


def test_a_network_without_batch_normalisation_as_dp_sgd_leaves_it_is_stored(tmp_path):
    val, recipe = bright(16), ResNetSmall()
    module = build(recipe, (1, 28, 28), 2)
    module[1], replaced = without_batch_norm(module[1])
    before = module[1][0].weight.clone()
    DPSGD()._train(module, val, rate=0.5, steps=2, sigma=1.0, seed=0, device="cpu")
    assert not torch.equal(module[1][0].weight, before)
    private = TorchClassifier(module, 2, ImageSpace(), recipe=recipe, changed=("group-norm",))
    artifacts.save(private, tmp_path, "resnet-small")
    found = artifacts.load(tmp_path, "resnet-small", 2, ImageSpace())
    assert "GroupNorm" in replaced and np.array_equal(found.predict_proba(val.x), private.predict_proba(val.x))
