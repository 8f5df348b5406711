"""The training loop: same seed, same weights; the best epoch; class weights; nothing global touched."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from suite.base.progress import advance, listening
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier
from suite.core.normalize import Normalize
from suite.results.metrics import balanced_accuracy
from suite.training import loop as training
from suite.training import operating
from suite.training.heads import OneLogit
from suite.training.loop import TorchRecipe
from suite.training.state import cosine
from tests.support.training import Net, same, table


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
    z = Normalize((3, 4, 4)).fit(x)(torch.from_numpy(x))
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


@pytest.mark.parametrize(("n", "size", "sizes"), [
    (9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (5, 9, [5])])
def test_no_row_is_left_alone_in_the_last_batch(n, size, sizes):
    pieces = training.shuffled(n, size, torch.Generator().manual_seed(0))
    assert [len(p) for p in pieces] == sizes and sorted(torch.cat(pieces).tolist()) == list(range(n))
    assert torch.equal(torch.cat(pieces), torch.randperm(n, generator=torch.Generator().manual_seed(0)))


def test_batch_normalisation_meets_no_row_alone():
    @dataclass(frozen=True)
    class Normed(Net):
        def network(self, inputs, classes):
            return nn.Sequential(nn.Linear(inputs[0], 4), nn.BatchNorm1d(4), nn.Linear(4, classes))

    found = Normed(epochs=4, batch=16, cosine=True).fit(table(33), table(20, 1))
    assert np.isfinite(found.predict_proba(table(5).x)).all()


def test_the_schedule_by_hand():
    paces = [cosine(step, 8, 2) for step in range(8)]
    assert paces[0] == pytest.approx(0.5) and paces[1] == pytest.approx((1 + np.cos(np.pi / 8)) / 2)
    assert paces[4] == pytest.approx(0.5) and paces[1:] == sorted(paces[1:], reverse=True) and 0 < paces[7] < 0.05


def test_the_schedule_reaches_the_optimizer():
    """With a learning rate this small AdamW moves each weight by lr * pace a step: the sum of paces shows."""
    data = table(64)
    start = training.build(Net(), (2,), 2, seed=0)[1][0].weight
    moved = {}
    for on in (False, True):
        recipe = Net(epochs=4, batch=16, lr=1e-6, dropout=0.0, weight_decay=0.0, cosine=on)
        moved[on] = (recipe.fit(data, data).module[1][0].weight - start).detach().abs().max()
    paces = [cosine(step, 16, 4) for step in range(16)]
    assert moved[True] / moved[False] == pytest.approx(sum(paces) / 16, abs=0.05)


def test_the_average_is_that_of_the_weights():
    """One step: decay min(average, 1 / 11); the module that is returned stands in between."""
    data = table(64)
    start = training.build(Net(), (2,), 2, seed=0)[1][0].weight
    plain, mean = (Net(epochs=1, batch=64, dropout=0.0, average=a).fit(data, data).module[1][0].weight
                   for a in (0.0, 0.9))
    assert torch.allclose(mean, start + (plain - start) * 10 / 11, atol=1e-6)
    little = Net(epochs=1, batch=64, dropout=0.0, average=0.05).fit(data, data).module[1][0].weight
    assert torch.allclose(little, start + (plain - start) * 0.95, atol=1e-6)


def test_augmentation_is_for_training_inputs_only_and_draws_from_the_local_generator():
    seen = {}

    @dataclass(frozen=True)
    class Shifted(Net):
        def augment(self, x, generator):
            return x + torch.rand(len(x), 1, generator=generator) * 100 + 1000

    def objective(module, batch):
        seen.setdefault(module.training, []).append(batch.x.min().item())
        return training.cross_entropy(module, batch)

    recipe = Shifted(epochs=2, average=0.5)
    first, second = (training.fit(recipe, table(), table(60, 1), seed=s, objective=objective) for s in (1, 1))
    assert min(seen[True]) > 900 and max(seen[False]) < 200
    assert same(first, second)


@pytest.mark.parametrize(("scores", "y", "cut", "best"), [
    ([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1], 1.5, 1.0),
    ([3.0, 0.0, 2.0, 1.0], [1, 0, 0, 0], 2.5, 1.0),
    ([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1], 2.5, 0.75),  # as good as 0.5; of two the later
    ([1.0, 1.0, 1.0], [0, 1, 1], 0.0, 0.5),
    ([0.0, 0.0, 5.0, 5.0], [0, 1, 1, 1], 2.5, 5 / 6),
    ([0.0, 1.0, 2.0, 3.0], [1, 1, 0, 0], 0.0, 0.5),  # each cut is worse than to say the same of all
])
def test_the_threshold_by_hand(scores, y, cut, best):
    found, accuracy = operating.threshold(np.array(scores), np.array(y))
    assert accuracy == pytest.approx(best)
    assert found == pytest.approx(cut)


def test_the_operating_point_becomes_the_argmax():
    """Without class weights a rare class is rarely said; the threshold makes up for it, and ranks stay."""
    train, val = table(400, share=0.08), table(400, 1, share=0.08)
    recipe = Net(epochs=40, balanced=False)
    plain, moved = recipe.fit(train, val), replace(recipe, operating_point="balanced").fit(train, val)
    assert balanced_accuracy(moved.predict(val.x), val.y) > balanced_accuracy(plain.predict(val.x), val.y) + 0.05
    x = torch.from_numpy(val.x)
    a, b = ((z[:, 1] - z[:, 0]).double() for z in (plain.scores(x), moved.scores(x)))
    shift = b - a
    assert shift.std() < 1e-5 and shift.mean() > 0.1
    best, _ = operating.threshold(a.numpy(), val.y)
    assert shift.mean() == pytest.approx(-best, abs=1e-5)
    assert "b from a probability of 0." in moved.notes["operating_point"] and not plain.notes


def test_no_operating_point_where_validation_lacks_a_class():
    val = table(60, 1)
    one = val.take(val.y == 1)
    assert not replace(Net(epochs=2), operating_point="balanced").fit(table(), one).notes


@dataclass(frozen=True)
class Moved(TorchRecipe):
    """Learns nothing, and has its operating point chosen."""

    operating_point: str = "balanced"

    def network(self, inputs, classes):
        raise AssertionError("made by hand")


class Backwards(nn.Module):
    """Its layers do not run in the order in which they were made."""

    def __init__(self, width=2):
        super().__init__()
        with seeded(0):
            self.head, self.body = nn.Linear(2, width), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.body((x - 110) / 20)))


class Bent(Backwards):
    """What comes out of its last linear layer are no logits yet."""

    def forward(self, x):
        return torch.tanh(super().forward(x))


def balanced(module, val):
    """A classifier before and after its operating point was chosen: its leads of class 1, and itself."""
    classifier, x = TorchClassifier(module, 2, val.space, recipe=Moved()), torch.from_numpy(val.x)
    before = classifier.scores(x).diff(dim=1)[:, 0]
    operating.balance(classifier, val)
    return before, classifier.scores(x).diff(dim=1)[:, 0], classifier


@pytest.mark.parametrize("module", [Backwards(), OneLogit(Backwards(1))], ids=["two logits", "one"])
def test_the_operating_point_moves_the_layer_that_runs_last(module):
    val = table(100)
    lead = module(torch.from_numpy(val.x)).detach().diff(dim=1)[:, 0]
    val.y[:] = lead > lead.quantile(0.7)
    val.y[:9] = 1 - val.y[:9]  # not all can be right
    before, after, classifier = balanced(module, val)
    assert (after - before).std() < 1e-5
    cut, best = operating.threshold(before.numpy(), val.y)
    assert (before - after).mean() == pytest.approx(cut, abs=1e-5)
    assert 0.8 < best < 1 and balanced_accuracy(classifier.predict(val.x), val.y) == pytest.approx(best)
    assert f"balanced accuracy is {best:.3f}" in classifier.notes["operating_point"]


def test_a_network_that_does_not_end_in_a_linear_layer_stays_as_it_was():
    val = table(100)
    lead = Bent()(torch.from_numpy(val.x)).detach().diff(dim=1)[:, 0]
    val.y[:] = lead > lead.quantile(0.7)
    before, after, classifier = balanced(Bent(), val)
    assert torch.equal(before, after) and "does not end in a linear layer" in classifier.notes["operating_point"]


def test_a_network_worse_than_chance_stays_as_it_was():
    val = table(40)
    lead = Backwards()(torch.from_numpy(val.x)).diff(dim=1)[:, 0]
    val.y[:] = lead < lead.median()
    before, after, classifier = balanced(Backwards(), val)
    assert torch.equal(before, after) and "no threshold beats chance" in classifier.notes["operating_point"]
