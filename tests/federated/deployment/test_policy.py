"""What a hospital refuses to do for a server that asks for too much, whatever the server's own code says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from federated.deployment.agreement import PATIENTS, Agreement, configuration
from federated.deployment.deployment import ANSWERED, hospital_app
from federated.deployment.policy import Policy, Refused
from federated.flower.client_app import COUNT, TURN, packed, unpacked
from suite.base.errors import InputError
from tabular.data import shipped_schema
from tabular.synthetic import generate
from tests.support.deployed import APP

SIZE = 8 * 8 + 8 + 8 * 2 + 2
"""Parameters of 8 inputs, 8 hidden units and 2 classes."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    (folder / "north").mkdir()
    generate(seed=0)[:200].to_csv(folder / "north" / PATIENTS, index=False)
    (folder / "app").mkdir()
    (folder / "app" / "pyproject.toml").write_bytes((APP / "pyproject.toml").read_bytes())
    shipped_schema("pima").save(folder / "app" / "schema.toml")
    return folder


@pytest.fixture
def config(place):
    return configuration(place / "app") | {"hospitals": "north", "target": "Outcome", "classes": "0, 1",
                                           "model-params": '{"hidden": [8]}', "rounds": 3, "seed": 1, "rows": "120"}


@pytest.fixture
def ask(place, config, tmp_path):
    """Send one message to a hospital with a policy; returns the reply, or raises what Flower would send back."""
    state = RecordDict()

    def send(change=None, policy="", weights=None, turn=1, kind=MessageType.TRAIN, node=None):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        file = tmp_path / "policy.toml"
        file.write_text(f'hospital = "north"\ndata = {json.dumps(str(place / "north"))}\n{policy}')
        weights = np.zeros(SIZE, np.float32) if weights is None else weights
        content = RecordDict({"arrays": packed(weights), "config": ConfigRecord({TURN: turn})})
        context = Context(run_id=1, node_id=2, state=state, run_config=config | (change or {}),
                          node_config=node if node is not None else {"policy": str(file)})
        return hospital_app(place / "app")(Message(content, 2, kind), context)

    send.state = state
    return send


def test_a_run_within_the_limits_is_trained(ask):
    reply = ask()
    assert reply.content["metrics"][COUNT] == 120
    assert np.abs(unpacked(reply.content["arrays"])).max() > 0


@pytest.fixture
def steps(monkeypatch):
    """Rows of each step of training that a hospital takes."""
    taken, entropy = [], torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda scores, labels, **named: (
        taken.append(len(labels)), entropy(scores, labels, **named))[1])
    return taken


@pytest.mark.parametrize(("batch", "policy", "taken"), [
    (119, "", [120]), (32, "", [32, 32, 32, 24]), (32, "min-batch = 25", [32, 32, 56]), (113, "", [120]),
    (112, "", [112, 8]), (200, "", [120])])
def test_no_step_is_of_fewer_patients_than_the_policy_says(batch, policy, taken, ask, steps):
    ask({"batch": batch, "epochs": 2}, policy)
    assert steps == 2 * taken, "of 120 rows"


def test_a_table_of_fewer_rows_than_a_step_needs_is_refused(ask, steps, capfd):
    with pytest.raises(InputError, match=r"^not allowed by the hospital's policy: min-batch$"):
        ask({"batch": 128}, "min-batch = 121")
    assert "the table has 120 training rows, at least 121 are needed" in capfd.readouterr().err
    assert not steps
    ask({"batch": 128}, "min-batch = 120")
    assert steps == [120]


