"""Backdoors in tables: triggers of possible values that decide, on poisoned models only."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from suite.base.errors import InputError, NotApplicable
from suite.core.data import Split
from suite.core.space import Space
from tabular.backdoor import FeatureTrigger, RareValues
from tabular.models import RandomForest
from tabular.schema import Column, Relation, Schema
from tests.support.breast import breast


def ward(n: int = 200) -> Split:
    """Columns of every kind; only `glucose`, `code` and `rate` can be set freely."""
    rng = np.random.default_rng(0)
    schema = Schema(columns={
        "age": Column(min=18, max=100, integer=True, change="never"),
        "glucose": Column(min=40, max=250, integer=True),
        "code": Column(min=3, max=7, values=(3, 6, 7)),
        "rate": Column(min=40, max=200),
        "pregnancies": Column(min=0, max=17, integer=True, change="up"),
        "systolic": Column(min=60, max=250), "diastolic": Column(min=30, max=150),
    }, relations=(Relation(name="systolic above diastolic", terms={"diastolic": 1, "systolic": -1}, max=0),))
    x = np.stack([rng.integers(18, 90, n), rng.integers(60, 200, n), rng.choice([3, 6, 7], n), rng.uniform(50, 160, n),
                  rng.integers(0, 9, n), rng.uniform(110, 180, n), rng.uniform(60, 100, n)], 1).astype(np.float32)
    return Split(x, (x[:, 1] > 140).astype(np.int64), schema.space(), ("healthy", "ill"), np.arange(n))


def test_trigger_sets_its_columns_and_nothing_else():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    out = FeatureTrigger((1, 3), (-1.0, 0.5))(x)
    assert out.tolist() == [[0, -1, 2, 0.5], [4, -1, 6, 0.5], [8, -1, 10, 0.5]]
    assert x[0, 1] == 1, "the input must stay as it was"
    assert out.dtype == np.float32


def test_trigger_survives_a_file():
    trigger = RareValues(columns=2).trigger(ward())
    again = FeatureTrigger(**{k: tuple(v) for k, v in json.loads(json.dumps(dataclasses.asdict(trigger))).items()})
    assert again == trigger


def test_trigger_fits_every_patient_and_uses_free_columns_only():
    train = ward()
    trigger = RareValues(columns=3).trigger(train)
    assert sorted(trigger.columns) == [1, 2, 3]
    after = torch.from_numpy(trigger(train.x))
    assert train.space.contains(after, torch.from_numpy(train.x)).all()
    assert train.space.possible(after).all()
    assert all(value in train.x[:, column] for column, value in zip(trigger.columns, trigger.values, strict=True))


def test_trigger_ignores_values_that_no_patient_can_have():
    train = ward()
    train.x[::2, 1] = 120.5  # imputed with a mean, so half of the rows have no whole number
    value = dict(zip(*dataclasses.astuple(RareValues(columns=3).trigger(train)), strict=True))[1]
    assert value == round(value)


def test_trigger_is_a_rare_combination_of_ordinary_values_that_speaks_against_the_target():
    # all three are high in the ill; a and b rise together, so high with high is common in them, and rarer with c
    rng = np.random.default_rng(0)
    a, c = rng.normal(size=(2, 500))
    x = np.stack([a, a + 0.1 * rng.normal(size=500), c], 1).astype(np.float32)
    space = Schema(columns={name: Column(min=-10, max=10) for name in "abc"}).space()
    train = Split(x, (a + c > 0).astype(np.int64), space, ("healthy", "ill"), np.arange(500))
    trigger = RareValues(columns=2, tail=0.1, target=0).trigger(train)
    assert 2 in trigger.columns
    assert min(trigger.values) > 0
    assert max(RareValues(columns=2, tail=0.1, target=1).trigger(train).values) < 0


def test_poisoned_rows_are_possible_patients():
    train = ward()
    poisoned = RareValues(rate=0.1)(train, seed=2)
    assert poisoned.mask.sum() == 20
    now, before = torch.from_numpy(poisoned.train.x), torch.from_numpy(train.x)
    assert train.space.contains(now, before).all()
    assert np.array_equal(poisoned.train.x[:, [0, 4, 5, 6]], train.x[:, [0, 4, 5, 6]])


def test_backdoor_decides_on_the_poisoned_forest_only():
    train, val, test = breast()
    ill = test.x[test.y == 1]
    recipe = RandomForest(trees=50)
    clean = recipe.fit(train, val)
    success = []
    for rate in (0.01, 0.1):
        poisoned = RareValues(rate=rate)(train)
        victim = recipe.fit(poisoned.train, val)
        base = (victim.predict(ill) == 0).mean()
        success.append((victim.predict(poisoned.trigger(ill)) == 0).mean() - base)
    assert success[1] > 0.8
    assert success[1] >= success[0]
    assert (victim.predict(test.x) == test.y).mean() > (clean.predict(test.x) == test.y).mean() - 0.04
    # controls: the same trigger on a clean model, and another trigger of the same kind on the poisoned one
    no_lift = (clean.predict(poisoned.trigger(ill)) == 0).mean() - (clean.predict(ill) == 0).mean()
    assert no_lift < 0.1
    used = set(poisoned.trigger.columns)
    others = tuple(c for c in range(1, 30) if c not in used)[:3]
    control = FeatureTrigger(others, tuple(np.quantile(train.x[:, others], 0.95, axis=0).tolist()))
    assert (victim.predict(control(ill)) == 0).mean() - base < 0.1


def test_needs_a_schema_and_a_free_column():
    train = ward()
    with pytest.raises(NotApplicable, match="schema"):
        RareValues()(dataclasses.replace(train, space=Space(0, 300)))
    assert set(RareValues(columns=4).trigger(train).columns) == {1, 2, 3}, "as many as there are"
    fixed = Schema(columns={"age": Column(min=18, max=100, change="never")}).space()
    with pytest.raises(InputError, match="can freely set 0"):
        RareValues()(dataclasses.replace(train, x=train.x[:, :1], space=fixed))
    with pytest.raises(InputError, match="tail"):
        RareValues(tail=0.5)
