"""What stands in for the recipe of a model that came fitted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from xgboost import XGBClassifier

from imaging.space import ImageSpace
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base.errors import InputError
from suite.core.space import Space
from suite.models.artifacts import read_estimator
from suite.models.surrogate import alike, described
from suite.results import metrics
from tabular import models
from tabular.data import breast_cancer
from tests.support.breast import breast

TABLE = Space(-10.0, 10.0)


@pytest.fixture(scope="module")
def data():
    """With a split of its own, so that it is known what a pre-trained model learned from."""
    return replace(breast_cancer(), declared=("train", "val", "test"))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    for bootstrap in (metrics.bootstrap, metrics.weighted):
        monkeypatch.setattr(bootstrap, "__defaults__", (0, None, 20))


def plan(**fields):
    return Plan.check({"data": "breast-cancer", "rows": 20} | fields, "test")


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


def test_shadow_models_of_another_recipe_serve_a_fitted_model_where_they_do_not_know_the_row(data, tmp_path):
    name, attacks = str(tmp_path / "knn.skops"), ["lira", "lira-offline", "rmia-offline", "one-run-audit"]
    skops.io.dump(KNeighborsClassifier().fit(data.train.x, data.train.y), name)
    with pytest.raises(InputError, match=r"shadow models of another recipe will do for calibrated-loss, "
                       r"lira-offline, rmia-offline, once the plan names one for this model, as in shadow = \"ran"):
        Audit(plan(models=[name], attacks=attacks), data, "")
    named = {"name": name, "shadow": {"name": "decision-tree", "depth": 2}}
    audit = Audit(plan(models=[named], attacks=attacks), data, "")
    assert [c.attack.name for c in audit.cells if c.attack] == ["lira-offline", "rmia-offline"]
    _, lost, kept = audit.limits
    assert lost.endswith("attacks that would are out; shadow models of another recipe will do for "
                         "calibrated-loss, lira-offline, rmia-offline")
    assert "its shadow models are of another, DecisionTree(depth=2); an attacker" in kept
    skops.io.dump(DecisionTreeClassifier().fit(data.train.x, data.train.y), tmp_path / "tree.skops")
    audit = Audit(plan(models=[str(tmp_path / "tree.skops")], attacks=["calibrated-loss"]), data, "")
    assert "are of another, DecisionTree(depth=None, balanced=False); an" in audit.limits[1]
    run = audit.run(tmp_path / "r")
    assert not [r.error for r in run.rows() if r.error]
    row = next(r for r in run.rows() if r.metric == "membership_auroc" and not r.subgroup)
    assert row.attack_params["shadow_recipe"] == "DecisionTree(depth=None, balanced=False)"


@pytest.mark.parametrize(("params", "said"), [
    ({"shadow": "radom-forest"}, "unknown model 'radom-forest'; did you mean 'random-forest'?"),
    ({"shadow": {"name": "random-forest", "deep": 3}}, "model 'random-forest' has no parameter 'deep'"),
    ({"shadow": 3}, "shadow is the name of a recipe, or a table with its name, and not 3"),
    ({"shadow": {"depth": 3}}, "a table with its name, and not {'depth': 3}"),
    ({"shadow": "simple-cnn"}, "the recipe of its shadow models is for images, and the inputs of .* are tables"),
    ({"shadow": "ITSELF"}, "shadow: .*tree.skops is already trained, and no recipe"),
    ({"depth": 3}, "is already trained, so that 'depth' means nothing; the plan can only name the recipe"),
], ids=lambda v: v[:20] if isinstance(v, str) else "")
def test_a_shadow_recipe_that_is_none_is_refused(data, tmp_path, params, said):
    name = str(tmp_path / "tree.skops")
    skops.io.dump(DecisionTreeClassifier(max_depth=2).fit(data.train.x, data.train.y), name)
    item = {"name": name} | {k: name if v == "ITSELF" else v for k, v in params.items()}
    with pytest.raises(InputError, match=said):
        Audit(plan(models=[item], attacks=["lira-offline"]), data, "")
    with pytest.raises(InputError, match="has no parameter 'shadow'"):
        Audit(plan(models=[{"name": "mlp", "shadow": "mlp"}]), data, "")


def test_a_run_does_not_go_on_with_a_changed_recipe_of_shadow_models(data, tmp_path):
    fitted, own = tmp_path / "tree.skops", tmp_path / "own.py"
    skops.io.dump(DecisionTreeClassifier(max_depth=2).fit(data.train.x, data.train.y), fitted)
    own.write_text("from tabular.models import DecisionTree\n\nTREE = DecisionTree(3)\n")
    audit = Audit(plan(models=[{"name": str(fitted), "shadow": f"{own}:TREE"}], attacks=["lira-offline"]), data, "")
    assert audit.manifest()["files"].keys() == {fitted.name, own.name}
