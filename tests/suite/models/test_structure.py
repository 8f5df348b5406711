"""Tree files: sound ones of every kind pass, and what points outside itself or in circles is refused unopened."""

import json

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from suite.base.errors import InputError
from suite.models import artifacts
from suite.models.structure import flaw_of_booster, flaw_of_estimator, parsed
from suite.models.ubjson import decoded
from tests.support.breast import breast


def booster(**params):
    train = breast()[0]
    y = np.arange(len(train)) % params.pop("classes", 2)
    y = train.y if y.max() == 1 else y
    return XGBClassifier(n_estimators=3, **params).fit(train.x, y)


def content(model, kind="json"):
    return bytes(model.get_booster().save_raw(kind))


@pytest.mark.parametrize("params", [
    {}, {"gamma": 5, "tree_method": "exact"}, {"booster": "dart", "rate_drop": 0.5}, {"booster": "gblinear"},
    {"classes": 3}, {"classes": 3, "multi_strategy": "multi_output_tree"}, {"classes": 3, "booster": "gblinear"},
    {"num_parallel_tree": 2, "max_leaves": 5, "grow_policy": "lossguide"}, {"gamma": 1e9}])
@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_what_xgboost_writes_is_sound(params, kind):
    assert flaw_of_booster(parsed(content(booster(**params), kind))) == ""


def test_splits_by_category_are_sound_and_checked():
    import pandas as pd

    group = np.random.default_rng(0).integers(0, 8, 200)
    model = XGBClassifier(n_estimators=2, enable_categorical=True, max_cat_to_onehot=1).fit(
        pd.DataFrame({"g": pd.Categorical(group)}), (group % 3 == 0).astype(int))
    told = parsed(content(model))
    assert flaw_of_booster(told) == ""
    told["learner"]["gradient_booster"]["model"]["trees"][0]["categories_segments"][0] = 10**6
    assert "categories of a split are out of range" in flaw_of_booster(told)


def test_ubjson_says_what_json_says():
    model = booster(classes=3)
    text, binary = json.loads(content(model)), decoded(content(model, "ubj"))

    def same(a, b):
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                same(a[key], b[key])
        elif isinstance(a, list) and a and isinstance(a[0], dict):
            for one, other in zip(a, b, strict=True):
                same(one, other)
        elif isinstance(a, list):
            assert len(a) == len(b) and (not a or isinstance(a[0], str) or np.allclose(a, b))
        else:
            assert a == b
    same(text, binary)


@pytest.mark.parametrize("broken", [
    b"", b"{", b"{L\x7f" + b"\xff" * 7, b"[$d#L" + b"\x7f" * 8, b"[#L" + b"\x7f" * 8, b"[" * 10**5, b"{i\x01aq", b"[$",
    b"Si\xff", b"ZZ"])
def test_broken_ubjson_is_a_value_error(broken):
    with pytest.raises(ValueError):
        decoded(broken)


def tree(**changes):
    def change(model):
        for name, (at, value) in changes.items():
            model["learner"]["gradient_booster"]["model"]["trees"][1][name][at] = value
    return change


def param(name, value):
    return lambda model: model["learner"]["learner_model_param"].update({name: value})


@pytest.mark.parametrize(("change", "message"), [
    (tree(left_children=(0, 10**6)), "tree 1: a node has the child 1000000, and there are"),
    (tree(left_children=(0, -7)), "tree 1: a node has the child -7"),
    (tree(left_children=(1, 0)), "tree 1: a node is reached twice"),
    (tree(right_children=(0, 1)), "tree 1: a node is reached twice"),
    (tree(right_children=(0, -1)), "tree 1: a node has the child -1"),
    (tree(split_indices=(0, 30)), "tree 1: it splits at column 30, and there are 30"),
    (tree(split_conditions=(0, float("nan"))), "tree 1: a threshold or leaf is nan"),
    (tree(split_conditions=(-1, 1e39)), "tree 1: a threshold or leaf is inf"),
    (tree(parents=(1, 2)), "tree 1: a node names another parent"),
    (tree(split_type=(0, 1)), "tree 1: a split by categories has none"),
    (lambda m: m["learner"]["gradient_booster"]["model"]["trees"][1]["default_left"].pop(), "different lengths"),
    (lambda m: m["learner"]["gradient_booster"]["model"]["trees"].pop(), "another number of trees"),
    (lambda m: m["learner"]["gradient_booster"]["model"]["tree_info"].__setitem__(0, 5), "a tree is of class 5"),
    (lambda m: m["learner"]["gradient_booster"]["model"]["iteration_indptr"].__setitem__(-1, 99), "its rounds do not"),
    (lambda m: m["learner"]["attributes"].update(best_iteration="50"), "its best round is 50, and there are 3"),
    (param("num_class", "2000000000"), "it has 2000000000 classes"),
    (param("num_feature", "3"), "tree 0: it is for 30 columns and 1 values, not 3"),
    (param("base_score", "nan"), "its base score is nan"),
    (lambda m: m.pop("learner"), "it is no XGBoost model"),
    (lambda m: m["learner"]["gradient_booster"]["model"].update(trees=7), "it is no XGBoost model"),
])
def test_a_tampered_xgboost_file_never_reaches_the_library(tmp_path, monkeypatch, change, message):
    told = json.loads(content(booster()))
    change(told)
    file = tmp_path / "m.json"
    file.write_text(json.dumps(told))
    monkeypatch.setattr(XGBClassifier, "load_model", lambda *_: pytest.fail("the library opened it"))
    with pytest.raises(InputError, match=rf"m.json: .*{message}") as e:
        artifacts.read_estimator(file)
    assert "\n" not in str(e.value)


