"""What shadow models of a model are trained by when it came fitted, so that nobody has its recipe: one of a like kind.

Such shadow models still tell how sure a model is of a row that it has not learned from, which is what offline attacks
compare with; how sure one is of a row that it knows differs from recipe to recipe.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from suite.base import registry
from suite.base.errors import InputError
from suite.core.recipe import Recipe
from suite.core.space import Space

ALIKE = {
    "DecisionTreeClassifier": ("decision-tree", {"depth": "max_depth"}),
    "RandomForestClassifier": ("random-forest", {"trees": "n_estimators", "depth": "max_depth"}),
    "ExtraTreesClassifier": ("random-forest", {"trees": "n_estimators", "depth": "max_depth"}),
    "GradientBoostingClassifier": ("xgboost", {"trees": "n_estimators", "depth": "max_depth", "rate": "learning_rate"}),
    "HistGradientBoostingClassifier": ("xgboost", {"trees": "n_iter_", "rate": "learning_rate"}),
    "XGBClassifier": ("xgboost", {}),
    "LogisticRegression": ("logistic-regression", {"c": "C"}),
    "GaussianNB": ("naive-bayes", {}),
}
"""Name of an estimator's class -> the registered recipe, and which of its hyper-parameters is which attribute."""


def alike(model: Any, space: Space) -> Recipe | None:
    """The recipe of the kind of a fitted estimator, of whose hyper-parameters it takes what it has, too.

    Args:
        model: A fitted estimator, or a pipeline that ends in one.
        space: Of the data.

    Returns:
        None where no recipe is known to be like it, or that one is for other inputs.
    """
    model = model.steps[-1][1] if hasattr(model, "steps") else model
    kind = type(model)
    if kind.__name__ not in ALIKE or kind.__module__.partition(".")[0] not in ("sklearn", "xgboost"):
        return None
    name, same = ALIKE[kind.__name__]
    params = _boosted(model) if kind.__name__ == "XGBClassifier" else {k: getattr(model, v) for k, v in same.items()}
    try:
        found = registry.make("models", name, params | {"balanced": getattr(model, "class_weight", None) is not None})
    except InputError:  # trees without an end, say, which the recipe does not know
        return None
    return found if space.suits(found.inputs) else None


def _boosted(model: Any) -> dict[str, int]:
    """The size of an XGBoost model as it is: its file does not keep what was asked for, nor its rate."""
    booster = model.get_booster()
    deepest = max(line.count("\t") for tree in booster.get_dump() for line in tree.splitlines())
    return {"trees": booster.num_boosted_rounds(), "depth": max(1, deepest)}


def described(recipe: Recipe) -> str:
    """A recipe in one line: its class, and the hyper-parameters that are not the defaults of that."""
    changed = [f"{f.name}={getattr(recipe, f.name)!r}" for f in fields(recipe) if getattr(recipe, f.name) != f.default]
    return f"{type(recipe).__name__}({', '.join(changed)})"
