"""The federation as a Flower app: in process on a grid that looks like Flower's, by Ray, and deployed over TLS."""

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Error, Message, RecordDict

from federated import certificates
from federated.aggregate import Mean, TrimmedMean
from federated.deployment import PATIENTS, Agreement, carry_out, configuration, fingerprint, hospital_app
from federated.grid import FIRST, Border, InProcessGrid
from federated.journal import verify
from federated.loopback import Loopback, free_port
from federated.roster import Roster
from federated.secure import SecAggPlus
from federated.server_app import Joined, rounds
from federated.simulate import federate
from suite import artifacts
from suite.errors import InputError
from tabular.data import shipped_schema
from tabular.synthetic import generate

APP = Path(__file__).parents[2] / "examples" / "federation_app"
NAMES = ("north", "south")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the rows of two hospitals, 300 and 468 synthetic patients, and the app."""
    folder = tmp_path_factory.mktemp("federation")
    table = generate(seed=0)
    for name, part in zip(NAMES, (table[:300], table[300:]), strict=True):
        (folder / name).mkdir()
        part.to_csv(folder / name / PATIENTS, index=False)
    (folder / "app").mkdir()
    for name in ("pyproject.toml", "hospital_app.py"):
        (folder / "app" / name).write_bytes((APP / name).read_bytes())
    shipped_schema("pima").save(folder / "app" / "schema.toml")
    return folder


@pytest.fixture
def config(place, tmp_path):
    return configuration(place / "app") | {
        "hospitals": ", ".join(NAMES), "target": "Outcome", "classes": "0, 1", "rounds": 3, "data": str(place),
        "model-params": '{"hidden": [8]}', "out": str(tmp_path / "out")}


def alone(agreement, place, absent=lambda *_: False):
    """The same federation in this process, from the same files."""
    rows = [agreement.read(place / name).train for name in agreement.hospitals]
    if not any(absent(k, turn) for k in range(len(rows)) for turn in range(1, agreement.rounds + 1)):
        return federate(agreement.task, rows, agreement.joining(), agreement.rounds)
    from federated.client_app import TURN, hospital
    app = hospital(lambda context: (agreement.task, rows[context.node_config["partition-id"]],
                                    context.node_config["partition-id"]))
    grid = InProcessGrid(app, len(rows), lambda k, message: absent(k, message.content["config"][TURN]))
    return rounds(Border(grid, agreement.task.size), Joined(agreement.joining(), len(rows)),
                  agreement.task.initial(), agreement.rounds)


def journal_of(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


class LikeFlowers(InProcessGrid):
    """Node numbers and an order that Flower draws, names that keys were registered with."""

    def __init__(self, app, place, config, names, nodes=(9_000_000_000_000_000_000, 71), offline=lambda: ()):
        super().__init__(app, len(nodes))
        given = [{"hospital": name, "data": str(place / name)} for name in names]
        self.contexts = {node: Context(run_id=1, node_id=node, node_config=own, state=RecordDict(), run_config=config)
                         for node, own in zip(nodes, given, strict=True)}
        self._nodes = [SimpleNamespace(node_id=node, name=name, registered_at=str(k))
                       for k, (node, name) in enumerate(zip(nodes, names, strict=True))]
        self._offline = offline

    def get_nodes(self):
        offline = self._offline()
        return [node for node in self._nodes if node.name not in offline]


def run_here(place, config, **named):
    agreement = Agreement.of(config, place / "app")
    names = named.pop("names", NAMES)
    return agreement, carry_out(agreement, LikeFlowers(hospital_app(place / "app"), place, config, names, **named))


def test_the_app_trains_the_model_of_the_grid_in_one_process_to_the_bit(place, config, capsys):
    agreement, found = run_here(place, config)
    np.testing.assert_array_equal(found, alone(agreement, place))
    out = Path(agreement.out)
    model = artifacts.load(out / "model", agreement.model, 2, agreement.table.space())
    test = agreement.read(place / "south").test
    wanted = agreement.task.classifier(found)
    np.testing.assert_array_equal(model.predict_proba(test.x), wanted.predict_proba(test.x))
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("head "))
    assert verify(out / "journal.jsonl", head.removeprefix("head ")) == 5
    entries = journal_of(out)
    assert [e["event"] for e in entries] == ["start", "round", "round", "round", "end"]
    assert entries[0]["agreement"]["hospitals"] == list(NAMES)
    assert all(e["asked"] == e["answered"] == list(NAMES) for e in entries[1:4])
    assert entries[-1]["weights"] == fingerprint(found)


def test_the_order_and_numbers_of_nodes_do_not_matter(place, config):
    first = run_here(place, config)[1]
    other = run_here(place, config, names=NAMES[::-1], nodes=(5, 6))[1]
    np.testing.assert_array_equal(first, other)


def test_secure_aggregation_gives_the_same_but_for_rounding(place, config):
    agreement, found = run_here(place, config | {"secure": True, "rounds": 1, "most-rows": 300})
    error = SecAggPlus(300).error([len(agreement.read(place / name).train) for name in NAMES])
    np.testing.assert_allclose(found, alone(agreement, place), atol=error + 1e-7)
    assert error < 1e-5
    assert not np.array_equal(found, agreement.task.initial())


def test_who_was_offline_is_missing_in_that_round_only(place, config):
    asked = []

    def offline():
        asked.append(1)
        return ("south",) if len(asked) == 2 else ()

    agreement, found = run_here(place, config, offline=offline)
    np.testing.assert_array_equal(found, alone(agreement, place, lambda k, turn: k == 1 and turn == 2))
    assert [e["answered"] for e in journal_of(Path(agreement.out)) if e["event"] == "round"] == [
        ["north", "south"], ["north"], ["north", "south"]]


def test_a_round_waits_for_the_least_number_of_hospitals(place, config):
    asked = []

    def offline():
        asked.append(1)
        return ("south",) if len(asked) == 2 else ()

    agreement, found = run_here(place, config | {"least": 2}, offline=offline)
    assert len(asked) == 4
    np.testing.assert_array_equal(found, alone(agreement, place))


def test_strangers_are_not_asked_and_two_of_one_name_are_refused(place, config):
    agreement = Agreement.of(config, place / "app")
    grid = LikeFlowers(hospital_app(place / "app"), place, config, (*NAMES, "west"), (5, 6, 7))
    told = []
    roster = Roster(grid, NAMES, event=lambda *e: told.append(e))
    assert roster.get_node_ids() == roster.get_node_ids() == [FIRST, FIRST + 1]
    assert told == [("stranger", {"name": "west"})]
    twice = Roster(LikeFlowers(hospital_app(place / "app"), place, config, ("south", "south"), (5, 6)), NAMES)
    with pytest.raises(InputError, match="two SuperNodes are registered as hospital 'south'"):
        twice.get_node_ids()
    assert agreement.hospitals == NAMES


def test_a_reply_that_flower_makes_up_for_a_lost_node_is_that_hospitals(place, config):
    grid = LikeFlowers(hospital_app(place / "app"), place, config, NAMES)

    class Losing(type(grid)):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            lost = Message(Error(4, "node_unavail"), reply_to=messages[1])
            lost.metadata.__dict__["_src_node_id"] = 1
            return [replies[0], lost]

    grid.__class__ = Losing
    agreement = Agreement.of(config, place / "app")
    carry_out(agreement, grid)
    refused = [e for e in journal_of(Path(agreement.out)) if e["event"] == "refused"]
    assert [(e["hospital"], e["why"]) for e in refused] == [("south", "it failed: node_unavail")] * 3


def test_a_hospitals_data_error_stays_at_the_hospital(place, config, tmp_path, capfd):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / PATIENTS).write_bytes((place / name / PATIENTS).read_bytes())
    text = (tmp_path / "south" / PATIENTS).read_text().splitlines()
    cells = text[5].split(",")
    cells[-2] = "177"  # a patient's age
    (tmp_path / "south" / PATIENTS).write_text("\n".join([*text[:5], ",".join(cells), *text[6:]]))
    agreement = Agreement.of(config, place / "app")
    carry_out(agreement, LikeFlowers(hospital_app(place / "app"), tmp_path, config, NAMES))
    refused = [e for e in journal_of(Path(agreement.out)) if e["event"] == "refused"]
    assert len(refused) == 3
    assert {e["hospital"] for e in refused} == {"south"}
    assert "177" not in json.dumps(refused)
    told = capfd.readouterr().err
    assert "error: hospital 'south': patients.csv:" in told
    assert "177" in told


def test_a_label_that_nobody_agreed_on_is_refused_and_a_missing_one_is_not(place, config):
    three = Agreement.of(config | {"classes": "1, 0, 2"}, place / "app")
    own, other = three.read(place / "north").train, Agreement.of(config, place / "app").read(place / "north").train
    assert own.classes == ("1", "0", "2")
    np.testing.assert_array_equal(own.y, 1 - other.y)
    with pytest.raises(InputError, match="'Outcome' holds '0', which is none of the agreed classes 1, 2"):
        Agreement.of(config | {"classes": "1, 2"}, place / "app").read(place / "north")


@pytest.mark.parametrize(("change", "line"), [
    ({"hospitals": "a, a"}, "hospitals: .* no list of different names"),
    ({"rounds": 0}, "rounds: "),
    ({"model-params": "{"}, "model-params: "),
    ({"colour": 1}, "colour: "),
    ({"model": "xgboost", "model-params": "{}"}, "'xgboost' is no network"),
    ({"rule": "average"}, "unknown aggregation 'average'"),
    ({"rule": "trimmed-mean", "rule-params": '{"bad": "x"}'}, "'trimmed-mean': bad: "),
    ({"rule": "median", "secure": True}, "secure aggregation gives the mean only"),
    ({"out": "here"}, "absolute folder"),
], ids=lambda value: "" if isinstance(value, str) else "-".join(value))
def test_a_wrong_agreement_is_refused_in_one_line(place, config, change, line):
    with pytest.raises(InputError, match=line) as told:
        run_here(place, config | change)
    assert "\n" not in str(told.value)


def test_rules_come_with_their_parameters(place, config):
    made = Agreement.of(config | {"rule": "trimmed-mean", "rule-params": '{"bad": 1}'}, place / "app")
    assert made.joining() == TrimmedMean(bad=1)
    assert Agreement.of(config, place / "app").joining() == Mean()


def test_a_port_in_use_and_an_expired_certificate_are_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"port \d+ is in use"), Loopback(tmp_path, taken.getsockname()[1]):
            pass
    certificates.make(tmp_path / "keys", ("127.0.0.1",), 1, datetime.now(UTC) - timedelta(days=3))
    with pytest.raises(InputError, match=r"ca\.pem expired on"), Loopback(tmp_path) as here:
        pass
    assert not list(tmp_path.glob("*.log"))
    assert "here" not in locals()


def until(ready, seconds=400):
    """Wait, with patience for machines that others share."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@pytest.mark.slow
