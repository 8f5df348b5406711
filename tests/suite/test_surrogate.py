"""What stands in for the recipe of a model that came fitted."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from xgboost import XGBClassifier

from imaging.space import ImageSpace
from suite.artifacts import read_estimator
from suite.space import Space
from suite.surrogate import alike, described
from tabular import models
from tests.breast import breast

TABLE = Space(-10.0, 10.0)


@pytest.mark.parametrize(("estimator", "recipe"), [
    (RandomForestClassifier(7, max_depth=3), models.RandomForest(7, 3, balanced=False)),
    (RandomForestClassifier(7, class_weight="balanced"), models.RandomForest(7, None)),
    (ExtraTreesClassifier(9), models.RandomForest(9, None, balanced=False)),
    (DecisionTreeClassifier(max_depth=2), models.DecisionTree(2, balanced=False)),
    (GradientBoostingClassifier(n_estimators=5, max_depth=2, learning_rate=0.5), models.XGBoost(5, 2, 0.5, False)),
    (LogisticRegression(C=2.5, max_iter=5000), models.LogisticRegression(c=2.5, balanced=False)),
    (GaussianNB(), models.GaussianNB(balanced=False)),
    (make_pipeline(StandardScaler(), DecisionTreeClassifier()), models.DecisionTree(None, balanced=False)),
    (GradientBoostingClassifier(n_estimators=2, max_depth=None), None),  # ours have an end
    (AdaBoostClassifier(n_estimators=2), None),
], ids=lambda v: type(v).__name__)
def test_a_recipe_of_like_kind_and_size(estimator, recipe):
    train, *_ = breast()
    assert alike(estimator.fit(train.x, train.y), train.space) == recipe


def test_boosted_trees_are_counted_as_they_came_to_be(tmp_path):
    train, *_ = breast()
    XGBClassifier(n_estimators=6, max_depth=3, n_jobs=1).fit(train.x, train.y).save_model(tmp_path / "m.json")
    found = alike(read_estimator(tmp_path / "m.json"), train.space)  # which has forgotten both
    assert found == models.XGBoost(6, 3, balanced=False)
    histogram = HistGradientBoostingClassifier(max_iter=4, learning_rate=0.3).fit(train.x, train.y)
    assert alike(histogram, train.space) == models.XGBoost(4, rate=0.3, balanced=False)


def test_nothing_is_like_what_is_not_known_or_takes_other_inputs():
    kind = type("RandomForestClassifier", (SimpleNamespace,), {})  # somebody's own, of that name
    assert alike(kind(n_estimators=3), TABLE) is None and alike(nn.Linear(3, 2), TABLE) is None
    forest = RandomForestClassifier(2).fit(np.eye(4), [0, 1, 0, 1])
    assert alike(forest, TABLE) is not None and alike(forest, ImageSpace()) is None


def test_a_recipe_in_one_line():
    assert described(models.RandomForest()) == "RandomForest()"
    assert described(models.RandomForest(7, None)) == "RandomForest(trees=7, depth=None)"
    assert described(models.MLP(hidden=(8,))) == "MLP(hidden=(8,))"
