"""A broken or hostile model: it changes no data, none of its wrong answers counts, and it ends no audit."""

import json
import re
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from suite.attacks.gradient import PGD
from suite.audit import gate
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base.errors import InputError
from suite.core import classifier as module_under_test
from suite.core.batches import batch_size
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from suite.models import artifacts
from suite.results import metrics
from suite.training.features import Penultimate
from tabular.data import breast_cancer

SPACE = Space(-9.0, 9.0)
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


class Scaling:
    """Scales its input in place, and hands out the same buffer each time."""

    def __init__(self):
        self.buffer = np.zeros((40, 2))

    def predict_proba(self, x):
        x *= 0.5
        self.buffer[:len(x), 1] = 1 / (1 + np.exp(-x[:, 0]))
        self.buffer[:, 0] = 1 - self.buffer[:, 1]
        return self.buffer[:len(x)]


class ScalingNetwork(nn.Module):
    def __init__(self, silent=False):
        super().__init__()
        self.silent, self.linear = silent, nn.Linear(3, 2)

    def forward(self, x):
        (x.data if self.silent else x).mul_(0.5)  # PyTorch does not notice the first
        return self.linear(x)


def test_an_estimator_that_writes_into_its_input_changes_nothing():
    model, x = EstimatorClassifier(Scaling(), 2, SPACE), X.copy()
    first = model.predict_proba(x)
    assert np.array_equal(x, X) and np.allclose(first[:, 1], 1 / (1 + np.exp(-X[:, 0] / 2)))
    kept = first.copy()
    model.predict_proba(-x)
    assert np.array_equal(first, kept)
    frozen = X.copy()
    frozen.flags.writeable = False
    assert np.array_equal(model.predict_proba(frozen), kept)


def halved(kind):
    """A linear layer whose input is halved in place by something that is no part of its class."""
    linear = nn.Linear(3, 2)
    if kind == "method":
        linear.forward = lambda x: F.linear(x.mul_(0.5), linear.weight, linear.bias)
    if kind == "hook":
        linear.register_forward_hook(lambda _, inputs, __: (inputs[0].data.mul_(0.5), None)[1])
    if kind == "pre-hook":
        linear.register_forward_pre_hook(lambda _, inputs: (inputs[0].data.mul_(0.5), None)[1])
    return linear


@pytest.mark.parametrize("network", [
    ScalingNetwork(), ScalingNetwork(silent=True), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)),
    nn.Sequential(nn.Flatten(), ScalingNetwork()), *map(halved, ["method", "hook", "pre-hook"]),
    nn.Sequential(halved("method"), nn.ReLU()), nn.Sequential(halved("hook"), nn.ReLU())])
def test_a_network_that_writes_into_its_input_changes_nothing(network):
    model, x = TorchClassifier(network, 2, SPACE), torch.from_numpy(X.copy())
    y = model.judge(x)
    model.predict_proba(x.numpy())
    model.gradient(x, lambda z: z[:, 0])
    model.pull(x, lambda z: [torch.ones_like(z)])
    model.logits(x)
    batch_size(model, x)
    Penultimate(network)(x)
    PGD(eps=0.5, steps=3)(model, x, y)
    assert np.array_equal(x.numpy(), X)


def test_networks_trained_here_are_spared_the_copy(monkeypatch):
    model = TorchClassifier(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 2, SPACE)
    seen = []
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: (seen.append(x.data_ptr()), F.linear(
        x, self.weight, self.bias))[1])
    x = torch.from_numpy(X)
    model.scores(x)
    assert seen[0] == x.data_ptr()


def test_networks_of_the_users_own_never_see_the_inputs_themselves(monkeypatch):
    """Whatever their first layer looks like; and the time limit holds for each of their queries."""
    seen, module = [], nn.Sequential(nn.Linear(3, 2))
    model = TorchClassifier(module, 2, SPACE, recipe=artifacts.Fitted(module, "own"))
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: (seen.append(x.data_ptr()), time.sleep(0.4), F.linear(
        x, self.weight, self.bias))[2])
    x = torch.from_numpy(X)
    model.scores(x)
    assert seen and x.data_ptr() not in seen
    model.time_limit = 0.1
    with pytest.raises(InputError, match=r"model own took longer than 0.1 s"):
        model.scores(x)


