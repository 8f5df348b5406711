"""The plausibility guard: what it refuses, what that costs, and that attacks can see it."""

import dataclasses

import numpy as np
import pytest
import torch

from suite.attacks.gradient import PGD
from suite.base.errors import InputError, NotApplicable
from suite.core.classifier import REJECTED, TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.post_training.guard import GuardedClassifier, GuardedTorchClassifier, PlausibilityGuard
from tabular.models import MLP, LogisticRegression, RandomForest
from tabular.schema import Column, Relation, Schema
from tests.support.breast import breast
from tests.support.toy import Never

RECIPES = (LogisticRegression(), RandomForest(trees=20))


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_the_model_inside_notes_is_not_lost(recipe):
    train, val, _ = breast()
    inner = recipe.fit(train, val)
    inner.notes["eps"] = 0.1
    guarded = PlausibilityGuard().wrap(inner, train, val)
    assert guarded.notes == {"eps": 0.1} and guarded.recipe == recipe
    guarded.notes["own"] = 1.0
    assert "own" not in inner.notes


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("detector", ["mahalanobis", "neighbors"])
@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_refuses_the_asked_share_of_patients_and_judges_the_others_as_before(recipe, detector, fpr):
    train, val, _ = breast()
    plain = recipe.fit(train, val).predict(val.x)
    guarded = PlausibilityGuard(fpr, detector)(recipe, train, val)
    labels = guarded.predict(val.x)
    refused = labels == REJECTED
    assert fpr - 1 / len(val) <= refused.mean() <= fpr
    assert np.array_equal(labels[~refused], plain[~refused])


@pytest.mark.parametrize("recipe", RECIPES)
def test_probabilities_are_those_of_the_model_inside(recipe):
    train, val, _ = breast()
    guarded = PlausibilityGuard()(recipe, train, val)
    assert np.allclose(guarded.predict_proba(val.x), recipe.fit(train, val).predict_proba(val.x))
    assert guarded.queries == len(val)
    assert guarded.predict(val.x[:0]).shape == (0,)


def test_networks_stay_networks():
    train, val, _ = breast()
    assert isinstance(PlausibilityGuard()(RECIPES[0], train, val), GuardedTorchClassifier)
    assert isinstance(PlausibilityGuard()(RECIPES[1], train, val), GuardedClassifier)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("detector", "columns"), [("mahalanobis", 4), ("neighbors", 30)])
def test_refuses_values_that_are_possible_alone_but_not_together(recipe, detector, columns):
    train, val, _ = breast()
    odd = train.x.mean(0, keepdims=True)
    # the first columns are radius, texture, perimeter and area: no tumour has a small radius and a large perimeter
    odd[0, :columns:2], odd[0, 1:columns:2] = train.x.min(0)[:columns:2], train.x.max(0)[1:columns:2]
    guarded = PlausibilityGuard(detector=detector)(recipe, train, val)
    assert train.space.possible(torch.from_numpy(odd)).all()
    assert guarded.predict(odd).tolist() == [REJECTED]


def clinic():
    """A few columns with every kind of rule, and patients of whom none is an outlier by chance."""
    rng = np.random.default_rng(0)
    schema = Schema(columns={
        "age": Column(min=18, max=100, integer=True, change="never"), "code": Column(min=3, max=7, values=(3, 6, 7)),
        "systolic": Column(min=60, max=250), "diastolic": Column(min=30, max=150),
    }, relations=(Relation(name="systolic above diastolic", terms={"diastolic": 1, "systolic": -1}, max=0),))
    n = 300
    columns = rng.integers(20, 90, n), rng.choice([3, 6, 7], n), rng.uniform(90, 180, n), rng.uniform(40, 140, n)
    x = np.stack(columns, 1)
    x = x[x[:, 2] >= x[:, 3]].astype(np.float32)
    split = Split(x, (x[:, 2] > 130).astype(np.int64), schema.space(), ("healthy", "ill"), np.arange(len(x)))
    return split.take(slice(0, 150)), split.take(slice(150, None))