HOSTILE = {
    "a billion epochs": ({"epochs": 10**9}, "epochs", "1e+09 was asked for, at most 50"),
    "rounds without end": ({"rounds": 10**9}, "rounds", "at most 500"),
    "a learning rate that destroys": ({"lr": 1e30}, "lr", "at most 1 is allowed"),
    "one patient at a time": ({"batch": 1}, "batch", "at least 8"),
    "all rows at once": ({"batch": 10**9}, "batch", "at most 4096"),
    "an epoch of 1e6 steps": ({"epsilon": 1.0, "rows": str(10**7), "public-rows": 10**7}, "public-rows", "at most 1"),
    "a pull of 1e9": ({"proximal": 1e9}, "proximal", "at most 10"),
    "a network of 7 GB": ({"model-params": '{"hidden": [40000, 40000]}'}, "model-params", "parameters, at most"),
    "a size that overflows": ({"model-params": '{"hidden": [999999999999, 999999999999]}'}, "model-params",
                              "Input should be less than"),
    "a million layers": ({"model-params": json.dumps({"hidden": [1] * 10**6})}, "model-params", "characters"),
    "another registered model": ({"model": "vgg19", "model-params": "{}"}, "model", "allowed are mlp"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_asks_for_too_much_is_refused_before_a_row_is_read(name, ask, place, capfd, monkeypatch):
    change, key, line = HOSTILE[name]
    monkeypatch.setattr(Agreement, "read", lambda *_: pytest.fail("a row was read"))
    with pytest.raises(InputError) as told:
        ask(change)
    assert str(told.value) == f"not allowed by the hospital's policy: {key}", "no limit and no path of the hospital"
    here = capfd.readouterr().err.splitlines()
    assert len(here) == 1 and here[0].startswith(f"error: {key}: "), here
    assert line in here[0]


def test_a_python_file_is_never_a_model(ask, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass M: pass\n")
    name = f"{tmp_path / 'evil.py'}:M"
    with pytest.raises(InputError, match="not allowed by the hospital's policy: model"):
        ask({"model": name, "model-params": "{}"})
    assert not (tmp_path / "ran").exists(), "its code was run"
    path = tmp_path / "own.toml"
    path.write_text(f"models = [{json.dumps(name)}]")
    with pytest.raises(InputError, match="is a file; give names of registered networks"):
        Policy.load(path)


@pytest.mark.parametrize("weights", [
    np.full(SIZE, np.nan, np.float32), np.full(SIZE, np.inf, np.float32), np.full(SIZE, 1e30, np.float32),
    np.zeros(SIZE - 1, np.float32), np.zeros(10 * SIZE, np.float32)], ids=["NaN", "inf", "huge", "short", "long"])
@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_parameters_that_are_none_are_refused(weights, kind, ask):
    with pytest.raises(InputError, match="not allowed by the hospital's policy: weights"):
        ask(weights=weights, kind=kind)


def test_no_more_rounds_are_answered_than_agreed_however_they_are_numbered(ask):
    for _ in range(3):
        ask(turn=1)
    with pytest.raises(InputError, match="not allowed by the hospital's policy: round"):
        ask(turn=2)
    assert dict(ask.state[ANSWERED]) == {"train": 3}


@pytest.mark.parametrize("turn", [0, 4, -1, 10**6])
def test_a_round_that_was_not_agreed_is_refused(turn, ask):
    with pytest.raises(InputError, match="not allowed by the hospital's policy: round"):
        ask(turn=turn)


def test_the_hospital_alone_says_where_its_rows_are(ask, place, capfd):
    with pytest.raises(InputError) as told:
        ask({"data": str(place)}, node={"hospital": "north"})
    assert "the log of its SuperNode says why" in str(told.value)
    assert "no data: name the folder as 'data' in the hospital's policy" in capfd.readouterr().err


def test_the_label_can_be_held_fast(ask):
    with pytest.raises(InputError, match="not allowed by the hospital's policy: target"):
        ask({"target": "Age"}, 'target = "Outcome"')
    ask(policy='target = "Outcome"')


def test_differential_privacy_can_be_demanded(ask):
    for epsilon in (0.0, 8.5):
        with pytest.raises(InputError, match="not allowed by the hospital's policy: epsilon"):
            ask({"epsilon": epsilon}, "max-epsilon = 8.0")
    reply = ask({"epsilon": 8.0}, "max-epsilon = 8.0")
    assert reply.content["metrics"][COUNT] == 100, "rounded down: the number itself would not be private"
    assert "spent" in ask.state, "the hospital keeps account of it"


def test_runs_are_counted_over_restarts(ask, tmp_path, capfd):
    limits = f'ledger = "{tmp_path / "ledger"}"\nmax-runs = 2'
    for _ in range(2):
        ask(policy=limits, turn=1)
        ask(policy=limits, turn=2)
        ask.state.clear()  # another run, or a restart
    with pytest.raises(InputError, match=r"^not allowed by the hospital's policy: max-runs$"):
        ask(policy=limits)
    assert "max-runs: 2 runs were answered, and 2 are allowed" in capfd.readouterr().err
    assert len((tmp_path / "ledger").read_text().splitlines()) == 2
    assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o600
    (tmp_path / "ledger").write_text("x")
    with pytest.raises(InputError, match="the hospital failed"):
        ask(policy=limits)
    assert "ledger: is damaged" in capfd.readouterr().err


def test_epsilon_adds_up_over_runs(ask, tmp_path):
    limits = f'ledger = "{tmp_path / "ledger"}"\nmax-epsilon = 8.0\nmax-total-epsilon = 15.0'
    ask({"epsilon": 8.0}, limits)
    ask.state.clear()
    with pytest.raises(InputError, match="not allowed by the hospital's policy: max-total-epsilon"):
        ask({"epsilon": 7.5}, limits)
    ask({"epsilon": 7.0}, limits)


def test_nothing_local_reaches_the_server_where_something_else_fails(ask, monkeypatch, capfd):
    def fail(*_):
        raise RuntimeError("/srv/secret/patients.csv: row 12\nerror: all is well")

    monkeypatch.setattr("federated.task.task.Task.train", fail)
    with pytest.raises(InputError, match=r"^the hospital failed; the log of its SuperNode says why$"):
        ask()
    assert capfd.readouterr().err.splitlines() == [
        r"error: RuntimeError: /srv/secret/patients.csv: row 12\nerror: all is well"]


@pytest.mark.parametrize(("text", "line"), [
    ("colour = 1", "colour: "), ("max-lr = nan", "max-lr: "), ("max-epochs = 0", "max-epochs: "),
    ('apps = ["abc"]', r"apps\.0: "), ('data = "here"', "not an absolute folder"), ("max-lr", "is not TOML"),
    ("min-batch = 10\nmax-batch = 9", "min-batch: 10 is above max-batch"), ("max-runs = 2", "name it as 'ledger'"),
    ('ledger = "x"', "ledger: 'x' is not an absolute path"),
    ('ledger = "/x"\nmax-total-epsilon = 9.0', "max-total-epsilon: set max-epsilon too"),
], ids=lambda text: text.split(" ")[0])
def test_a_wrong_policy_is_refused_in_one_line(text, line, tmp_path):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(InputError, match=line) as told:
        Policy.load(tmp_path / "policy.toml")
    assert "policy.toml" in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="no such file"):
        Policy.load(tmp_path / "none.toml")


def test_a_large_network_is_counted_without_memory_for_it(place, config):
    """17 GB, and as much again for its gradient."""
    huge = Agreement.of(config | {"model-params": '{"hidden": [65536, 65536]}'}, place / "app")
    with pytest.raises(Refused) as told:
        Policy().check_size(huge.task)
    assert told.value.detail.startswith("model-params: 4295753730 parameters")
    small = SimpleNamespace(recipe=huge.task.recipe, inputs=(8,), classes=("0", "1"))
    Policy(**{"max-parameters": 5 * 10**9}).check_size(small)
