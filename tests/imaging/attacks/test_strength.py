"""Gradient attacks on a trained CNN are no weaker than ART's, on the same images and budgets."""

import pytest
import torch
from torch import nn

from imaging.attacks.autoattack import AutoAttack
from imaging.space import ImageSpace
from suite.attacks.apgd import APGD
from suite.attacks.fab import FAB
from suite.attacks.minimal import CarliniWagnerL2, DeepFool
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier

NOISE = 3 / 64
"""By how many images of 64 one random start differs from another."""


@pytest.fixture(scope="module")
def target():
    """A CNN that tells wide from tall blobs, 64 images 1 x 12 x 12 that it gets right, and ART's view of it."""
    pytest.importorskip("art")
    from art.estimators.classification import PyTorchClassifier

    with seeded(6):
        y, axis = torch.arange(600) % 2, torch.arange(12.0)
        u, v = (axis.view(shape) - 4.5 - 2 * torch.rand(600, 1, 1) for shape in ((1, 12, 1), (1, 1, 12)))
        wide = torch.where(y == 1, 1.3, 1 / 1.3).view(-1, 1, 1)
        x = 0.3 + 0.4 * torch.exp(-((u * wide)**2 + (v / wide)**2) / 8) + 0.05 * torch.randn(600, 12, 12)
        x = x.clamp(0, 1)[:, None]
        module = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                               nn.Linear(144, 2))
        optimizer = torch.optim.Adam(module.parameters(), 5e-3)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[:400]), y[:400]).backward()
            optimizer.step()
    classifier = TorchClassifier(module.eval(), 2, ImageSpace())
    right = (classifier.judge(x[400:]) == y[400:]).nonzero()[:64, 0] + 400
    assert len(right) == 64
    wrapped = PyTorchClassifier(module, nn.CrossEntropyLoss(), (1, 12, 12), 2, clip_values=(0.0, 1.0),
                                device_type="cpu")
    return classifier, x[right], y[right], wrapped


def theirs(attack, wrapped, x, y, seed=0, **fields):
    with seeded(seed):
        return torch.from_numpy(attack(wrapped, batch_size=64, verbose=False, **fields).generate(x.numpy(), y.numpy()))


def median(classifier, adversarial, x, y):
    held = classifier.judge(adversarial) == y
    return classifier.space.distance(adversarial, x, "l2").masked_fill(held, torch.inf).median().item()


def test_apgd_and_autoattack_leave_no_more_standing(target):
    from art.attacks.evasion import AutoProjectedGradientDescent

    classifier, x, y, wrapped = target
    def robust(adversarial):
        return (classifier.judge(adversarial) == y).float().mean()

    for eps in (0.03, 0.06):
        for attack in (APGD(eps=eps, steps=20), AutoAttack(eps=eps, steps=20, queries=20)):
            more = [robust(attack(classifier, x, y, seed)) - robust(theirs(
                AutoProjectedGradientDescent, wrapped, x, y, seed, eps=eps, eps_step=2 * eps, max_iter=20,
                nb_random_init=1, loss_type="cross_entropy")) for seed in range(3)]
            assert torch.stack(more).mean() <= NOISE / 3**0.5, more


def test_minimal_attacks_go_no_further(target):
    from art.attacks.evasion import CarliniL2Method
    from art.attacks.evasion import DeepFool as ArtDeepFool

    classifier, x, y, wrapped = target
    deepfool = median(classifier, theirs(ArtDeepFool, wrapped, x, y, max_iter=50, epsilon=0.02), x, y)
    carlini = median(classifier, theirs(CarliniL2Method, wrapped, x, y, learning_rate=0.01, initial_const=0.1,
                                        binary_search_steps=3, max_iter=20), x, y)
    assert median(classifier, DeepFool()(classifier, x, y), x, y) <= 1.01 * deepfool
    # ART buys about four backward and six forward passes a step: 60 of its steps cost more than 200 of ours
    classifier.gradients = 0
    ours = median(classifier, CarliniWagnerL2(search=4, steps=50)(classifier, x, y), x, y)
    assert classifier.gradients <= 201 * len(x)
    assert ours <= 1.01 * carlini
    assert median(classifier, FAB(norm="l2")(classifier, x, y), x, y) <= 1.01 * min(deepfool, carlini)
