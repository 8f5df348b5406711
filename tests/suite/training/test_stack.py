"""Networks trained in a stack are those that are trained one by one."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from suite.training import stack
from suite.training.loop import TorchRecipe, class_weights
from suite.training.stack import fit_many, stackable
from tests.support.stacked import Net
from tests.support.toy import split


@dataclass(frozen=True)
class Noisy(Net):
    def augment(self, x, generator):
        return x + torch.randn(x.shape, generator=generator)


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    x = rng.normal([0, 5, -2], [1, 10, 0.1], (400, 3))
    whole = split(x, ((x[:, 0] + (x[:, 1] - 5) / 10 > 0.6) | (rng.random(400) < 0.1)).astype(int))
    return whole, whole.take(slice(300, 400))


def some(people, k, n=150):
    rng = np.random.default_rng(1)
    return [people[0].take(rng.permutation(300)[:n]) for _ in range(k)]


RECIPES = [Net(epochs=4), Net(epochs=40, patience=2), Net(epochs=6, cosine=True, average=0.9), Net(epochs=3, batch=149),
           Net(epochs=3, balanced=False, hidden=()), Net(epochs=5, operating_point="balanced")]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_each_is_what_it_would_have_become_alone(recipe, people):
    trains, seeds = some(people, 5), [3, 1, 4, 1, 5]
    x = torch.from_numpy(people[0].x)
    assert stackable(recipe, trains[0])
    together = list(fit_many(recipe, trains, people[1], seeds))
    for found, train, seed in zip(together, trains, seeds, strict=True):
        alone = recipe.fit(train, people[1], seed)
        assert torch.allclose(found.scores(x), alone.scores(x), atol=2e-4)
        assert found.notes == alone.notes and found.recipe == recipe
    # the comparison means something: other rows, or another seed, give another network
    assert not torch.allclose(together[0].scores(x), together[1].scores(x), atol=0.01)


def test_those_that_stop_early_leave_the_others_alone(people):
    """With a patience of 1 networks stop at different epochs."""
    recipe, trains = Net(epochs=60, patience=1, lr=2e-2), some(people, 6)
    epochs = []

    class Spy(stack._Stack):
        def _leave(self, over):
            epochs.extend([self.where[over].tolist()] if over.any() else [])
            super()._leave(over)

    together = list(Spy(recipe, trains, people[1], range(6), "cpu").train())
    assert len(epochs) >= 2 and sorted(chain(*epochs)) == list(range(6))
    x = torch.from_numpy(people[0].x)
    for seed, (found, train) in enumerate(zip(together, trains, strict=True)):
        assert torch.allclose(found.scores(x), recipe.fit(train, people[1], seed).scores(x), atol=2e-4)


def test_the_gradient_is_that_of_autograd(people):
    trains = some(people, 3)
    made = stack._Stack(Net(), trains, people[1], range(3), "cpu")
    made.weights.grad = torch.empty_like(made.weights)
    costs = made.costs.gather(1, made.y)
    made._gradient(made.x[:, :50], made.y[:, :50], costs[:, :50] / 50)
    for k, (module, train) in enumerate(zip(made.modules, trains, strict=True)):
        losses = nn.functional.cross_entropy(module(torch.from_numpy(train.x[:50])), torch.from_numpy(train.y[:50]),
                                             reduction="none")
        y = torch.from_numpy(train.y)
        loss = (losses * class_weights(y, 2, True)[y[:50]]).mean()
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module[1].parameters()))])
        assert torch.allclose(made.weights.grad[k], expected, atol=1e-6)
        assert expected.abs().max() > 1e-3


def test_memory_does_not_grow_with_how_many_are_asked_for(people, monkeypatch):
    sizes = []
    made = stack._Stack.__init__
    monkeypatch.setattr(stack, "AT_ONCE", 4)
    monkeypatch.setattr(stack._Stack, "__init__", lambda self, recipe, trains, *rest: (
        sizes.append(len(trains)), made(self, recipe, trains, *rest))[1])
    found = fit_many(Net(epochs=1), some(people, 10), people[1], range(10))
    next(found)
    assert sizes == [4]  # the others have not been touched yet
    assert len([*found]) == 9 and sizes == [4, 4, 2]


@dataclass(frozen=True)
class Layers(TorchRecipe):
    """Whatever layers a test wants."""

    kind: str = ""

    def network(self, inputs, classes):
        a, b = nn.Linear(inputs[0], 4), nn.Linear(4, classes)
        return nn.Sequential(*{"no activation": (a, b), "a last one": (a, nn.ReLU(), b, nn.ReLU()),
                               "no bias": (a, nn.ReLU(), nn.Linear(4, classes, bias=False))}[self.kind])


ALONE = [Net(dropout=True, epochs=2), Noisy(epochs=2), Layers(epochs=2, kind="no activation"),
         Layers(epochs=2, kind="a last one"), Layers(epochs=2, kind="no bias")]


@pytest.mark.parametrize("recipe", ALONE, ids=["dropout", "augmentation", *[r.kind for r in ALONE[2:]]])
def test_what_cannot_be_stacked_is_trained_one_by_one(recipe, people):
    trains = some(people, 2)
    assert not stackable(recipe, trains[0])
    x = torch.from_numpy(people[0].x)
    for seed, (found, train) in enumerate(zip(fit_many(recipe, trains, people[1], range(2)), trains, strict=True)):
        assert torch.equal(found.scores(x), recipe.fit(train, people[1], seed).scores(x))


def test_a_training_that_diverges_says_so(people):
    with pytest.raises(ValueError, match="training diverged"):
        list(fit_many(Net(epochs=2, lr=1e30), some(people, 2), people[1], range(2)))


def test_splits_of_unequal_length_are_trained_one_by_one(people):
    trains, x = [some(people, 1, n)[0] for n in (150, 120)], torch.from_numpy(people[0].x)
    for seed, (found, train) in enumerate(zip(fit_many(Net(epochs=2), trains, people[1], range(2)), trains,
                                              strict=True)):
        assert torch.equal(found.scores(x), Net(epochs=2).fit(train, people[1], seed).scores(x))
    assert not list(fit_many(Net(), [], people[1], []))
