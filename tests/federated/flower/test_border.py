"""The border: a dull, broken or silent hospital is an event and no crash, and its bytes are counted."""

import re

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, MessageType, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedMedian

from federated.core.record import Record
from federated.flower.client_app import COUNT, WEIGHTS, packed
from federated.flower.grid import FIRST
from federated.flower.server_app import Joined, rounds
from tests.support.breast import breast
from tests.support.hospitals import SITES, four, grid, mean, plain, task_of


@pytest.fixture(scope="module")
def train():
    return breast()[0]


@pytest.fixture(scope="module")
def sites(train):
    return four(train)


@pytest.fixture(scope="module")
def task(train):
    return task_of(train)



def spoiled(change):
    """The hospital with number 1 sends something else in the second round."""
    def spoil(message, reply):
        if message.metadata.dst_node_id == 1 + FIRST and message.content["config"]["server-round"] == 2:
            change(reply.content)
        return reply

    return spoil


def weights_of(value, dtype=np.float32):
    def change(content):
        old = content["arrays"][WEIGHTS].numpy()
        content["arrays"] = ArrayRecord({WEIGHTS: Array(np.asarray(value(old), dtype))})

    return change


def count_of(value):
    def change(content):
        content["metrics"] = MetricRecord({COUNT: value})

    return change


def drop(name):
    def change(content):
        del content[name]

    return change


def metrics(**values):
    def change(content):
        content["metrics"] = MetricRecord(values)

    return change


def rename(old, new):
    def change(content):
        content[new] = content[old]
        del content[old]

    return change


def arrays(**values):
    def change(content):
        content["arrays"] = ArrayRecord(values)

    return change


DULL = {
    "NaN": (weights_of(lambda w: np.where(np.arange(len(w)) == 3, np.nan, w)), "norm of nan"),
    "infinite": (weights_of(lambda w: w + np.inf), "norm of inf"),
    "huge": (weights_of(lambda w: w + 1e9), "and at most 1000 is let in"),
    "short": (weights_of(lambda w: w[:-1]), "parameters are float32 of shape"),
    "double": (weights_of(lambda w: w, np.float64), "parameters are float64"),
    "count": (count_of(10**9), "num-examples is 1000000000, and may be from 1 to 40"),
    "negative": (count_of(-5), "num-examples is -5"),
    "zero": (count_of(0), "num-examples is 0"),
    "fraction": (count_of(3.5), "num-examples is 3.5"),
    "no metrics": (drop("metrics"), "it holds arrays$"),
    "no arrays": (drop("arrays"), "it holds metrics$"),
    "no count": (metrics(rows=40), "it tells rows, and num-examples is wanted"),
    "one metric more": (metrics(**{COUNT: 40, "loss": 0.5}), "it tells loss, num-examples"),
    "beyond all numbers": (count_of(10**30), "num-examples is 1000000000000000000000000000000"),
    "another name": (rename("arrays", "model"), "it holds metrics, model"),
    "another array": (arrays(bias=Array(np.zeros(3, np.float32))), "other arrays than weights"),
    "junk": (arrays(**{WEIGHTS: Array("float32", (3,), "numpy.ndarray", b"junk")}), "cannot be read: ValueError"),
    "torch's own": (arrays(**{WEIGHTS: Array("float32", (3,), "torch", b"junk")}), "cannot be read: TypeError"),
}


@pytest.mark.parametrize("strategy", [lambda: Joined(mean, SITES),
                                      lambda: FedMedian(fraction_evaluate=0.0, min_available_nodes=SITES)],
                         ids=["ours", "FedMedian"])
@pytest.mark.parametrize("name", DULL)
def test_a_broken_reply_is_an_event_and_no_crash(name, strategy, task, sites):
    change, why = DULL[name]
    events = []
    found = rounds(grid(task, sites, spoiled(change), events), strategy(), task.initial(), 3)
    assert np.isfinite(found).all()
    (what, facts), = events
    assert what == "refused" and facts["hospital"] == 1
    assert re.search(why, facts["why"]), facts["why"]


def test_the_others_go_on_without_it(task, sites):
    change, _ = DULL["NaN"]
    found = rounds(grid(task, sites, spoiled(change)), Joined(mean, SITES), task.initial(), 2)
    first = plain(task, sites, 1)
    came = torch.from_numpy(first)
    part = [0, 2, 3]
    changes = torch.stack([torch.from_numpy(task.train(first, sites[n], n, 2)) - came for n in part])
    wanted = came + mean(changes, torch.tensor([float(len(sites[n])) for n in part]))
    np.testing.assert_array_equal(found, wanted.numpy())


