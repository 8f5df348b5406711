"""The border against a hospital that means harm: types, sizes, words and counts of its replies."""

import json

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from federated.deployment import supernode
from federated.deployment.agreement import Agreement
from federated.deployment.deployment import carry_out, hospital_app
from federated.flower.client_app import COUNT, WEIGHTS, packed
from federated.flower.grid import FIRST, MAX_HEADER, MAX_ITEM, MAX_TEXT, one_line
from federated.flower.server_app import Joined, rounds
from suite.base.errors import InputError
from tests.support.breast import breast
from tests.support.deployed import NAMES, configured, journal_of, make_place
from tests.support.hospitals import SITES, four, grid, mean, plain, task_of
from tests.support.like_flowers import LikeFlowers


@pytest.fixture(scope="module")
def sites():
    return four(breast()[0])


@pytest.fixture(scope="module")
def task():
    return task_of(breast()[0])


def from_one(change, kind=MessageType.TRAIN):
    """The hospital with number 1 sends something else, always."""
    def spoil(message, reply):
        if message.metadata.dst_node_id == 1 + FIRST and message.metadata.message_type == kind:
            return change(message, reply) or reply
        return reply

    return spoil


def config_as_metrics(_, reply):
    reply.content["metrics"] = ConfigRecord({COUNT: 40})


def arrays_as_config(_, reply):
    reply.content["arrays"] = ConfigRecord({WEIGHTS: b"x"})


@pytest.mark.parametrize("kind", [None, FedAvg, FedMedian, FedAdam])
@pytest.mark.parametrize(("change", "why"), [
    (config_as_metrics, "its metrics are a ConfigRecord, and no MetricRecord"),
    (arrays_as_config, "its arrays are a ConfigRecord, and no ArrayRecord")], ids=["metrics", "arrays"])
def test_a_record_of_another_type_is_an_event_and_no_crash(change, why, kind, task, sites):
    events = []
    strategy = kind(fraction_evaluate=0.0, min_available_nodes=SITES) if kind else Joined(mean, SITES)
    found = rounds(grid(task, sites, from_one(change), events), strategy, task.initial(), 2)
    assert np.isfinite(found).all() and not np.array_equal(found, task.initial())
    assert events == [("refused", {"hospital": 1, "why": why})] * 2


def test_it_is_an_event_too_where_hospitals_judge_the_model(task, sites):
    def change(_, reply):
        reply.content["metrics"] = ConfigRecord({COUNT: 40, "accuracy": 0.5})

    events = []
    FedAvg(min_available_nodes=SITES).start(grid=grid(task, sites, from_one(change, MessageType.EVALUATE), events),
                                            initial_arrays=packed(task.initial()), num_rounds=1)
    assert events == [("refused", {"hospital": 1, "why": "its metrics are a ConfigRecord, and no MetricRecord"})]


def many(_, reply):
    reply.content["metrics"] = MetricRecord({f"metric {n} \x1b]52;c;aGk=\x07 " + "x" * 60: 1.0 for n in range(100_000)})


def records(_, reply):
    for n in range(10_000):
        reply.content[f"record {n}"] = MetricRecord({"x": 1})


def listed(_, reply):
    reply.content["metrics"] = MetricRecord({COUNT: [1] * 100_000})


def vast(_, reply):
    reply.content["metrics"] = MetricRecord({COUNT: 10**4000})


def shouting(message, _):
    text = "\n\x1b[2Jerror: all is lost\nround 9 of 9  answered north\nhead "
    return Message(Error(2, text + "0" * 10**6), reply_to=message)


@pytest.mark.parametrize("change", [many, records, listed, vast, shouting])
def test_what_a_hospital_writes_takes_one_short_line(change, task, sites):
    events = []
    rounds(grid(task, sites, from_one(change), events), Joined(mean, SITES), task.initial(), 1)
    (what, facts), = events
    assert what == "refused"
    assert len(facts["why"]) <= MAX_TEXT
    assert facts["why"].isprintable(), "no line break and no control of a terminal"


