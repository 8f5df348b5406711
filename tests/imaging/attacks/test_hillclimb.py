"""The black-box universal perturbation: the best there is on a linear model, exact counts, and no worse than noise."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from imaging.attacks.hillclimb import BlackBoxUniversal
from imaging.space import ImageSpace
from imaging.transforms.dct import matrix
from suite.base.errors import InputError
from suite.core.classifier import TorchClassifier


def linear(weight, rejects=False):
    """Class 1 where weight . (x - 1/2) is positive; a refusing one has a third logit, far below."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2 + rejects))
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].bias.fill_(0.0)
        module[1].weight[1] = weight.flatten()
        module[1].bias[1] = -weight.sum() / 2
        if rejects:
            module[1].bias[2] = -9.0
    return TorchClassifier(module, 2, ImageSpace(), rejects=rejects)


def pictures(channels=1, n=8, seed=0):
    return 0.4 + 0.2 * torch.rand(n, channels, 6, 10, generator=torch.Generator().manual_seed(seed))


def slope(channels=1):
    return 0.2 * torch.randn(channels, 6, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_by_pixel_it_finds_the_best_perturbation_of_a_linear_model(channels):
    """Every pixel is tried once, and goes as far as it may in the direction of its weight."""
    weight, x = slope(channels), pictures(channels)
    classifier, y = linear(weight), torch.zeros(8, dtype=torch.long)
    attack = BlackBoxUniversal(eps=0.1, basis="pixel", steps=weight.numel(), step=0.1, target=1)
    assert torch.allclose(attack.craft(classifier, x, y), 0.1 * weight.sign())


@pytest.mark.parametrize("channels", [1, 3])
def test_cosines_find_a_low_frequency(channels):
    wave = matrix(6)[1][:, None] * matrix(10)[2][None]
    classifier, x = linear(wave.expand(channels, 6, 10)), pictures(channels)
    y = classifier.judge(x)
    x, y = x[y == 0], y[y == 0]
    attack = BlackBoxUniversal(eps=0.2, steps=60, step=0.2, frequencies=0.5)
    v = attack.craft(classifier, x, y)
    assert (v * wave).flatten(1).sum(1).min() > 0.15 and v.abs().max() <= 0.2 + 1e-6
    assert (classifier.judge(attack.apply(classifier, x, v)) == 1).all()
    short = replace(attack, norm="l2", eps=0.3).craft(classifier, x, y)
    assert short.norm() <= 0.3001 and (short * wave).sum() > 0.15


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_counts_every_query_and_the_batch_does_not_matter(batch):
    classifier, x = linear(slope()), pictures()
    attack = BlackBoxUniversal(eps=0.1, steps=20)
    y = torch.zeros(8, dtype=torch.long)
    whole = attack.craft(classifier, x, y)
    spent, classifier.queries = classifier.queries, 0
    classifier.batch = batch
    assert torch.allclose(attack.craft(classifier, x, y), whole)
    assert classifier.queries == spent and spent % 8 == 0 and 8 * 21 <= spent <= 8 * 41


def test_more_steps_or_budget_fool_more_than_noise():
    classifier, x, new = linear(slope()), pictures(n=24), pictures(n=40, seed=5)
    y = classifier.judge(new)
    new, y = new[y == 0], y[y == 0]
    x = x[classifier.judge(x) == 0]

    def share(attack):
        v = attack.craft(classifier, x, torch.zeros(len(x), dtype=torch.long))
        return (classifier.judge(attack.apply(classifier, new, v)) != y).float().mean()

    good = share(BlackBoxUniversal(eps=0.08, steps=120, frequencies=1.0))
    assert share(BlackBoxUniversal(eps=0.08, steps=3, frequencies=1.0)) < good
    assert share(BlackBoxUniversal(eps=0.01, steps=120, frequencies=1.0)) < good
    noise = 0.08 * torch.randn(50, *new.shape[1:], generator=torch.Generator().manual_seed(2)).sign()
    assert good > 0.3 + torch.stack([(classifier.judge(new + v) != y).float().mean() for v in noise]).mean()


def test_seeds_no_global_randomness_and_a_refusal_that_stays_away():
    classifier, x = linear(slope(), rejects=True), pictures()
    attack, y = BlackBoxUniversal(eps=0.1, steps=10), torch.zeros(8, dtype=torch.long)
    state = torch.get_rng_state()
    first, again, other = (attack(classifier, x, y, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, x + attack.craft(classifier, x, y)) and first.shape == x.shape


def test_a_rising_refusal_is_no_progress():
    """Brighter images are refused before they are judged ill, so the climb must not brighten."""
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))
    with torch.no_grad():
        module[2].weight.copy_(torch.tensor([[0.0], [20.0], [60.0]]))
        module[2].bias.copy_(torch.tensor([0.0, -11.0, -31.0]))
    classifier = TorchClassifier(module, 2, ImageSpace(), rejects=True)
    x, y = torch.full((4, 1, 6, 6), 0.5), torch.zeros(4, dtype=torch.long)
    v = BlackBoxUniversal(eps=0.2, steps=40, step=0.1, frequencies=0.2).craft(classifier, x, y)
    assert (classifier.judge(x + v) != -1).all()


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_says_what_is_wrong(share):
    with pytest.raises(InputError, match="frequencies must lie in"):
        BlackBoxUniversal(frequencies=share)
