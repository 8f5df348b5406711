"""Models that came fitted, whose shadow models are of another recipe: what offline attacks find, and what not."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from xgboost import XGBClassifier

from suite.base import registry
from suite.base.errors import NotApplicable
from suite.evaluate import measure
from suite.models.artifacts import Fitted
from suite.models.surrogate import alike
from suite.results import metrics
from tabular.models import DecisionTree, XGBoost
from tests.support.toy import dataset, sheet, split, subject

OFFLINE = ("lira-offline", "rmia-offline", "calibrated-loss")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    for bootstrap in (metrics.bootstrap, metrics.weighted):
        monkeypatch.setattr(bootstrap, "__defaults__", (0, None, 20))


@pytest.fixture(scope="module")
def people():
    """Four splits of rows whose labels cannot be told for sure; the last is of strangers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 6))
    whole = split(x, (x[:, 0] + rng.normal(0, 1.5, 1000) > 0).astype(int))
    train, test, val, strangers = (whole.take(slice(a, a + 250)) for a in range(0, 1000, 250))
    return dataset(test, train, val), strangers


def leak(name, data, model, shadow):
    """The AUROC of an attack, and its parameters as kept."""
    fitted, out = Fitted(model, "theirs", shadow=shadow), sheet()
    attack = registry.make("attacks", name, {"shadows": 16} if name in OFFLINE else {})
    measure(attack, subject(fitted.classifier(data.train), data, fitted), out)
    row = next(r for r in out.rows if r.metric == "membership_auroc" and not r.subgroup)
    return row.value, row.attack_params


def forest(rows):
    return RandomForestClassifier(50, max_depth=6, random_state=3).fit(rows.x, rows.y)


@pytest.mark.parametrize("name", OFFLINE)
def test_a_forest_that_remembers_is_found_out_and_one_of_other_patients_is_not(people, name):
    data, strangers = people
    model = forest(data.train)
    found, params = leak(name, data, model, alike(model, data.space))
    assert params["shadow_recipe"] == "RandomForest(trees=50, balanced=False)"
    assert found > leak("membership-loss", data, model, None)[0] + 0.03 > 0.7
    model = forest(strangers)
    # 250 members and 250 others: four standard errors of guessing
    assert abs(leak(name, data, model, alike(model, data.space))[0] - 0.5) < 0.105


def test_one_of_another_kind_will_do_and_a_better_likeness_does_better(people):
    data, _ = people
    model = XGBClassifier(n_estimators=60, max_depth=4, learning_rate=0.3, n_jobs=1).fit(data.train.x, data.train.y)
    alike_, forest_, stump = (leak("lira-offline", data, model, shadow)[0] for shadow in (
        alike(model, data.space), alike(forest(data.train), data.space), DecisionTree(1)))
    assert alike(model, data.space) == XGBoost(60, 4, balanced=False)
    assert min(alike_, forest_) > 0.75 and alike_ > stump


def test_without_a_recipe_there_are_no_shadow_models(people):
    data, _ = people
    with pytest.raises(NotApplicable, match="LiRA needs shadow models, and this model cannot be trained again"):
        leak("lira-offline", data, forest(data.train), None)