MODELS = [DecisionTreeClassifier(max_depth=3), RandomForestClassifier(3, random_state=0),
          GradientBoostingClassifier(n_estimators=3), BaggingClassifier(n_estimators=2, max_features=0.5),
          AdaBoostClassifier(n_estimators=2), make_pipeline(StandardScaler(), RandomForestClassifier(2))]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_what_scikit_learn_grows_is_sound(model):
    train = breast()[0]
    x = train.x.copy()
    x[::9, 3] = np.nan if "Forest" in type(model).__name__ else 0
    assert flaw_of_estimator(model.fit(x, train.y)) == ""


@pytest.mark.parametrize(("field", "at", "value", "message"), [
    ("left_child", 0, 10**6, "a node has the child 1000000"), ("left_child", 1, 0, "a node is reached twice"),
    ("right_child", 0, -5, "a node has the child -5"), ("right_child", 0, -1, "a node has the child -1"),
    ("feature", 0, 30, "it splits at column 30"), ("threshold", 0, np.nan, "a threshold or leaf is nan"),
    ("values", 0, np.inf, "a threshold or leaf is inf"), ("owner", 0, 0, "it is for 30 columns, and its owner takes 4"),
])
def test_a_tampered_scikit_learn_tree_is_never_asked(tmp_path, field, at, value, message):
    train = breast()[0]
    model = make_pipeline(RandomForestClassifier(2, random_state=0).fit(train.x, train.y))
    inner = model[0].estimators_[1]
    if field == "owner":
        inner.n_features_in_ = 4
    else:
        state = inner.tree_.__getstate__()
        if field == "values":
            state["values"] = state["values"].copy()
            state["values"][at] = value
        else:
            state["nodes"] = state["nodes"].copy()
            state["nodes"][field][at] = value
        inner.tree_.__setstate__(state)
    skops.io.dump(model, tmp_path / "m.skops")
    with pytest.raises(InputError, match=rf"m.skops: tree 1: {message}"):
        artifacts.read_estimator(tmp_path / "m.skops")


@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_an_array_that_is_there_twice_is_refused(tmp_path, monkeypatch, kind):
    """XGBoost takes the first of two values with one key, Python's reader the last: the one that is checked."""
    model = booster()
    whole = content(model, kind)
    key = b"split_conditions"
    if kind == "json":
        begin = whole.index(b'"' + key + b'"')
        end = whole.index(b"]", begin) + 1
        doubled = whole[:end] + b"," + whole[begin:end] + whole[end:]
        assert json.loads(doubled) == json.loads(whole)
    else:
        begin = whole.index(b"L" + len(key).to_bytes(8, "big") + key)
        size = int.from_bytes(whole[begin + 9 + len(key) + 5:][:8], "big")
        end = begin + 9 + len(key) + 5 + 8 + 4 * size
        assert decoded(b"{" + whole[begin:end] + b"}").keys() == {key.decode()}
        doubled = whole[:end] + whole[begin:end] + whole[end:]
    file = tmp_path / f"m.{kind}"
    file.write_bytes(doubled)
    monkeypatch.setattr(XGBClassifier, "load_model", lambda *_: pytest.fail("the library opened it"))
    with pytest.raises(InputError, match=rf"m.{kind}: cannot be read: .* is there twice"):
        artifacts.read_estimator(file)
