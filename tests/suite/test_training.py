"""The training loop: same seed, same weights; the best epoch; class weights; nothing global touched."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from suite import training
from suite.data import Split
from suite.progress import advance, listening
from suite.recipe import TorchRecipe
from suite.space import Space


@dataclass(frozen=True)
class Net(TorchRecipe):
    hidden: int = 8
    dropout: float = 0.3

    def network(self, inputs, classes):
        return nn.Sequential(nn.Linear(inputs[0], self.hidden), nn.ReLU(), nn.Dropout(self.dropout),
                             nn.Linear(self.hidden, classes))


@dataclass(frozen=True)
class Bias(TorchRecipe):
    """Ignores its input: all it can learn is the (weighted) frequency of the classes."""

    def network(self, inputs, classes):
        return Constant(classes)


class Constant(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return self.bias + 0 * x[:, :1]


def table(n=200, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int64)
    x = (np.array([100.0, 5.0]) + np.array([20.0, 0.5]) * (rng.normal(size=(n, 2)) + 1.5 * y[:, None]))
    return Split(x.astype(np.float32), y, Space(0.0, 500.0), ("a", "b"), np.arange(n))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.module.state_dict().values(), b.module.state_dict().values(),
                                                 strict=True))


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    recipe, data = Net(epochs=4), (table(), table(60, 1))
    assert same(recipe.fit(*data, seed=3), recipe.fit(*data, seed=3))
    assert not same(recipe.fit(*data, seed=3), recipe.fit(*data, seed=4))


def test_global_generators_stay_as_they_were():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    Net(epochs=2).fit(table(), table(60, 1), seed=9)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_the_result_does_not_hang_on_global_generators():
    results = []
    for state in (11, 12):
        torch.manual_seed(state)
        results.append(Net(epochs=2).fit(table(), table(60, 1), seed=0))
    assert same(*results)


def test_early_stopping_returns_the_best_epoch(monkeypatch):
    states, losses = [], iter([3.0, 1.0, 2.0, 1.5, 1.0, 0.1])

    def watched(module, *_):
        states.append([p.detach().clone() for p in module.parameters()])
        return next(losses)

    monkeypatch.setattr(training, "validation_loss", watched)
    found = Net(epochs=50, patience=3).fit(table(), table(60, 1))
    assert len(states) == 5  # the best was the second; three epochs no better, a tie among them, and it ends
    assert all(torch.equal(p, q) for p, q in zip(found.module.parameters(), states[1], strict=True))


def test_training_that_diverges_is_an_error():
    with pytest.raises(ValueError, match="diverged"):
        training.fit(Net(epochs=3), table(), table(60, 1),
                     objective=lambda module, batch: module(batch.x).sum(1) * float("nan"))


@pytest.mark.parametrize("balanced", [True, False])
def test_class_weights_move_the_prior_to_one_half(balanced):
    recipe = Bias(epochs=400, lr=0.05, batch=1000, patience=400, weight_decay=0.0, balanced=balanced)
    data = table(500, share=0.2)
    share = data.y.mean()
    proba = recipe.fit(data, data).predict_proba(data.x[:1])[0, 1]
    assert proba == pytest.approx(0.5 if balanced else share, abs=0.01)


def test_class_weights_by_hand():
    y = torch.tensor([0, 0, 0, 1])
    assert training.class_weights(y, 2, True).tolist() == pytest.approx([4 / 6, 2.0])
    assert training.class_weights(y, 2, True)[y].mean() == pytest.approx(1.0)
    assert training.class_weights(y, 3, True).tolist() == pytest.approx([4 / 6, 2.0, 0.0])
    assert training.class_weights(y, 2, False).tolist() == [1.0, 1.0]


def test_normalisation_lives_inside_and_follows_the_units():
    """The same table in other units, with the same seed, gives the same answers."""
    train, val = table(), table(60, 1)
    unit = np.array([0.001, 1000.0], np.float32)
    a = Net(epochs=5).fit(train, val)
    b = Net(epochs=5).fit(train.with_data(train.x * unit, train.y), val.with_data(val.x * unit, val.y))
    assert np.allclose(a.predict_proba(val.x), b.predict_proba(val.x * unit), atol=1e-3)
    standard = a.module[0](torch.from_numpy(train.x))
    assert standard.mean(0).abs().max() < 1e-4 and (standard.std(0, correction=0) - 1).abs().max() < 1e-4


def test_a_constant_column_is_not_divided_by_zero():
    train = table()
    train.x[:, 1] = 7.0
    found = Net(epochs=2).fit(train, train)
    assert np.isfinite(found.predict_proba(train.x)).all()


def test_normalisation_of_images_is_per_channel():
    spread = np.array([1, 2, 3], np.float32)[:, None, None]
    x = np.random.default_rng(0).random((20, 3, 4, 4)).astype(np.float32) * spread
    z = training.Normalize((3, 4, 4)).fit(x)(torch.from_numpy(x))
    assert z.mean((0, 2, 3)).abs().max() < 1e-5 and (z.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_training_tells_how_far_it_has_come_only_to_who_listens():
    heard = []
    with listening(lambda *said: heard.append(said)):
        Net(epochs=3, patience=9).fit(table(), table(60, 1))
    assert heard == [("training", i, 3) for i in (1, 2, 3)]
    advance("nothing", 1, 1)
    assert len(heard) == 3


def test_a_better_than_chance_network_comes_out():
    test = table(300, 2)
    found = replace(Net(), epochs=40).fit(table(), table(80, 1))
    assert (found.predict(test.x) == test.y).mean() > 0.85  # Bayes: about 0.93
