"""Attacks that only ask, on a trained CNN, leave no more images standing than ART's do at equal budgets and queries."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import nn

from imaging.attacks.hillclimb import BlackBoxUniversal
from imaging.attacks.pixels import FewPixels
from imaging.attacks.simba import SimBA
from imaging.attacks.square import Square
from imaging.space import ImageSpace
from suite.attacks._search import Goal
from suite.attacks.art.border import art_fence, estimator_over, in_step
from suite.base.seeding import seeded, torch_generator
from suite.core.classifier import TorchClassifier

SHAPE = 1, 16, 16
STEPS, STEP = 50, 0.2
PIXELS, GENERATIONS = 5, 3


@pytest.fixture(scope="module")
def target():
    """A CNN that tells wide from tall blobs, 256 images that it gets right, and the 400 that it learned."""
    with seeded(0):
        y = torch.arange(700) % 2
        stretch = torch.where(y == 1, 1.5, 0.8).view(-1, 1, 1)
        u = torch.arange(16.0) - 7.5
        blob = torch.exp(-((u[:, None] * stretch) ** 2 + (u / stretch) ** 2) / 18)
        x = (0.3 + 0.3 * blob + 0.1 * torch.randn(700, 16, 16)).clamp(0, 1)[:, None]
        module = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                               nn.Linear(128, 2))
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[:400]), y[:400]).backward()
            optimizer.step()
    module.zero_grad()
    classifier = TorchClassifier(module, 2, ImageSpace())
    right = (classifier.judge(x[400:]) == y[400:]).nonzero()[:256, 0] + 400
    assert len(right) == 256
    return classifier, x[right], y[right], (x[:400], y[:400])


def standing(classifier, attacked, y):
    return classifier.judge(attacked) == y


def no_weaker(ours, theirs):
    """Whether of the same images no more are standing, but for two standard errors of the difference."""
    more = ours.double() - theirs.double()
    return bool(more.mean() <= 2 * more.std() / len(more) ** 0.5)


def compared(classifier, y, ours, weak, theirs):
    """ART's attack neither fools everything nor nothing; ours is no weaker, and a `weak` version of it is."""
    theirs = standing(classifier, theirs, y)
    assert 0.05 < theirs.float().mean() < 0.9
    assert no_weaker(standing(classifier, ours, y), theirs)
    assert not no_weaker(standing(classifier, weak, y), theirs)


@pytest.mark.parametrize("basis", ["dct", "pixel"])
def test_simba_at_equal_steps(target, basis):
    """ART has no ball; but its steps are orthogonal, so that all of them together are as long as ours may be, and only
    where it clips in between a little longer."""
    classifier, x, y, _ = target
    eps = STEP * STEPS ** 0.5
    attack, label = SimBA(eps=eps, basis=basis, steps=STEPS, step=STEP / eps), nn.functional.one_hot(y).numpy()

    def alone(i):
        def run(ask):
            art = evasion.SimBA(estimator_over(ask, SHAPE, 2, (0.0, 1.0)), attack=basis.replace("pixel", "px"),
                                max_iter=STEPS, epsilon=STEP, freq_dim=4, stride=4, verbose=False)
            return art.generate(x[i:i + 1].numpy(), label[i:i + 1])
        return run

    classifier.queries = 0
    ours = attack(classifier, x, y)
    asked, classifier.queries = classifier.queries, 0
    with art_fence(0):
        theirs = in_step(lambda z, _: classifier.predict_proba(z), [alone(i) for i in range(len(x))])
    assert asked <= classifier.queries  # which always asks about both signs
    theirs = torch.from_numpy(np.concatenate(theirs))
    assert ImageSpace().distance(theirs, x, "l2").max() <= 1.01 * eps
    compared(classifier, y, ours, replace(attack, steps=STEPS // 2)(classifier, x, y), theirs)


def test_few_pixels_at_equal_pixels_and_population(target):
    """On 32 images, those that are nearest to the other side: ART takes each by itself, and its pixels one by one.

    It refuses labels of two classes (so that it takes the predictions, which are right) and limits for each pixel.
    """
    classifier, x, y, _ = target
    near = Goal(classifier, y).lead(classifier.scores(x)).topk(32).indices
    x, y = x[near], y[near]
    attack = FewPixels(eps=float(PIXELS), population=390, generations=GENERATIONS)
    classifier.queries = 0
    ours = attack(classifier, x, y)
    asked, classifier.queries = classifier.queries, 0
    with art_fence(0):
        art = evasion.PixelAttack(estimator_over(classifier.predict_proba, SHAPE, 2, (0.0, 1.0)), th=PIXELS,
                                  max_iter=GENERATIONS, verbose=False)
        theirs = torch.from_numpy(art.generate(x.numpy()))
    assert asked <= 1.05 * classifier.queries
    # it counts grey levels: what it leaves alone comes back rounded
    assert ((theirs - x).abs() > 1e-3).flatten(1).sum(1).max() <= PIXELS
    compared(classifier, y, ours, replace(attack, eps=1.0)(classifier, x, y), theirs)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 1.0)])
def test_square_at_equal_queries(target, norm, eps):
    """In L2, ART divides a bump by the length that it should have instead of multiplying, and is weak for it."""
    classifier, x, y, _ = target
    art = PyTorchClassifier(classifier.module, nn.CrossEntropyLoss(), SHAPE, 2, clip_values=(0.0, 1.0),
                            device_type="cpu")
    attack = Square(norm=norm, eps=eps, queries=100)
    with art_fence(0), np.errstate(all="ignore"):
        theirs = evasion.SquareAttack(art, norm=2 if norm == "l2" else np.inf, eps=eps, max_iter=100, verbose=False)
        theirs = torch.from_numpy(theirs.generate(x.numpy(), y.numpy()))
    assert ImageSpace().distance(theirs, x, norm).max() <= eps * 1.00001
    compared(classifier, y, attack(classifier, x, y), replace(attack, queries=5)(classifier, x, y), theirs)


@pytest.mark.parametrize("basis", ["dct", "pixel"])
def test_a_universal_climb_beats_signs_at_random_and_a_shorter_climb(target, basis):
    """Nobody else has this attack in a library."""
    classifier, x, y, own = target
    attack = BlackBoxUniversal(eps=0.1, basis=basis, steps=200, target=1)
    others = y == 0

    def left(v):
        return standing(classifier, attack.apply(classifier, x[others], v), y[others])

    signs = (torch.rand(100, *SHAPE, generator=torch_generator(0)) < 0.5).float().mul(0.2).sub(0.1)
    random = torch.stack([left(v).float().mean() for v in signs])
    long, short = (left(replace(attack, steps=steps).craft(classifier, *own)) for steps in (200, 10))
    assert long.float().mean() < random.min() - 0.1
    assert not no_weaker(short, long)