def test_passes_without_autograd_leave_a_method_of_its_own_alone():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    module[0].forward = lambda x: F.linear(2 * x, module[0].weight, module[0].bias)
    model, x = TorchClassifier(module, 2, SPACE), torch.from_numpy(X)
    logits, _ = model.pull(x, lambda z: [torch.ones_like(z)])
    assert torch.equal(logits, model.scores(x))


def answers(row, value):
    proba = np.full((100, 2), 0.5)
    proba[row] = value

    class Odd:
        def predict_proba(self, x):
            return proba[:len(x)]

    return EstimatorClassifier(Odd(), 2, SPACE)


@pytest.mark.parametrize(("value", "message"), [
    ((np.nan, 0.5), "row 77 of 100 has the probability nan"),
    ((-0.2, 1.2), "row 77 of 100 has the probability -0.2"),
    ((0.6, 0.6), "row 77 of 100 has probabilities that sum to 1.2"),
    ((np.inf, 0.0), "row 77 of 100 has probabilities that sum to inf"),
    ((0.0, 0.0), "row 77 of 100 has probabilities that sum to 0"),
])
def test_no_wrong_probability_is_accepted_at_any_row(value, message):
    model = answers(77, value)
    for ask in (model.predict_proba, model.predict, lambda x: model.scores(torch.from_numpy(x)),
                lambda x: model.judge(torch.from_numpy(x))):
        with pytest.raises(InputError, match=f"model Odd does not return probabilities: {message}"):
            ask(np.zeros((100, 3)))
    assert model.predict_proba(np.zeros((70, 3))).shape == (70, 2)


def test_rounding_is_accepted():
    assert answers(3, (0.50005, 0.49999)).predict_proba(np.zeros((10, 3)))[3, 0] == 0.50005
    assert answers(3, (-1e-9, 1.0)).predict_proba(np.zeros((10, 3))).shape == (10, 2)


