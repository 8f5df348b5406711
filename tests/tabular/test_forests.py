"""Forests that are only asked answer as scikit-learn's, to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn

from suite.base.errors import InputError
from tabular import forests
from tabular.models import DEEP, RandomForest
from tests.support.toy import split

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 7)).astype(np.float32)
SICK = (X[:, 0] + RNG.normal(size=240) > 0.8).astype(np.int64)  # few
GRADE = np.digitize(X[:, 1] + 0.3 * RNG.normal(size=240), [-0.5, 0.5])


def people(x, y):
    return replace(split(x, np.zeros(len(x))), y=y, classes=("none", "some", "much")[:y.max() + 1])


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("depth", [None, 6, 1])
@pytest.mark.parametrize("y", [SICK, GRADE], ids=["two", "three"])
def test_they_are_those_of_scikit_learn(y, depth, balanced, seed):
    train, recipe = people(X[:160], y[:160]), RandomForest(20, depth, balanced)
    ours = recipe.asked(train, train, seed)
    assert isinstance(ours.estimator, forests.Answers)
    np.testing.assert_array_equal(ours.predict_proba(X), recipe.fit(train, train, seed).predict_proba(X))
    assert not np.array_equal(ours.predict_proba(X), recipe.asked(train, train, 1).predict_proba(X))


def test_another_scikit_learn_grows_them_itself(monkeypatch):
    train = people(X, SICK)
    monkeypatch.setattr(sklearn, "__version__", "9.0.1")
    made = RandomForest(5).asked(train, train, 3)
    assert type(made.estimator).__name__ == "RandomForestClassifier"
    np.testing.assert_array_equal(made.predict_proba(X), RandomForest(5).fit(train, train, 3).predict_proba(X))


def test_they_copy_what_is_not_contiguous_and_leave_it_alone():
    wide = np.asfortranarray(X)
    before = wide.copy()
    train = people(X, SICK)
    found = forests.grown(wide, SICK, 5, None, True, 0).predict_proba(X)
    np.testing.assert_array_equal(found, RandomForest(5, None).fit(train, train).predict_proba(X))
    np.testing.assert_array_equal(wide, before)


def test_a_class_of_which_there_is_no_row_is_told():
    train = people(X, GRADE)
    few = train.take(np.flatnonzero(GRADE < 2))
    for made in (DEEP.asked(few, few), DEEP.fit(few, few)):
        with pytest.raises(InputError, match=r"shape \(240, 2\) for 240 rows and 3 classes"):
            made.predict_proba(X)
