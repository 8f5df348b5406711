"""Regularization: what is trained is the changed recipe; a network without early stopping remembers, these less."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from imaging.models.models import SimpleCNN
from suite.base.errors import NotApplicable
from suite.base.seeding import torch_generator
from suite.defenses.regular.other_data import OtherDataDistillation
from suite.defenses.regular.regularization import Dropout, EarlyStopping, WeightDecay
from suite.models import artifacts
from suite.shadows.shadowing import trained
from suite.training.loop import build, shuffled
from suite.training.stack import fit_many
from tabular.models import MLP, LogisticRegression, RandomForest
from tests.support.breast import breast

KEEN = MLP(hidden=(64,), epochs=60, lr=5e-3, early_stopping=False, weight_decay=0.0)


@pytest.fixture(scope="module")
def noisy():
    """Breast cancer with a third of the training labels turned: what fits them all has learned them by heart."""
    train, val, test = breast()
    rng = np.random.default_rng(0)
    turned = rng.random(len(train)) < 0.3
    return replace(train, y=np.where(turned, 1 - train.y, train.y)), val, test


def gap(model, train, test):
    return (model.predict(train.x) == train.y).mean() - (model.predict(test.x) == test.y).mean()


def test_without_early_stopping_the_last_epoch_is_returned(noisy):
    """Known answer: as many steps of AdamW as there are batches in all epochs, in the same order, by hand."""
    train, val, _ = noisy
    recipe = replace(KEEN, epochs=7, balanced=False)
    found = recipe.fit(train, val, 1)
    module, generator = build(recipe, train.x.shape[1:], 2, 1), torch_generator(1)
    module[0].fit(train.x)
    optimizer = torch.optim.AdamW(module.parameters(), recipe.lr, weight_decay=0.0)
    x, y = torch.from_numpy(train.x), torch.from_numpy(train.y)
    for _ in range(7):
        for rows in shuffled(len(y), recipe.batch, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    np.testing.assert_allclose(found.scores(x).numpy(), module(x).detach().numpy(), atol=1e-5)
    best = replace(recipe, epochs=60, early_stopping=True).fit(train, val, 1)
    last = replace(recipe, epochs=60).fit(train, val, 1)
    assert (last.predict(train.x) == train.y).mean() > (best.predict(train.x) == train.y).mean() + 0.05


def test_stacks_and_the_loop_agree_on_it(noisy):
    train, val, test = noisy
    one, two = list(fit_many(replace(KEEN, epochs=25), [train, train], val, [1, 2]))
    alone = replace(KEEN, epochs=25).fit(train, val, 2)
    np.testing.assert_allclose(two.predict_proba(test.x), alone.predict_proba(test.x), atol=1e-3)
    assert np.abs(one.predict_proba(test.x) - alone.predict_proba(test.x)).max() > 1e-2


@pytest.mark.parametrize("defense", [WeightDecay(20.0), Dropout(0.8), EarlyStopping(2), OtherDataDistillation()],
                         ids=lambda d: type(d).__name__)
def test_remembers_less(defense, noisy):
    train, val, test = noisy
    plain, better = KEEN.fit(train, val, 0), defense(KEEN, train, val, 0)
    assert gap(plain, train, test) > 0.05
    assert gap(better, train, test) < gap(plain, train, test) - 0.05


@pytest.mark.parametrize(("defense", "changes"), [
    (WeightDecay(0.5), {"weight_decay": 0.5}), (Dropout(0.2), {"dropout": 0.2}),
    (EarlyStopping(3), {"early_stopping": True, "patience": 3})], ids=str)
def test_is_the_training_of_the_changed_recipe_and_shadows_train_it_too(defense, changes, noisy, tmp_path):
    train, val, test = noisy
    recipe = replace(KEEN, epochs=15)
    found, wanted = defense(recipe, train, val, 3), replace(recipe, **changes).fit(train, val, 3)
    np.testing.assert_array_equal(found.predict_proba(test.x), wanted.predict_proba(test.x))
    shadow = next(iter(trained(recipe, defense, [train, train], val, [3, 4])))
    np.testing.assert_allclose(shadow.predict_proba(test.x), wanted.predict_proba(test.x), atol=1e-3)
    artifacts.save(found, tmp_path, "mlp")
    again = artifacts.load(tmp_path, "mlp", 2, train.space, defense=defense)
    np.testing.assert_allclose(again.predict_proba(test.x), found.predict_proba(test.x), atol=1e-6)


def test_a_student_meets_no_training_row(noisy):
    """The teacher knows the rows; the student's loss sees validation inputs and noisy copies within the noise only."""
    _, val, _ = noisy
    other = OtherDataDistillation(copies=2, noise=0.05)._other(val, 0)
    assert len(other) == 3 * len(val)
    np.testing.assert_array_equal(other.x[:len(val)], val.x)
    far = (torch.from_numpy(other.x[len(val):] - np.tile(val.x, (2, 1))) / val.space.scale).abs()
    assert 0 < far.max() <= 0.05 + 1e-5 and val.space.possible(torch.from_numpy(other.x)).all()


@pytest.mark.parametrize("defense", [WeightDecay(), EarlyStopping()], ids=lambda d: type(d).__name__)
def test_a_solver_of_its_own_is_refused(defense):
    with pytest.raises(NotApplicable, match="solver of its own"):
        defense.check(LogisticRegression())


def test_dropout_needs_a_network_that_has_some():
    with pytest.raises(NotApplicable, match="no dropout"):
        Dropout().check(LogisticRegression())
    with pytest.raises(NotApplicable, match="networks only"):
        Dropout().check(RandomForest())
    network = Dropout(0.3).as_recipe(SimpleCNN()).network((1, 28, 28), 2)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.3]
    assert not [m for m in SimpleCNN().network((1, 28, 28), 2).modules() if isinstance(m, nn.Dropout)]