def test_a_crash_and_an_absence_are_events(task, sites):
    def crash(message, reply):
        if message.metadata.dst_node_id == FIRST:
            raise RuntimeError("scanner offline")
        return reply

    events = []
    found = rounds(grid(task, sites, crash, events, absent=lambda number, _: number == 2), Joined(mean, SITES),
                   task.initial(), 1)
    np.testing.assert_array_equal(found, plain(task, sites, 1, who={1, 3}))
    assert events == [("absent", {"hospital": 2}),
                      ("refused", {"hospital": 0, "why": "it failed: RuntimeError: scanner offline"})]


def test_a_replayed_message_counts_once(task, sites):
    events = []
    twice = grid(task, sites, events=events, tamper=lambda turn, came, replies: [*replies, replies[0]])
    np.testing.assert_array_equal(rounds(twice, Joined(mean, SITES), task.initial(), 1), plain(task, sites, 1))
    assert events == [("refused", {"hospital": 0, "why": "it has answered already"})]


def test_what_is_kept_back_by_hostile_hospitals_is_absent_too(task, sites):
    """One never answers, another is told to keep quiet after it has."""
    events = []
    quiet = grid(task, sites, events=events, absent=lambda number, _: number == 0,
                 tamper=lambda turn, came, replies: [r for r in replies if r.metadata.src_node_id != FIRST + 2])
    np.testing.assert_array_equal(rounds(quiet, Joined(mean, SITES), task.initial(), 1),
                                  plain(task, sites, 1, who={1, 3}))
    assert events == [("absent", {"hospital": 0}), ("absent", {"hospital": 2})]


def test_bytes_are_those_of_each_hospital_whether_or_not_it_was_let_in(task, sites):
    """By hand: one is absent, one crashes, one sends half of its parameters, and the last all of them."""
    def spoil(message, reply):
        if message.metadata.dst_node_id == FIRST + 1:
            raise RuntimeError("scanner offline")
        if message.metadata.dst_node_id == FIRST + 2:
            reply.content["arrays"] = packed(reply.content["arrays"][WEIGHTS].numpy()[:task.size // 2])
        return reply

    told = []
    some = grid(task, sites, spoil, absent=lambda number, _: number == 0, done=lambda *facts: told.append(facts))
    rounds(some, Joined(mean, SITES), task.initial(), 1)
    (what, facts), = told
    assert what == "round" and facts["asked"] == [0, 1, 2, 3] and facts["answered"] == [3]
    whole = 128 + 4 * task.size  # NumPy's header is 128 bytes
    assert facts["bytes asked"] == whole and facts["bytes answered"] == [0, 0, 128 + 4 * (task.size // 2), whole]
    record = Record(list("abcd"), [1] * SITES)
    record.done(what, facts)
    assert (record.sent - whole).tolist() == facts["bytes answered"]


def test_an_old_answer_is_none_to_a_new_question(task, sites):
    kept, events = {}, []

    def replay(turn, came, replies):
        kept.setdefault("old", replies[1])
        return [kept["old"] if reply.metadata.src_node_id == 1 + FIRST else reply for reply in replies]

    rounds(grid(task, sites, events=events, tamper=replay), Joined(mean, SITES), task.initial(), 3)
    assert events == [("refused", {"hospital": 1, "why": "it answers another message"})] * 2


def test_a_reply_that_calls_itself_something_else_is_refused(task, sites):
    """Else its parameters would not be looked at."""
    def disguise(message, reply):
        if message.metadata.dst_node_id == FIRST:
            weights_of(lambda w: w * np.nan)(reply.content)
            reply.metadata.message_type = MessageType.EVALUATE
        return reply

    events = []
    found = rounds(grid(task, sites, disguise, events), Joined(mean, SITES), task.initial(), 1)
    np.testing.assert_array_equal(found, plain(task, sites, 1, who={1, 2, 3}))
    assert events == [("refused", {"hospital": 0, "why": "it answers another message"})]


def test_hospitals_also_judge_the_model_on_their_own_rows(task, sites):
    """Flower's own strategy asks them; one that answers with a list is refused."""
    def spoil(message, reply):
        if message.metadata.message_type == MessageType.EVALUATE and message.metadata.dst_node_id == FIRST:
            reply.content["metrics"] = MetricRecord({"accuracy": [1.0], COUNT: 20})
        return reply

    events = []
    result = FedAvg(min_available_nodes=SITES).start(grid=grid(task, sites, spoil, events),
                                                     initial_arrays=packed(task.initial()), num_rounds=1)
    model = task.classifier(plain(task, sites, 1))
    right = [int((model.predict(rows.x) == rows.y).sum()) for rows in sites[1:]]
    wanted = sum(right) / sum(len(rows) for rows in sites[1:])
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(wanted, abs=0.02)
    assert events == [("refused", {"hospital": 0, "why": "its accuracy is [1.0]"})]
