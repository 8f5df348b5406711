"""Sanitizers: each transform against an independent one or a closed form, and what an attacker who knows it does."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from imaging.defenses import transforms
from imaging.defenses.sanitize import BitDepth, Jpeg, MedianFilter, TotalVariation, Wavelet
from imaging.space import ImageSpace
from suite.attacks.gradient import PGD
from suite.base.errors import InputError, NotApplicable
from suite.base.seeding import seeded
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.post_training.around import around
from suite.defenses.post_training.sanitizer import Sanitized

SANITIZERS = [Jpeg(), BitDepth(), MedianFilter(), TotalVariation(), Wavelet()]
each = pytest.mark.parametrize("sanitizer", SANITIZERS, ids=lambda s: type(s).__name__)


def photo(channels=3, height=45, width=52, n=3, seed=0):
    """Smooth images with edges and a little noise, of awkward sides."""
    g = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.rand(n, channels, 5, 6, generator=g), (height, width), mode="bicubic").clamp(0, 1)
    x[:, :, 10:20, 15:30] = 0.9
    return (x + 0.03 * torch.randn(x.shape, generator=g)).clamp(0, 1)


def pillow(x, quality):
    out = []
    for image in (255 * x).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file)).reshape(image.shape))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 255


# ---- the transforms


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 45, 52), (3, 45, 52), (3, 32, 48), (1, 28, 28)])
def test_jpeg_is_that_of_pillow_within_a_grey_level_or_two(channels, height, width, quality):
    x = photo(channels, height, width)
    ours, theirs = transforms.jpeg(x, quality), pillow(x, quality)
    off = 255 * (ours - theirs).abs()
    assert off.mean() < (0.5 if channels == 1 else 1.3)  # a coefficient halfway between two steps may go either way
    assert off.mean() < 0.3 * 255 * (theirs - x).abs().mean()  # much nearer to Pillow's than either is to the image


def test_jpeg_loses_more_at_lower_quality_and_nothing_of_grey():
    x = photo()
    lost = [float((transforms.jpeg(x, q) - x).abs().mean()) for q in (95, 75, 40, 10)]
    assert lost == sorted(lost)
    flat = torch.full((1, 1, 16, 24), 128 / 255)
    assert torch.equal(transforms.jpeg(flat, 50), flat)


def test_bit_depth_by_hand():
    x = torch.tensor([0.0, 0.16, 0.17, 0.5, 0.84, 1.0]).view(1, 1, 2, 3)
    assert torch.allclose(transforms.bit_depth(x, 2).flatten(), torch.tensor([0, 0, 1, 2, 3, 3]) / 3)
    assert torch.equal(transforms.bit_depth(x, 1).flatten(), torch.tensor([0.0, 0, 0, 0, 1, 1]))


def test_total_variation_of_a_step_moves_both_halves_by_the_closed_form():
    """Per row, moving each half of w pixels by a saves 2 a weight of variation and costs w a^2: a = weight / w."""
    x = torch.cat([torch.full((1, 2, 6, 5), 0.3), torch.full((1, 2, 6, 5), 0.7)], 3)
    u = transforms.total_variation(x, 0.1, 2000)
    assert torch.allclose(u, x + torch.where(x < 0.5, 0.02, -0.02), atol=1e-4)
    flat = torch.full((1, 1, 8, 8), 0.4)
    assert torch.allclose(transforms.total_variation(flat, 0.1, 30), flat)


def test_total_variation_lowers_its_objective_with_every_ten_steps():
    x, weight = photo(1), 0.05

    def objective(u):
        rise, run = F.pad(u.diff(dim=2), (0, 0, 0, 1)), F.pad(u.diff(dim=3), (0, 1))
        return float((u - x).square().sum() / 2 + weight * (rise.square() + run.square()).sqrt().sum())

    values = [objective(x)] + [objective(transforms.total_variation(x, weight, steps)) for steps in (10, 20, 40, 80)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[1] > 20 * (values[1] - values[-1])


def test_haar_is_orthonormal_and_invertible():
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    low, details = transforms.haar(x)
    assert torch.allclose(low.square().sum() + details.square().sum(), x.square().sum())
    assert torch.allclose(transforms.haar_inverse(low, details), x, atol=1e-6)
    across, down, diagonal = transforms.haar(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))[1].flatten()
    assert (across, down, diagonal) == (1, 0, 0)


def test_wavelet_removes_noise_and_leaves_what_has_none():
    clean = torch.zeros(2, 1, 40, 44)
    clean[:, :, 8:32, 12:24] = 0.5
    clean += 0.25
    assert torch.allclose(transforms.wavelet(clean), clean, atol=1e-6)  # no noise is seen, so none is removed
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    after, before = ((z - clean).square().mean() for z in (transforms.wavelet(noisy), noisy))
    assert after < 1.2 / 16 * before  # the share of the noise that is in the averages of 4 x 4 pixels stays


@each
@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (3, 3, 17, 33), (2, 1, 8, 9)])
def test_transforms_are_float32_stay_in_bounds_and_treat_each_image_by_itself(sanitizer, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    out = sanitizer.transform(x)
    assert (out.dtype, out.shape) == (torch.float32, x.shape)  # ART's feature squeezing returns float64
    assert out.min() >= 0 and out.max() <= 1
    assert not torch.equal(out, x)
    alone = torch.cat([sanitizer.transform(row) for row in x.split(1)])
    assert torch.allclose(out, alone, atol=1e-5)


# ---- in front of a network


def convnet(channels=1, classes=2, side=12):
    with seeded(0):
        net = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * (side - 2)**2, classes))
    made = TorchClassifier(net, classes, ImageSpace(), recipe="the recipe")
    made.notes["eps"] = 0.1
    return made


def split(n=8, side=12, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, channels, side, side), np.float32)
    return Split(x, np.arange(n) % 2, ImageSpace(), ("healthy", "ill"), np.arange(n))


@each
def test_the_network_sees_the_transform_and_the_attacker_its_derivative(sanitizer):
    data, inner = split(), convnet()
    defended, x = sanitizer.wrap(inner, data, data), torch.from_numpy(data.x)
    seen = sanitizer.transform(x)
    assert torch.equal(defended.logits(x), inner.logits(seen))
    _, (grad,) = defended.pull(x, lambda logits: [torch.ones_like(logits)])
    assert grad.isfinite().all() and (grad.flatten(1).abs().sum(1) > 0).all()
    assert np.array_equal(defended.predict_proba(data.x), inner.predict_proba(seen.numpy()))
    copy.deepcopy(defended.module)


@pytest.mark.parametrize("sanitizer", [BitDepth(), Jpeg()])
def test_rounding_lets_the_gradient_through(sanitizer):
    """On grey images JPEG is an orthonormal transform, rounding, and the way back."""
    data, inner = split(side=16), convnet(side=16)
    x = torch.from_numpy(data.x)
    _, (mine,) = sanitizer.wrap(inner, data, data).pull(x, lambda logits: [torch.ones_like(logits)])
    _, (theirs,) = inner.pull(sanitizer.transform(x), lambda logits: [torch.ones_like(logits)])
    assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("transform", [lambda x: transforms.total_variation(x, 0.05, 5), transforms.wavelet,
                                       transforms.median])
def test_derivatives_of_denoisers_are_the_true_ones(transform):
    x = photo(1, 6, 8, 1).double()
    assert torch.autograd.gradcheck(transform, x.requires_grad_(), atol=1e-3)


def test_total_variation_keeps_few_images_for_the_way_back(monkeypatch):
    x, held, grads = photo(1, 6, 8, 1).requires_grad_(), [], []
    for kept in (6, 30, 7):
        monkeypatch.setattr(transforms, "_KEPT", kept)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
            u = transforms.total_variation(x, 0.05, 30)
        grads += torch.autograd.grad(u.square().sum(), x)
    assert sum(held) < 3 * 20 * x.numel()  # three images for each piece; without repeating, a dozen for each step
    assert torch.allclose(grads[0], grads[1]) and torch.allclose(grads[0], grads[2])


@each
def test_keeps_what_the_classifier_is_and_knows(sanitizer):
    inner, data = convnet(), split()
    defended = sanitizer.wrap(inner, data, data)
    assert (defended.recipe, defended.notes, defended.device) == (inner.recipe, inner.notes, inner.device)
    assert defended.space is inner.space and np.array_equal(defended.classes_, inner.classes_)
    defended.notes["eps"] = 0.2
    assert inner.notes["eps"] == 0.1


def test_stands_in_front_of_a_forest_too():
    from sklearn.dummy import DummyClassifier

    class Darkest(DummyClassifier):
        def predict_proba(self, x):
            p = x.reshape(len(x), -1).min(1)
            return np.stack([p, 1 - p], 1)

    data = split()
    defended = BitDepth(bits=1).wrap(EstimatorClassifier(Darkest(), 2, ImageSpace()), data, data)
    assert np.array_equal(defended.predict_proba(data.x)[:, 0], np.zeros(8))
    assert defended.scores(torch.from_numpy(data.x)).shape == (8, 2)
    assert defended.queries == 16


def coarse_and_fine(n, seed):
    """12 x 12 images whose class is told by a faint chessboard and by the brightness of a square, under noise."""
    rng, sign = np.random.default_rng(seed), np.where(np.arange(n) % 2, 1, -1)
    shape = 0.03 * (-1.0) ** np.add.outer(np.arange(12), np.arange(12))
    shape[2:10, 2:10] += 0.06
    x = 0.5 + sign[:, None, None] * shape + rng.normal(0, 0.05, (n, 12, 12))
    return Split(np.clip(x, 0, 1).astype(np.float32)[:, None], np.arange(n) % 2, ImageSpace(), ("healthy", "ill"),
                 np.arange(n))


@pytest.fixture(scope="module")
def trained():
    data, net = coarse_and_fine(400, 0), convnet()
    with seeded(0):
        optimizer = torch.optim.Adam(net.module.parameters(), 3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(net.module(torch.from_numpy(data.x)), torch.from_numpy(data.y)).backward()
            optimizer.step()
    return net


@each
def test_an_attack_that_does_not_know_the_sanitizer_overstates_what_it_is_worth(sanitizer, trained):
    """It spends itself on the chessboard, which a denoiser removes; one that knows turns to the square."""
    test = coarse_and_fine(80, 1)
    x, y, attack = torch.from_numpy(test.x), torch.from_numpy(test.y), PGD(eps=0.07, early_stop=False, steps=20)
    defended = sanitizer.wrap(trained, test, test)
    right = [float((defended.judge(z) == y).float().mean()) for z in (x, attack(trained, x, y), attack(defended, x, y))]
    clean, unaware, aware = right
    assert (trained.judge(attack(trained, x, y)) == y).float().mean() < 0.1
    assert clean > 0.9
    assert aware <= unaware
    if isinstance(sanitizer, MedianFilter | TotalVariation | Wavelet):
        assert aware < 0.5 * unaware, right


def test_following_the_gradient_through_plain_rounding_finds_nothing(trained):
    test = coarse_and_fine(80, 1)
    x, y, attack = torch.from_numpy(test.x), torch.from_numpy(test.y), PGD(eps=0.07)
    masked = around(trained, Sanitized(trained.module, lambda x: (7 * x).round() / 7))
    ours = BitDepth(bits=3).wrap(trained, test, test)
    assert torch.equal(masked.scores(x), ours.scores(x))
    assert (masked.judge(attack(masked, x, y)) == y).float().mean() > 0.9
    assert (ours.judge(attack(ours, x, y)) == y).float().mean() < 0.2


def test_so_it_is_for_the_jpeg_of_colour_images(trained, monkeypatch):
    test, grey = coarse_and_fine(80, 1), nn.Conv2d(3, 1, 1, bias=False)
    grey.weight.data.fill_(1 / 3)
    x, y, attack = torch.from_numpy(test.x).expand(-1, 3, -1, -1), torch.from_numpy(test.y), PGD(eps=0.07)
    colour = TorchClassifier(nn.Sequential(grey, trained.module), 2, ImageSpace())
    behind = Jpeg(quality=90).wrap(colour, test, test)
    with monkeypatch.context() as m:
        m.setattr(transforms, "straight_through", lambda _, rounded: rounded)
        assert (behind.judge(attack(behind, x, y)) == y).float().mean() > 0.9
    assert (behind.judge(attack(behind, x, y)) == y).float().mean() < 0.2


# ---- bad input


def test_tables_are_refused():
    rows = Split(np.zeros((4, 3), np.float32), np.arange(4) % 2, Space(0.0, 1.0), ("a", "b"), np.arange(4))
    with pytest.raises(NotApplicable, match="Jpeg is for images"):
        Jpeg().wrap(convnet(), rows, rows)


@pytest.mark.parametrize(("make", "what"), [
    (lambda: Jpeg(quality=0), "quality"), (lambda: BitDepth(bits=9), "bits"), (lambda: MedianFilter(size=1), "size"),
    (lambda: TotalVariation(weight=0), "weight"), (lambda: Wavelet(levels=0), "levels")])
def test_impossible_settings_are_refused(make, what):
    with pytest.raises(InputError, match=what):
        make()
