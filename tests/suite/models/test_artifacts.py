"""Models on disk: what is read back predicts the same; what could run code is refused."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.base.files import WriteError
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.robust.distillation import Distillation
from suite.models import artifacts
from tests.support.breast import breast

FAST = {"mlp": {"epochs": 3, "hidden": [8]}, "xgboost": {"trees": 5}, "random-forest": {"trees": 5}}


@pytest.mark.parametrize("name", ["logistic-regression", "mlp", "random-forest", "xgboost", "decision-tree",
                                  "naive-bayes"])
def test_a_stored_model_predicts_the_same(tmp_path, name):
    train, val, test = breast()
    made = registry.make("models", name, FAST.get(name)).fit(train, val, seed=1)
    made.notes["eps"] = 0.25
    artifacts.save(made, tmp_path, name)
    found = artifacts.load(tmp_path, name, 2, test.space)
    assert type(found) is type(made) and found.recipe == made.recipe and found.notes == {"eps": 0.25}
    assert np.array_equal(found.predict_proba(test.x), made.predict_proba(test.x))
    assert np.array_equal(found.predict(test.x), made.predict(test.x))
    assert not [f for f in tmp_path.iterdir() if f.suffix in artifacts.PICKLES or f.name.startswith(".")]


def test_a_distilled_network_is_stored_with_what_it_learned(tmp_path):
    train, val, test = breast()
    made = Distillation()(registry.make("models", "mlp", FAST["mlp"]), train, val)
    artifacts.save(made, tmp_path, "mlp")
    found = artifacts.load(tmp_path, "mlp", 2, test.space)
    assert np.array_equal(found.predict_proba(test.x), made.predict_proba(test.x))


def test_a_users_own_recipe_is_stored_by_its_file(tmp_path):
    train, val, test = breast()
    file = tmp_path / "own.py"
    file.write_text("from dataclasses import dataclass\nfrom tabular.models import MLP\n\n\n"
                    "@dataclass(frozen=True)\nclass Own(MLP):\n    width: int = 5\n\n\n"
                    "SMALL = Own(epochs=2, width=3)\n")
    for name in (f"{file}:Own", f"{file}:SMALL"):
        made = registry.make("models", name, {"epochs": 2}).fit(train, val)
        artifacts.save(made, tmp_path / "m", name)
        found = artifacts.load(tmp_path / "m", name, 2, test.space)
        assert found.recipe == made.recipe
        assert np.array_equal(found.predict_proba(test.x), made.predict_proba(test.x))


@pytest.fixture
def stored(tmp_path):
    train, val, _ = breast()
    made = registry.make("models", "mlp", FAST["mlp"]).fit(train, val)
    artifacts.save(made, tmp_path, "mlp")
    return tmp_path


@pytest.mark.parametrize(("file", "keep"), [("weights.safetensors", 100), ("model.json", 20)])
def test_a_damaged_file_of_ours_is_named(stored, file, keep):
    (stored / file).write_bytes((stored / file).read_bytes()[:keep])
    with pytest.raises(InputError, match=f"{file}: cannot be read"):
        artifacts.load(stored, "mlp", 2, breast()[2].space)


def test_the_disk_may_be_full(tmp_path, monkeypatch):
    train, val, _ = breast()
    made = registry.make("models", "mlp", FAST["mlp"]).fit(train, val)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="no space left on the disk"):
        artifacts.save(made, tmp_path, "mlp")
    assert list(tmp_path.iterdir()) == []


def solver():
    train, _, _ = breast()
    return LogisticRegression(max_iter=5000).fit(train.x, train.y)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was opened",)


@pytest.mark.parametrize("suffix", sorted(artifacts.PICKLES))
def test_a_pickle_is_not_even_opened_without_the_flag(tmp_path, suffix):
    file = tmp_path / f"m{suffix}"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"can run any code.*--allow-pickle"):
        artifacts.read_estimator(file)


def test_a_pickle_is_read_when_the_user_insists(tmp_path):
    file = tmp_path / "m.pkl"
    file.write_bytes(pickle.dumps(solver()))
    test = breast()[2]
    assert np.array_equal(artifacts.read_estimator(file, allow_pickle=True).predict_proba(test.x),
                          solver().predict_proba(test.x))


def test_skops_with_types_that_run_code_is_refused(tmp_path):
    import skops.io

    file = tmp_path / "m.skops"
    skops.io.dump(FunctionTransformer(func=pytest.fail), file)
    with pytest.raises(InputError, match=r"m.skops: holds types that are not known to be safe: .*_Fail"):
        artifacts.read_estimator(file)


@pytest.mark.parametrize("name", ["m.json", "m.ubj", "m.skops", "m.pkl"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"\x00\xff rubbish"])
def test_a_damaged_model_is_one_line(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"model .*{name}: ") as caught:
        artifacts.Fitted(artifacts.read_estimator(file, allow_pickle=True), str(file)).classifier(breast()[0])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(("name", "message"), [("none.json", "no such file"), ("m.onnx", "unknown kind of file")])
def test_a_file_that_is_none_or_unknown(tmp_path, name, message):
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        artifacts.read_estimator(tmp_path / name)


def test_an_xgboost_file_of_a_user_predicts_as_the_model_did(tmp_path):
    train, val, test = breast()
    made = registry.make("models", "xgboost", FAST["xgboost"]).fit(train, val)
    for name in ("m.json", "m.ubj"):
        made.estimator.save_model(tmp_path / name)
        found = artifacts.Fitted(artifacts.read_estimator(tmp_path / name), name).classifier(train)
        assert np.array_equal(found.predict_proba(test.x), made.predict_proba(test.x))


def test_an_xgboost_model_trained_on_a_data_frame_works(tmp_path):
    import pandas as pd
    from xgboost import XGBClassifier

    train, _, test = breast()
    made = XGBClassifier(n_estimators=5).fit(pd.DataFrame(train.x, columns=train.space.schema.names), train.y)
    made.save_model(tmp_path / "m.json")
    found = artifacts.Fitted(artifacts.read_estimator(tmp_path / "m.json"), "m.json").classifier(train)
    assert np.array_equal(found.predict_proba(test.x),
                          made.predict_proba(pd.DataFrame(test.x, columns=train.space.schema.names)))


class Scores:
    def predict_proba(self, x):
        return np.stack([x[:, 0], x[:, 1]], 1)


class Silent:
    def predict_proba(self, x):
        raise ValueError


def test_a_network_for_colour_names_the_flag_that_grey_images_need():
    grey = Split(np.zeros((4, 1, 8, 8), np.float32), np.arange(4) % 2, Space(0, 1), ("a", "b"), np.arange(4))
    network = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())
    with pytest.raises(InputError, match="takes images with 3 channels, and the data has 1; set --channels 3"):
        artifacts.Fitted(network, "m").classifier(grey)


def narrow():
    train, _, _ = breast()
    return LogisticRegression(max_iter=5000).fit(train.x[:, :4], train.y)


@pytest.mark.parametrize(("model", "message"), [
    (narrow(), "model m fails on this data: X has 30 features, but .* is expecting 4"),
    (Scores(), "model m does not return probabilities: row 0 of 64 has probabilities that sum to"),
    (Silent(), "model m fails on this data: ValueError"),
    (object(), "object has neither predict_proba nor predict"),
    (nn.Linear(30, 3), "returns 3 logits a row, but there are 2 classes"),
    (nn.Linear(4, 2), "model m fails on this data: "),
])
def test_a_model_that_does_not_fit_the_data_is_refused_before_the_run(model, message):
    with pytest.raises(InputError, match=message) as caught:
        artifacts.Fitted(model, "m").classifier(breast()[0])
    assert "\n" not in str(caught.value)


def named(columns, labels):
    """A model that remembers its columns and classes."""
    import pandas as pd

    return LogisticRegression(max_iter=5000).fit(pd.DataFrame(breast()[0].x[:, :len(columns)], columns=columns), labels)


@pytest.mark.parametrize(("change", "message"), [
    (lambda n: [n[1], n[0], *n[2:]], "has the data's columns in another order"),
    (lambda n: [*n[:-1], "weight"], "other columns than the data: .* on worst fractal dimension, .* lacks weight$"),
    (lambda n: n[:-1], "it was not trained on worst fractal dimension$"),
])
def test_a_model_of_other_columns_is_refused(change, message):
    train, names = breast()[0], breast()[0].space.schema.names
    artifacts.Fitted(named(list(names), train.y), "m").classifier(train, features=names)
    with pytest.raises(InputError, match=message):
        artifacts.Fitted(named(change(list(names)), train.y), "m").classifier(train, features=names)


@pytest.mark.parametrize(("labels", "message"), [
    (("benign", "malignant"), None), ((0, 1), None),
    (("sick", "well"), "other classes than the data: it was not trained on benign, malignant, .* lacks sick, well"),
])
def test_a_model_of_other_classes_is_refused(labels, message):
    train = breast()[0]
    model = solver()
    model.classes_ = np.array(labels)
    if message is None:
        assert artifacts.Fitted(model, "m").classifier(train)
    else:
        with pytest.raises(InputError, match=message):
            artifacts.Fitted(model, "m").classifier(train)


def test_named_classes_are_put_into_the_order_of_the_data():
    """Sorted by name the disease may come first; of the data it is the last."""
    train = breast()[0]
    plain, named_ = solver(), solver()
    plain.fit(train.x, train.y)
    named_.fit(train.x, np.array(["well", "ill"])[train.y])  # sorted: ill, well
    ordered = replace(train, classes=("well", "ill"))
    expected = plain.predict_proba(train.x)
    found = artifacts.Fitted(named_, "m").classifier(ordered)
    np.testing.assert_allclose(found.predict_proba(train.x), expected, atol=1e-3)

    class Labels:
        classes_, predict = named_.classes_, named_.predict

    asked = artifacts.Fitted(Labels(), "m").classifier(ordered)
    assert asked.labels_only and (asked.predict(train.x) == expected.argmax(1)).mean() > 0.99


def test_a_narrow_xgboost_model_is_refused_in_one_line(tmp_path):
    from xgboost import XGBClassifier

    train, _, _ = breast()
    XGBClassifier(n_estimators=3).fit(train.x[:, :4], train.y).save_model(tmp_path / "m.json")
    with pytest.raises(InputError, match=r"model m.json fails on this data: .*[Ff]eature") as caught:
        artifacts.Fitted(artifacts.read_estimator(tmp_path / "m.json"), "m.json").classifier(train)
    assert "\n" not in str(caught.value)


def test_a_fitted_network_of_a_user_gives_gradients():
    torch.manual_seed(0)
    made = artifacts.Fitted(nn.Linear(30, 2), "net")
    assert made.offers == ("gradients",)
    assert made.classifier(breast()[0]).predict_proba(breast()[2].x).shape == (114, 2)


def test_a_fitted_model_cannot_be_trained_again():
    with pytest.raises(NotApplicable, match="model m is already trained"):
        artifacts.Fitted(solver(), "m").fit(*breast()[:2])


def test_the_stored_description_is_plain_json(stored):
    about = json.loads((stored / "model.json").read_text())
    assert about["recipe"] == "mlp" and about["params"]["hidden"] == [8] and about["inputs"] == [30]