@pytest.mark.parametrize("recipe", RECIPES)
def test_refuses_what_the_schema_forbids_though_no_outlier(recipe):
    train, val = clinic()
    guarded = PlausibilityGuard(fpr=0.01)(recipe, train, val)
    ordinary = [50, 6, 120, 80]
    impossible = {"fraction of a year": [50.5, 6, 120, 80], "unknown code": [50, 5, 120, 80],
                  "below diastolic": [50, 6, 100, 104], "not a number": [50, 6, 120, np.nan],
                  "too young": [17, 6, 120, 80]}
    assert guarded.predict(np.array([ordinary], np.float32)) != REJECTED
    for why, row in impossible.items():
        assert guarded.predict(np.array([row], np.float32)) == REJECTED, why


def test_possible_asks_for_more_than_reachable():
    train, _ = clinic()
    odd = torch.tensor([[50.5, 6, 120, 80]])
    assert train.space.contains(odd, odd).all()
    assert not train.space.possible(odd).any()
    assert train.space.possible(torch.from_numpy(train.x)).all()


def test_attack_that_sees_the_guard_beats_it_more_than_one_that_does_not():
    train, val, test = breast()
    recipe = MLP(hidden=(32,), epochs=40)
    plain = recipe.fit(train, val)
    guarded = PlausibilityGuard()(recipe, train, val)
    x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)
    attack = PGD(eps=0.1, steps=40)

    def fooled(victim: TorchClassifier, target: TorchClassifier) -> float:
        """Share of patients for whom an attack on `victim` makes `target` give a wrong label."""
        label = target.judge(attack(victim, x, y))
        return float(((label != y) & (label != REJECTED)).float().mean())

    unaware, adaptive = fooled(plain, guarded), fooled(guarded, guarded)
    assert fooled(plain, plain) > 0.5, "an attack that does nothing shows nothing"
    assert adaptive > unaware + 0.4
    # and the guard still costs the attacker something
    assert adaptive <= fooled(plain, plain)


def test_the_refusing_logit_rises_with_the_outlier_score():
    train, val, _ = breast()
    guarded = PlausibilityGuard()(RECIPES[0], train, val)
    x = torch.from_numpy(val.x[:1]).requires_grad_()
    logits = guarded.logits(x)
    assert logits.shape == (1, 3)
    lead = logits[0, 2] - logits[0, :2].max()
    outlier = guarded.module.outlier(x)[0] - guarded.module.threshold
    assert torch.isclose(lead, outlier, atol=1e-4)
    gradient, = torch.autograd.grad(lead, x)
    assert gradient.abs().sum() > 0


def test_a_stored_guard_gives_the_same_verdicts():
    train, val, test = breast()
    first = PlausibilityGuard()(MLP(epochs=2), train, val)
    second = PlausibilityGuard(fpr=0.5)(MLP(epochs=1), train, val, seed=1)
    assert not np.array_equal(first.predict(test.x), second.predict(test.x))
    second.module.load_state_dict(first.module.state_dict())
    assert np.array_equal(first.predict(test.x), second.predict(test.x))


def test_wide_inputs_are_refused_before_training():
    wide = Split(np.zeros((4, 1, 128, 128), np.float32), np.arange(4) % 2, Space(0.0, 1.0), ("a", "b"), np.arange(4))
    with pytest.raises(NotApplicable, match="16384 features is too large"):
        PlausibilityGuard()(Never(), wide, wide)
    with pytest.raises(AssertionError, match="nothing is to be trained"):  # which has no covariance
        PlausibilityGuard(detector="neighbors")(Never(), wide, wide)


def test_bad_parameters_are_named():
    for fpr in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="fpr"):
            PlausibilityGuard(fpr=fpr)
    with pytest.raises(InputError, match="'oracle'"):
        PlausibilityGuard(detector="oracle")
    assert dataclasses.asdict(PlausibilityGuard()) == {"fpr": 0.05, "detector": "mahalanobis"}