class Breaks(nn.Module):
    """Logits are the input, and `value` where the first column is above 3."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.where(x[:, :1] > 3, self.value, x[:, :2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_logit_that_is_not_finite_is_accepted_anywhere(value):
    model, x = TorchClassifier(Breaks(value), 2, SPACE), torch.zeros(9, 3)
    x[5, 0] = 4
    x.requires_grad_()
    for ask in (model.scores, model.judge, model.logits, lambda x: model.predict_proba(x.detach().numpy()),
                lambda x: model.predict(x.detach().numpy()), lambda x: model.gradient(x, lambda z: z[:, 0]),
                lambda x: model.pull(x, lambda z: [torch.ones_like(z)])):
        with pytest.raises(InputError, match=f"model Breaks returned a logit .* row 5 of 9 has {value:g}"):
            ask(x)
    assert model.scores(x[:5]).shape == (5, 2)


def test_elsewhere_than_on_the_cpu_steps_do_not_wait_and_the_last_answer_tells(monkeypatch):
    model, x = TorchClassifier(Breaks(np.nan), 2, SPACE), torch.zeros(9, 3)
    model._device = torch.device("meta")  # any that is not the CPU
    broken = x.clone()
    broken[5, 0] = 4
    looks = []
    look = module_under_test.check_logits
    monkeypatch.setattr(module_under_test, "check_logits", lambda *a: (looks.append(a), look(*a)))
    for _ in range(module_under_test.PENDING - 1):
        model.gradient(broken, lambda z: z[:, 0])
    assert not looks
    with pytest.raises(InputError, match="row 5 of 9 has nan"):
        model.gradient(x, lambda z: z[:, 0])
    model.scores(x)  # what was told once is not told again
    model.gradient(broken, lambda z: z[:, 0])
    with pytest.raises(InputError, match="row 5 of 9 has nan"):
        model.scores(x)


def test_logits_of_another_shape_are_refused_later_too():
    class Shrinks(nn.Module):
        def forward(self, x):
            return x[:, :2] if len(x) <= 4 else x[:, :1]

    model = TorchClassifier(Shrinks(), 2, SPACE)
    model.scores(torch.zeros(4, 3))
    with pytest.raises(InputError, match=r"model Shrinks returned logits of shape \(5, 1\) for 5 rows and 2 columns"):
        model.scores(torch.zeros(5, 3))


@pytest.mark.parametrize("kind", ["estimator", "network"])
def test_a_query_that_takes_too_long_or_ends_the_process_is_an_error_of_the_model(kind):
    does = [lambda: time.sleep(60), lambda: (_ for _ in ()).throw(SystemExit(3))]

    class Own(nn.Module):
        def forward(self, x):
            does[0]()

        def predict_proba(self, x):
            does[0]()

    model = (TorchClassifier if kind == "network" else EstimatorClassifier)(Own(), 2, SPACE)
    model.time_limit = 0.2
    with pytest.raises(InputError, match=r"model Own took longer than 0.2 s for one query; --time-limit"):
        model.predict(X)
    del does[0]
    model.time_limit = 60  # a busy machine may not take what ends at once for what takes too long
    with pytest.raises(InputError, match=r"model Own called sys.exit\(3\)"):
        model.predict(X)


@pytest.fixture(scope="module")
def data():
    return breast_cancer()


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(metrics.bootstrap, "__defaults__", (0, None, 20))


def plan(model, **fields):
    return Plan.check({"data": "breast-cancer", "models": [model], "attacks": ["noise"], "rows": 70, "eps": 0.1,
                       "budgets": [0.1]} | fields, "test")


@pytest.mark.parametrize(("does", "error"), [
    ("sys.exit(4)", r"called sys.exit\(4\)"),
    ("raise GeneratorExit", "GeneratorExit"),
    ("proba[65] = np.nan", "row 65 of .* has the probability nan"),
    ("time.sleep(600)", "took longer than 2 s for one query"),
    ("os.chdir('/')", None),
])
def test_in_an_audit_it_is_an_error_row_and_the_run_goes_on(data, tmp_path, monkeypatch, few_resamples, does, error):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.py"
    own.write_text(
        "import os\nimport sys\nimport time\nimport numpy as np\n\n\nclass Own:\n    def predict_proba(self, x):\n"
        "        proba = np.full((len(x), 2), 0.5)\n        if len(x) > 64:\n"
        f"            {does}\n        return proba\n\n\nown = Own()\n")
    # only what sleeps is to meet the limit, however busy the machine is; and it needs not be quick before it does
    audit = Audit(plan(f"{own}:own", time_limit=2 if "sleep" in does else 60), data, "")
    run = audit.run("run")
    assert (tmp_path / "run" / "measurements.jsonl").is_file()
    assert all(run.done(cell.key) for cell in audit.cells)
    errors = [row.error for row in run.rows() if row.metric == "error"]
    if error is None:
        assert not errors
    else:
        assert len(errors) == len(audit.cells)
        assert any(re.search(error, said) for said in errors)
        with pytest.raises(InputError):
            gate.check(run, ["robust_accuracy >= 0"], False)


def test_an_attack_that_ends_the_process_is_an_error_row_too(data, tmp_path, few_resamples):
    own = tmp_path / "attack.py"
    own.write_text("import sys\nfrom dataclasses import dataclass\nfrom suite.attacks.noise import RandomNoise\n\n\n"
                   "@dataclass(frozen=True)\nclass Own(RandomNoise):\n    def __call__(self, *_):\n"
                   "        sys.exit(5)\n")
    audit = Audit(plan("naive-bayes", attacks=[f"{own}:Own", "noise"]), data, "")
    rows = audit.run(tmp_path / "run").rows()
    error, = {row.error for row in rows if row.metric == "error"}
    assert error.startswith("SystemExit: 5 (attack.py:")
    assert any(row.attack == "noise" and row.metric == "robust_accuracy" for row in rows)


def test_a_run_folder_does_not_choose_the_code_that_runs(data, tmp_path, few_resamples):
    audit = Audit(plan("naive-bayes"), data, "")
    run = audit.run(tmp_path / "run")
    evil = tmp_path / "x.py"
    evil.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nX = 1\n")
    folder = run.model("naive-bayes--none--fit")
    file, ours = folder / "model.json", (folder / "model.json").read_text()
    file.write_text(json.dumps(json.loads(ours) | {"recipe": f"{evil}:X"}))
    with pytest.raises(InputError, match=r"x.py:X', and the plan says 'naive-bayes'; nothing of it was run"):
        artifacts.load(folder, "naive-bayes", 2, data.space)
    (run.folder / "cells" / "naive-bayes--none--noise.json").unlink()
    again = Audit(plan("naive-bayes"), data, "").run(tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    assert not again.failed()
    assert again.verify().whole, "the model was not as it was sealed, and was trained again"
    file.write_text(ours)
    with pytest.raises(InputError, match="holds the model 'naive-bayes', and the plan says 'mlp'"):
        artifacts.load(folder, "mlp", 2, data.space)