def test_two_hospitals_over_tls_survive_that_one_of_them_is_killed(place, config, tmp_path):
    """A SuperLink learns of a crash a minute after the last sign of life, which is most of this test's time."""
    config |= {"least": 2, "rounds": 2, "data": ""}
    foreign = tmp_path / "foreign"
    certificates.make(foreign, ("127.0.0.1",))
    out = Path(config["out"])

    def finished():
        return [e for e in journal_of(out) if e["event"] == "round"] if (out / "journal.jsonl").exists() else []

    with Loopback(tmp_path) as here:
        here.register(*NAMES)
        for name in NAMES:
            here.start(name, place / name)
        here.start_run(place / "app", config)
        here.wait_for(*NAMES)
        until(lambda: any("Receiving: train" in line for line in here.said("south")))
        here.stop("south", signal.SIGKILL)
        here.start("stranger", place / "north", patience=0)  # while the SuperLink waits
        with pytest.raises(InputError, match="stranger did not start: the SuperLink does not let its key in"):
            here.wait_for("stranger")
        here.start("deceived", place / "north", foreign / "ca.pem", patience=0)
        with pytest.raises(InputError, match="deceived did not start: it does not trust the SuperLink"):
            here.wait_for("deceived")
        until(lambda: len(finished()) == 1)
        here.start("south", place / "south")
        here.wait_for("south")
        until(lambda: here.processes["run"].poll() is not None)
        lines = here.said("run")
    assert not here.left()
    assert [(e["asked"], e["answered"]) for e in finished()] == [(list(NAMES), ["north"]), (list(NAMES), list(NAMES))]
    agreement = Agreement.of(config, place / "app")
    wanted = alone(agreement, place, lambda k, turn: k == 1 and turn == 1)
    assert finished()[-1]["weights"] == fingerprint(wanted), "the deployed model is that of one process, to the bit"
    head = next(line for line in lines if line.startswith("head ")).removeprefix("head ")
    assert verify(out / "journal.jsonl", head) == len(journal_of(out))
    model = artifacts.load(out / "model", agreement.model, 2, agreement.table.space())
    test = agreement.read(place / "south").test
    np.testing.assert_array_equal(model.predict(test.x), agreement.task.classifier(wanted).predict(test.x))