def test_a_journal_and_a_log_hold_no_line_of_a_hospitals_own(tmp_path, capsys):
    place = make_place(tmp_path)
    config = configured(place, tmp_path / "out") | {"rounds": 1}
    sound = hospital_app(place / "app")
    app = lambda message, context: (shouting(message, None) if context.node_config["hospital"] == "south"  # noqa: E731
                                    else sound(message, context))
    carry_out(Agreement.of(config, place / "app"), LikeFlowers(app, place, config, NAMES))
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["refused", "round", "head"]
    assert said[0].startswith(r"refused  south  it failed: \n\x1b[2Jerror: all is lost\nround 9")
    assert max(len(json.dumps(entry)) for entry in journal_of(tmp_path / "out")) < 2000


def test_arrays_larger_than_the_model_are_refused_before_they_are_read(task, sites, monkeypatch):
    """16 times as many numbers; the header of another shape hides how many."""
    def change(_, reply):
        reply.content["arrays"] = ArrayRecord({WEIGHTS: Array(np.zeros((16, task.size), np.float32))})

    events, read, most = [], Array.numpy, MAX_HEADER + MAX_ITEM * task.size
    monkeypatch.setattr(Array, "numpy",
                        lambda array: pytest.fail("it was read") if len(array.data) > most else read(array))
    rounds(grid(task, sites, from_one(change), events), Joined(mean, SITES), task.initial(), 1)
    (_, facts), = events
    assert facts["why"] == f"it holds {128 + 64 * task.size} bytes of arrays, and {task.size} float32 are wanted"


def claims(numbers):
    """What hospital 1 claims, round by round."""
    left = list(numbers)

    def change(_, reply):
        reply.content["metrics"] = MetricRecord({COUNT: left.pop(0)})

    return from_one(change)


def test_more_rows_than_declared_are_refused_and_fewer_are_not(task, sites):
    events = []
    border = grid(task, sites, claims([40, 41, 39]), events)
    rounds(border, Joined(mean, SITES), task.initial(), 3)
    assert events == [("refused", {"hospital": 1, "why": "num-examples is 41, and may be from 1 to 40"})]


def test_declared_rows_are_part_of_what_is_agreed(tmp_path):
    place = make_place(tmp_path)
    config = configured(place, tmp_path / "out") | {"rounds": 1}
    agreement = Agreement.of(config | {"rows": "180, 279"}, place / "app")
    carry_out(agreement, LikeFlowers(hospital_app(place / "app"), place, config, NAMES))
    rows = len(agreement.read(place / "south").train)
    assert agreement.rows == (180, 279) and rows > 279
    refused = [e for e in journal_of(tmp_path / "out") if e["event"] == "refused"]
    assert [(e["hospital"], e["why"]) for e in refused] == [
        ("south", f"num-examples is {rows}, and may be from 1 to 279")]
    with pytest.raises(InputError, match="rows: 1 numbers for 2 hospitals"):
        Agreement.of(config | {"rows": "180"}, place / "app")
    for rows in ({}, {"rows": ""}):  # or a first claim would be anybody's
        with pytest.raises(InputError, match=r"^run configuration: rows: "):
            Agreement.of({k: v for k, v in config.items() if k != "rows"} | rows, place / "app")


def test_a_hospital_counts_the_rows_that_it_declares(tmp_path, capsys):
    place, policy = make_place(tmp_path), tmp_path / "policy.toml"
    app = place / "app" / "pyproject.toml"
    app.write_text(app.read_text().replace('"disease"', '"Outcome"').replace('"no heart disease, heart disease"',
                                                                             '"0, 1"'))
    policy.write_text(f'data = "{place / "north"}"\n')
    assert supernode.main(["rows", str(place / "app"), str(policy)]) == 0
    assert capsys.readouterr().out == "180\n"
    policy.write_text("")
    assert supernode.main(["rows", str(place / "app"), str(policy)]) == 2
    assert "data: missing" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "limit", "line"), [
    ("scanner offline", 20, "scanner offline"), ("Zürich 医院", 20, "Zürich 医院"), ("\ud800", 20, r"\ud800"),
    ("a\nb\r\x1b[1m\u202e\x00", 50, r"a\nb\r\x1b[1m\u202e\x00"), ("x" * 30, 20, "x" * 19 + "…"),
    ("\n" * 15, 20, "\\n" * 9 + "\\…")])
def test_one_line_is_printable_and_short(text, limit, line):
    assert one_line(text, limit) == line


def test_nobody_else_is_hurt(task, sites):
    found = rounds(grid(task, sites, from_one(many)), Joined(mean, SITES), task.initial(), 1)
    np.testing.assert_array_equal(found, plain(task, sites, 1, who={0, 2, 3}))
