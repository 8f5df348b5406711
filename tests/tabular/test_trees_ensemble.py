"""Leaf boxes of tree models: the same labels as the model itself, at the cuts above all; and who is refused."""

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from suite.base.errors import NotApplicable
from tabular.trees.ensemble import Ensemble

RNG = np.random.default_rng(0)
X = RNG.normal(0, [1, 10, 100], (300, 3)).astype(np.float32)
TWO = (X[:, 0] + X[:, 1] / 10 + RNG.normal(0, 0.5, 300) > 0.8).astype(int)
THREE = TWO + (X[:, 2] > 20)

MODELS = {
    "tree": (DecisionTreeClassifier(max_depth=5, random_state=0), TWO),
    "forest": (RandomForestClassifier(15, max_depth=5, random_state=0), TWO),
    "forest, 3 classes": (RandomForestClassifier(15, max_depth=5, random_state=0), THREE),
    "deep forest": (RandomForestClassifier(10, random_state=0), TWO),
    "extra trees": (ExtraTreesClassifier(15, max_depth=5, random_state=0), TWO),
    "boosting": (GradientBoostingClassifier(n_estimators=15, random_state=0), TWO),
    "boosting, init zero": (GradientBoostingClassifier(n_estimators=5, init="zero", random_state=0), TWO),
    "boosting, 3 classes": (GradientBoostingClassifier(n_estimators=10, random_state=0), THREE),
    "xgboost": (XGBClassifier(n_estimators=20, max_depth=3), TWO),
    "xgboost, base_score": (XGBClassifier(n_estimators=20, max_depth=3, base_score=0.2), TWO),
    "xgboost, 3 classes": (XGBClassifier(n_estimators=10, max_depth=3), THREE),
    "xgboost, forest of 4": (XGBClassifier(n_estimators=5, num_parallel_tree=4, subsample=0.5, max_depth=3), TWO),
    "xgboost, pruned": (XGBClassifier(n_estimators=10, max_depth=4, gamma=2.0), TWO),
    "xgboost, a class missing a split": (XGBClassifier(n_estimators=3, max_depth=1, min_child_weight=60), TWO),
}


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_those_of_the_model_on_both_sides_of_every_cut(name):
    model, y = MODELS[name]
    model.fit(X, y)
    ensemble = Ensemble.of(model)
    rng, rows = np.random.default_rng(1), []
    for f, cuts in enumerate(ensemble.cuts):  # a row at each cut, and one a float32 step above
        at = X[rng.integers(len(X), size=(2, len(cuts)))]
        at[0, :, f], at[1, :, f] = cuts, np.nextafter(cuts, np.float32(np.inf))
        rows.append(at.reshape(-1, 3))
    z = np.concatenate([X, *rows])
    scores = np.sort(ensemble.margin(z), 1)
    sure = scores[:, -1] - scores[:, -2] > ensemble.slack
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(ensemble.margin(z).argmax(1)[sure], model.predict(z)[sure])


def test_early_stopping_counts_only_the_trees_that_predict():
    model = XGBClassifier(n_estimators=200, max_depth=4, learning_rate=0.5, early_stopping_rounds=3)
    model.fit(X[:200], TWO[:200], eval_set=[(X[200:], TWO[200:])], verbose=False)
    ensemble = Ensemble.of(model)
    assert len(ensemble.starts) - 1 == model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    p = model.predict_proba(X)[:, 1].astype(np.float64)
    np.testing.assert_allclose(np.diff(ensemble.margin(X), axis=1)[:, 0], np.log(p / (1 - p)), atol=1e-4)


def test_scores_are_log_odds_with_the_base_score_inside():
    """XGBoost estimates base_score from the labels by default, and leaves it out of its trees."""
    model = XGBClassifier(n_estimators=3, max_depth=2).fit(X, TWO)
    ensemble = Ensemble.of(model)
    assert ensemble.bias[1] == pytest.approx(np.log(TWO.mean() / (1 - TWO.mean())), abs=1e-3)
    np.testing.assert_allclose(ensemble.margin(X)[:, 1], model.predict(X, output_margin=True), atol=1e-5)


@pytest.mark.parametrize(("model", "word"), [
    (LogisticRegression(), "LogisticRegression"),
    (HistGradientBoostingClassifier(max_iter=2), "HistGradientBoostingClassifier"),
    (XGBClassifier(n_estimators=2, booster="gblinear"), "gblinear"),
    (XGBClassifier(n_estimators=2, booster="dart"), "dart"),
    (XGBClassifier(n_estimators=2, missing=0.0), "missing"),
    (GradientBoostingClassifier(n_estimators=2, loss="exponential"), "exponential"),
    (GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()), "init"),
    (XGBClassifier(n_estimators=2, objective="binary:hinge"), "binary:hinge"),
])
def test_refuses_what_it_cannot_read_and_says_why(model, word):
    with pytest.raises(NotApplicable, match=word):
        Ensemble.of(model.fit(X, TWO))


def test_refuses_a_model_whose_answers_differ_from_its_trees():
    class Moody(DecisionTreeClassifier):
        def predict_proba(self, x):
            return super().predict_proba(x)[:, ::-1]

    with pytest.raises(NotApplicable, match="Moody"):
        Ensemble.of(Moody(max_depth=2).fit(X, TWO))