@pytest.mark.slow
def test_nothing_is_left_when_the_program_that_started_it_is_killed(tmp_path):
    program = """if True:
        import os, pathlib, signal, sys
        from federated.loopback import Loopback
        with Loopback(pathlib.Path(sys.argv[1]), simulation=True) as here:
            print(len(here.left()) > 0, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    here = Loopback(tmp_path)
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=here.environment | {"FLWR_HOME": ""},
                          capture_output=True, text=True, timeout=400)
    assert (done.stdout, done.returncode) == ("True\n", -signal.SIGKILL), done.stderr
    until(lambda: not here.left(), 60)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra 'simulation')")
def test_flowers_simulation_gives_the_same_model(place, config, tmp_path):
    """Plainly to the bit; with secure aggregation but for rounding."""
    federation = ["num-supernodes=2", "client-resources-num-cpus=1", "init-args-num-cpus=2"]
    masked = config | {"secure": True, "rounds": 1, "most-rows": 300, "out": str(tmp_path / "masked")}
    agreement, once = (Agreement.of(c, place / "app") for c in (config, masked))
    with Loopback(tmp_path, free_port(), simulation=True) as here:
        here.run(place / "app", config, federation)
        here.run(place / "app", masked, federation)
    assert not here.left()
    wanted = alone(agreement, place)
    assert journal_of(Path(config["out"]))[-1]["weights"] == fingerprint(wanted)
    model = artifacts.load(Path(masked["out"]) / "model", agreement.model, 2, agreement.table.space())
    found = np.concatenate([p.detach().numpy().ravel() for p in model.module.parameters()])
    error = SecAggPlus(300).error([len(agreement.read(place / name).train) for name in NAMES])
    np.testing.assert_allclose(found, alone(once, place), atol=error + 1e-7)
