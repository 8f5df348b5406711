"""Transfer from a surrogate: which one is trained on what, and what is counted."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from suite.attacks.gradient import MIFGSM, PGD
from suite.attacks.transfer import Transfer
from suite.base.errors import InputError
from suite.core.data import Dataset, Split
from suite.defenses.plain import Plain
from suite.evaluate import Subject, measure
from suite.training.loop import TorchRecipe
from tests.support.models import moons
from tests.support.toy import Never, dataset, sheet, split, value


@dataclass(frozen=True)
class Small(TorchRecipe):
    """A small network."""

    epochs: int = 15
    lr: float = 1e-2
    patience: int = 15
    hidden: int = 16

    def network(self, inputs, classes):
        return torch.nn.Sequential(torch.nn.Linear(inputs[0], self.hidden), torch.nn.ReLU(),
                                   torch.nn.Linear(self.hidden, classes))


@pytest.fixture(scope="module")
def terms():
    classifier, x, y = moons()
    parts = [Split(x[i].numpy(), y[i].numpy(), classifier.space, ("well", "ill"), np.arange(200)[i])
             for i in (slice(80), slice(80, 140), slice(140, 200))]
    data = Dataset("toy", *parts, dataset(split([[0, 0]], [0])).provenance, ("a", "b"))
    recipe = Small()
    return Subject(recipe.fit(data.train, data.val, 3), recipe, Plain(), data, 0.1, (0.05, 0.1, 0.2), seed=3)


def weights(classifier):
    return torch.cat([p.flatten() for p in classifier.module.parameters()])


def test_the_same_data_and_start_give_the_very_model_and_anything_else_another(terms):
    twin = Transfer(data="same", reseed=False).surrogate_of(terms.recipe, terms.data, 3)
    assert torch.equal(weights(twin), weights(terms.classifier))
    for other in (Transfer(data="same"), Transfer(data="other", reseed=False)):
        assert not torch.equal(weights(other.surrogate_of(terms.recipe, terms.data, 3)), weights(terms.classifier))


def test_another_architecture_is_taken_by_name(terms):
    found = Transfer(surrogate="mlp").surrogate_of(Never(), terms.data, 3)
    assert type(found.recipe).__name__ == "MLP"
    with pytest.raises(InputError, match="random-forest is no network"):
        Transfer(surrogate="random-forest").surrogate_of(terms.recipe, terms.data)
    with pytest.raises(InputError, match="Never is no network"):
        Transfer().surrogate_of(Never(), terms.data)


def test_other_data_are_validation_rows_and_never_train_or_test_rows(terms):
    seen = []

    @dataclass(frozen=True)
    class Watch(Small):
        def fit(self, train, val, seed=0, device="cpu"):
            seen.append((train, val, seed))
            return super().fit(train, val, seed, device)

    Transfer(data="other").surrogate_of(Watch(epochs=1), terms.data, 3)
    (train, val, seed), = seen
    assert sorted([*train.rows, *val.rows]) == terms.data.val.rows.tolist() and len(val) == 12
    assert seed == 4


def test_too_few_rows_of_its_own_are_refused(terms):
    few = replace(terms.data, val=terms.data.val.take(np.arange(9)))
    with pytest.raises(InputError, match="9 validation rows are too few"):
        Transfer().surrogate_of(terms.recipe, few)
    assert Transfer(data="same").surrogate_of(replace(terms.recipe, epochs=1), few)


def test_it_is_crafted_where_the_surrogate_is_and_comes_back_to_where_the_model_is(monkeypatch):
    seen = []

    def craft(**_):
        def attack(classifier, x, y, seed):
            seen.append((x.device.type, y.device.type))
            return torch.ones(x.shape)
        return attack

    class Elsewhere:
        device = torch.device("meta")

    monkeypatch.setattr("suite.attacks.transfer.MIFGSM", craft)
    assert torch.equal(Transfer()(Elsewhere(), torch.zeros(3, 2), torch.zeros(3)), torch.ones(3, 2))
    assert seen == [("meta", "meta")]


@pytest.mark.parametrize(("craft", "attack"), [("pgd", PGD(steps=20)), ("mi-fgsm", MIFGSM(steps=20))])
def test_it_takes_every_step_on_the_surrogate(terms, craft, attack):
    x, y = torch.from_numpy(terms.data.test.x), torch.from_numpy(terms.data.test.y)
    found = Transfer(eps=0.1, craft=craft)(terms.classifier, x, y, 5)
    assert torch.equal(found, replace(attack, eps=0.1, early_stop=False)(terms.classifier, x, y, 5))
    assert (terms.classifier.space.distance(found, x) <= 0.1 + 1e-5).all()


def test_a_twin_transfers_all_and_the_model_is_never_asked(terms):
    out, white = sheet(), sheet()
    arrays = measure(Transfer(data="same", reseed=False), terms, out)
    assert value(out, "transfer_rate") == 1.0
    assert value(out, "surrogate_success") == value(out, "attack_success_rate", 0.1) > 0.1
    row = next(r for r in out.rows if r.metric == "attack_success_rate")
    assert row.queries == 0 == value(out, "gradients")
    assert row.attack_params["data"] == "same" and {"linf", "x_adv"} <= arrays.keys()
    measure(MIFGSM(steps=20, early_stop=False), terms, white)
    for eps in terms.budgets:
        assert value(out, "robust_accuracy", eps) == value(white, "robust_accuracy", eps)


def test_a_stranger_transfers_less_than_a_twin_and_by_hand_as_much_as_counted(terms):
    out = sheet()
    attack = Transfer(data="other")
    measure(attack, terms, out)
    surrogate = attack.surrogate_of(terms.recipe, terms.data, 3)
    test = terms.data.test
    right = terms.classifier.predict(test.x) == test.y
    x, y = torch.from_numpy(test.x[right]), torch.from_numpy(test.y[right])
    found = replace(attack, eps=0.1)(surrogate, x, y, 3)
    there, here = ((m.judge(found) != y).numpy() for m in (surrogate, terms.classifier))
    assert value(out, "surrogate_success") == pytest.approx(there.mean())
    assert value(out, "transfer_rate") == pytest.approx((there & here).sum() / there.sum())
    assert value(out, "transfer_rate") < 1
    assert value(out, "surrogate_accuracy") == pytest.approx((surrogate.predict(test.x) == test.y).mean())
