"""Ensembles and Monte Carlo dropout: means by hand, what an attack sees, and the draws that are left out."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from suite.attacks.gradient import PGD
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.defenses.private.dpsgd import DPSGD
from suite.defenses.robust.ensemble import Ensemble, MCDropout
from suite.models import artifacts
from suite.training.loop import TorchRecipe
from suite.training.randomized import LeftOut, mean_log_proba
from tabular.models import MLP, RandomForest
from tests.support.images import SmallCNN, squares

TRAIN, VAL, TEST = squares(200, 0), squares(100, 1), squares(60, 2)
X, Y = torch.from_numpy(TEST.x), torch.from_numpy(TEST.y)


@dataclass(frozen=True)
class WithDropout(TorchRecipe):
    """A network with dropout of channels and a field for its rate."""

    info: ClassVar[Info] = Info("With dropout", "none")
    epochs: int = 4
    dropout: float = 0.0

    def network(self, inputs, classes):
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Dropout2d(self.dropout), nn.ReLU(), nn.Flatten(),
                             nn.Dropout(self.dropout), nn.Linear(288, classes))


def test_the_mean_is_that_of_probabilities_and_keeps_its_gradient_where_they_saturate():
    p = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]])
    assert torch.allclose(mean_log_proba(p.log() + 7), torch.tensor([[0.7, 0.3]]).log())
    sure = torch.tensor([[[400.0, -400.0]], [[300.0, -300.0]]], requires_grad=True)
    value = mean_log_proba(sure)
    value[0, 1].backward()
    assert value.isfinite().all() and sure.grad.abs().sum() > 0.5


@pytest.fixture(scope="module")
def ensemble():
    return Ensemble(members=3)(SmallCNN(epochs=4), TRAIN, VAL)


def test_an_ensemble_is_the_mean_of_plain_trainings(ensemble):
    alone = [SmallCNN(epochs=4).fit(TRAIN, VAL, seed).predict_proba(TEST.x) for seed in range(3)]
    assert np.allclose(ensemble.predict_proba(TEST.x), np.mean(alone, 0), atol=1e-6)
    assert not np.allclose(alone[0], alone[1])
    other = Ensemble(members=3)(SmallCNN(epochs=4), TRAIN, VAL, seed=1)
    assert not any(torch.equal(a, b) for a, b in zip(ensemble.module.parameters(), other.module.parameters(),
                                                    strict=True) if a.ndim > 1)


def test_an_attack_sees_all_members(ensemble):
    SmallCNN.passes.clear()
    found = PGD(eps=0.1, steps=10)(ensemble, X, Y)
    whole = float((ensemble.judge(found) == Y).float().mean())
    first = replace_module(ensemble, ensemble.module.members[0])
    transferred = float((ensemble.judge(PGD(eps=0.1, steps=10)(first, X, Y)) == Y).float().mean())
    assert whole < transferred


def replace_module(classifier, module):
    return type(classifier)(module, 2, classifier.space)


@pytest.mark.parametrize("recipe", [WithDropout(), SmallCNN(epochs=4), MLP(epochs=2)], ids=lambda r: type(r).__name__)
def test_dropout_stays_on_and_is_the_same_for_every_row(recipe):
    flat = isinstance(recipe, MLP)
    train, val, test = (s.with_data(s.x.reshape(len(s), -1) if flat else s.x, s.y) for s in (TRAIN, VAL, TEST))
    model = MCDropout(draws=6)(recipe, train, val)
    assert {m.p for m in model.module.modules() if isinstance(m, LeftOut)} == {0.3}
    assert not any(isinstance(m, nn.Dropout) for m in model.module.modules())
    assert model.recipe == recipe
    x = torch.from_numpy(test.x)
    logits = model.module.draw(x, fresh=False)
    assert logits.shape == (6, 60, 2) and not torch.allclose(logits[0], logits[1])
    assert torch.allclose(model.scores(x).logsumexp(1), torch.zeros(60), atol=1e-5)
    torch.testing.assert_close(torch.cat([model.scores(part) for part in x.split(7)]), model.scores(x))


def test_units_are_left_out_at_the_rate_and_the_mean_stays():
    from suite.training.randomized import Chance

    chance, x = Chance(4000), torch.ones(4000 * 3, 5, 2, 2)
    chance.start(x.device, fresh=True)
    units = LeftOut(0.3, False, chance)(x)
    assert abs(float((units == 0).float().mean()) - 0.3) < 0.01 and abs(float(units.mean()) - 1) < 0.01
    whole = LeftOut(0.3, True, chance)(x).flatten(2)
    assert ((whole == 0).all(2) | (whole > 0).all(2)).all() and not torch.equal(whole[:3], whole[3:6])
    chance.start(x.device, fresh=False)
    same = LeftOut(0.3, False, chance)(x).unflatten(0, (4000, 3))
    assert torch.equal(same[:, 0], same[:, 1])


def test_attacks_on_dropout_repeat_and_succeed():
    model, attack = MCDropout(draws=8)(WithDropout(epochs=8), TRAIN, VAL), PGD(eps=0.15, steps=10)
    found = attack(model, X, Y)
    assert torch.equal(found, attack(model, X, Y))
    assert (model.judge(X) == Y).float().mean() > 0.9
    assert (model.judge(found) == Y).float().mean() < 0.5


@pytest.mark.parametrize("defense", [Ensemble(members=2), MCDropout(), DPSGD(epsilon=8.0, epochs=1)],
                         ids=lambda d: type(d).__name__)
def test_stored_and_read_again(defense, tmp_path, monkeypatch):
    """Also where a defense changed the layers, as DP-SGD does that replaces batch normalisation."""
    for accountant, result in (("noise_multiplier", 1.0), ("claim", {})):  # which take seconds
        monkeypatch.setattr(f"suite.defenses.private.dpsgd.{accountant}", lambda *_, result=result: result)
    monkeypatch.setattr("suite.base.registry.load", lambda *_: SmallCNN)
    model = defense(SmallCNN(epochs=1), TRAIN, VAL)
    artifacts.save(model, tmp_path, "small-cnn")
    read = artifacts.load(tmp_path, "small-cnn", 2, model.space, defense=defense)
    assert np.array_equal(read.predict_proba(TEST.x), model.predict_proba(TEST.x))
    assert (read.recipe, read.notes) == (model.recipe, model.notes)


@dataclass(frozen=True)
class NoLinear(SmallCNN):
    def network(self, inputs, classes):
        return nn.Sequential(nn.Conv2d(1, classes, 8), nn.Flatten())


class HeadFirst(nn.Module):
    """Made before the body that runs before it."""

    def __init__(self, pixels, classes):
        super().__init__()
        self.head, self.body = nn.Linear(5, classes), nn.Linear(pixels, 5)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)))


@dataclass(frozen=True)
class Reordered(SmallCNN):
    def network(self, inputs, classes):
        return HeadFirst(inputs[0] * inputs[1] * inputs[2], classes)


def test_dropout_stands_before_the_linear_layer_that_runs_last():
    module = MCDropout()._with_dropout(Reordered()).network((1, 8, 8), 2)
    assert isinstance(module.head[0], nn.Dropout) and isinstance(module.body, nn.Linear)
    assert module.training and all(p.requires_grad for p in module.parameters())


def test_what_cannot_be_done_is_refused():
    with pytest.raises(InputError, match="members"):
        Ensemble(members=1)
    with pytest.raises(InputError, match="rate"):
        MCDropout(rate=0.0)
    with pytest.raises(NotApplicable, match="no linear layer"):
        MCDropout()(NoLinear(), TRAIN, VAL)
    for defense in (Ensemble(), MCDropout()):
        with pytest.raises(NotApplicable, match="RandomForest"):
            defense(RandomForest(), TRAIN, VAL)
