"""A federation in one process: equal to plain FedAvg, to a central step, and not to be broken by a dull hospital."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, MessageType, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg

from federated.aggregate import Mean, Median, TrimmedMean
from federated.client_app import COUNT, WEIGHTS, hospital, packed
from federated.collusion import Collusion
from federated.grid import FIRST, Border, InProcessGrid
from federated.hostile import IPM, FreeRider, GaussianUpdate, SignFlip
from federated.mixing import Bucketing
from federated.record import Record
from federated.rules import FED_ADAM
from federated.server_app import Joined, of_round, rounds
from federated.simulate import federate
from federated.task import Task
from federated.trust import FLTrust
from suite.errors import InputError
from tabular.models import MLP
from tests.breast import breast

SITES = 4


def mean(changes, counts, _=None):
    return (changes * (counts / counts.sum())[:, None]).sum(0)


@pytest.fixture(scope="module")
def whole():
    return breast()


@pytest.fixture(scope="module")
def sites(whole):
    """Hospitals of 20, 40, 60 and the other rows."""
    train, cuts = whole[0], [0, 20, 60, 120, len(whole[0])]
    return [train.take(slice(a, b)) for a, b in pairwise(cuts)]


@pytest.fixture(scope="module")
def task(whole):
    train = whole[0]
    return Task(MLP(hidden=(8,), balanced=False, weight_decay=0.0), train.x.shape[1:], train.classes, train.space)


def grid(task, sites, spoil=None, events=None, **named):
    """A border around hospitals in this process; `spoil(message, reply)` stands between."""
    app = hospital(lambda context: (task, sites[context.node_config["partition-id"]],
                                    context.node_config["partition-id"]))
    if spoil:
        sound = app
        app = lambda message, context: spoil(message, sound(message, context))  # noqa: E731
    absent = named.pop("absent", lambda *_: False)
    counts = {n + FIRST: len(rows) for n, rows in enumerate(sites)}
    told = (lambda what, facts: events.append((what, facts))) if events is not None else (lambda *_: None)
    return Border(InProcessGrid(app, len(sites), absent), task.size, counts, event=told, **named)


def plain(task, sites, number, who=None):
    """FedAvg as anybody would write it."""
    weights = task.initial()
    for turn in range(1, number + 1):
        part = [(n, rows) for n, rows in enumerate(sites) if who is None or n in who]
        counts = torch.tensor([float(len(rows)) for _, rows in part])
        came = torch.from_numpy(weights)
        changes = torch.stack([torch.from_numpy(task.train(weights, rows, n, turn)) - came for n, rows in part])
        weights = (came + mean(changes, counts)).numpy()
    return weights


def test_equals_plain_fedavg_to_the_bit_and_learns(task, sites, whole):
    found = rounds(grid(task, sites), Joined(mean, SITES), task.initial(), 6)
    np.testing.assert_array_equal(found, plain(task, sites, 6))
    test = whole[2]
    right = [(task.classifier(w).predict(test.x) == test.y).mean() for w in (task.initial(), found)]
    assert right[1] > 0.9 > right[0]


def test_flowers_own_fedavg_gives_the_same_but_for_rounding(task, sites):
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=SITES)
    np.testing.assert_allclose(rounds(grid(task, sites), strategy, task.initial(), 3), plain(task, sites, 3), atol=1e-6)


def test_one_full_batch_step_is_a_step_on_all_rows_together(task, sites, whole):
    one = replace(task, batch=10**6)
    found = rounds(grid(one, sites), Joined(mean, SITES), one.initial(), 1)
    module, rows = one.network()[0], whole[0]
    torch.nn.utils.vector_to_parameters(torch.from_numpy(one.initial()), module.parameters())
    F.cross_entropy(module(torch.from_numpy(rows.x)), torch.from_numpy(rows.y)).backward()
    moved = torch.cat([(p.detach() - one.lr * p.grad).flatten() for p in module.parameters()])
    np.testing.assert_allclose(found, moved.numpy(), atol=1e-6)


def test_the_proximal_term_pulls_back_to_what_came_in(task, sites):
    far = [np.linalg.norm(replace(task, epochs=20, proximal=mu).train(task.initial(), sites[0], 0, 1) - task.initial())
           for mu in (0.0, 0.1, 1.0)]
    assert far[0] > far[1] > far[2] > 0


def test_runs_repeat_and_the_order_of_arrival_does_not_matter(task, sites):
    first, again = (rounds(grid(task, sites), Joined(mean, SITES), task.initial(), 2) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other_way = grid(task, sites, tamper=lambda turn, came, replies: replies[::-1])
    turned = rounds(other_way, Joined(mean, SITES), task.initial(), 2)
    np.testing.assert_array_equal(first, turned)
    other = rounds(grid(replace(task, seed=1), sites), Joined(mean, SITES), task.initial(), 2)
    assert not np.array_equal(first, other)


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


@pytest.mark.parametrize("rule", [Mean(), FED_ADAM], ids=["ours", "Flower's"])
def test_a_federation_that_trained_nothing_is_no_model(rule, task, sites):
    events, wild = [], replace(task, lr=1e38)  # all that is sent is refused
    with pytest.raises(InputError, match=r"none of 2 rounds had a result, so that nothing was trained: its change has "
                                         r"a norm of .*, and at most 1000 is let in"):
        federate(wild, sites, rule, 2, event=lambda *told: events.append(told))
    assert [what for what, _ in events].count("no result") == 2


def test_hostile_hospitals_may_keep_everybody_from_training(task, sites):
    """That is what they were after, and it is to be measured."""
    events = []
    found = federate(task, sites, TrimmedMean(1), 2, lambda turn, came, replies: replies[:2],
                     lambda *told: events.append(told))
    np.testing.assert_array_equal(found, task.initial())
    assert [what for what, _ in events] == ["absent", "absent", "no result"] * 2


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


def test_an_app_that_changes_its_message_changes_it_for_itself_only(task, sites):
    seen = []

    def rows(context):
        return task, sites[context.node_config["partition-id"]], context.node_config["partition-id"]

    sound = hospital(rows)

    def app(message, context):
        seen.append(message.content["arrays"][WEIGHTS].numpy()[0])
        reply = sound(message, context)
        message.content["arrays"] = packed(np.full(task.size, 7.0))
        return reply

    rounds(Border(InProcessGrid(app, SITES), task.size), Joined(mean, SITES), task.initial(), 1)
    assert len(set(seen)) == 1


def test_a_rule_that_too_few_have_answered_for_leaves_the_model_as_it_was(task, sites):
    events, rule = [], TrimmedMean(1)
    with pytest.raises(InputError, match="TrimmedMean"):
        Joined(rule, 2)
    half = grid(task, sites, events=events, absent=lambda number, message: number > 1)
    kept = rounds(half, Joined(rule, SITES, event=lambda *told: events.append(told)), task.initial(), 1)
    np.testing.assert_array_equal(kept, task.initial())
    assert events[-1][0] == "no result" and events[-1][1]["answered"] == 2


def test_random_rules_draw_anew_each_round():
    rule = Bucketing(2, Mean(), seed=5)
    first, again, second = (of_round(rule, turn) for turn in (1, 1, 2))
    assert first == again and first.seed != second.seed and first.then == Mean()


def test_a_rule_gets_the_last_change_as_its_reference(task, sites):
    seen = []

    def rule(changes, counts, reference):
        seen.append(reference)
        return mean(changes, counts)

    rounds(grid(task, sites), Joined(rule, SITES), task.initial(), 2)
    assert seen[0] is None
    np.testing.assert_allclose(seen[1].numpy(), plain(task, sites, 1) - task.initial(), atol=1e-6)
    with pytest.raises(InputError, match="FLTrust"):
        federate(task, sites, FLTrust(), 1)


def test_colluders_repeat_with_their_seed_also_when_they_are_used_again(task, sites):
    noisy = Collusion(GaussianUpdate(1.0), frozenset({0, 3}))
    first, again = (federate(task, sites, Mean(), 2, noisy) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    lazy = Collusion(FreeRider(), frozenset({2}))
    np.testing.assert_array_equal(*(federate(task, sites, Mean(), 3, lazy) for _ in range(2)))
    other = federate(task, sites, Mean(), 2, replace(noisy, seed=1))
    assert not np.array_equal(first, other)


def test_a_federation_of_nobody_is_refused(task):
    with pytest.raises(InputError, match="needs hospitals, and there are none"):
        federate(task, [], Mean(), 1)


def test_nobody_answers_and_the_model_stays(task, sites):
    found = rounds(grid(task, sites, absent=lambda *_: True), Joined(mean, SITES), task.initial(), 2)
    np.testing.assert_array_equal(found, task.initial())


def test_a_hospital_that_changes_nothing_is_let_in(task, sites):
    """A free rider, or one with nothing to learn: its zero counts, and nothing is divided by it."""
    def same(message, reply):
        if message.metadata.dst_node_id == FIRST:
            reply.content["arrays"] = ArrayRecord({WEIGHTS: Array(message.content["arrays"][WEIGHTS].numpy())})
        return reply

    events = []
    found = rounds(grid(task, sites, same, events), Joined(mean, SITES), task.initial(), 1)
    came = torch.from_numpy(task.initial())
    changes = torch.stack([torch.from_numpy(task.train(task.initial(), rows, n, 1)) - came if n else 0 * came
                           for n, rows in enumerate(sites)])
    wanted = came + mean(changes, torch.tensor([float(len(rows)) for rows in sites]))
    np.testing.assert_array_equal(found, wanted.numpy())
    assert events == []


def test_flowers_trimmed_mean_runs_here_too(task, sites):
    strategy = FedTrimmedAvg(fraction_evaluate=0.0, min_available_nodes=SITES, beta=0.25)
    found = rounds(grid(task, sites), strategy, task.initial(), 1)
    came = task.initial()
    trained = np.sort([task.train(came, rows, n, 1) for n, rows in enumerate(sites)], 0)
    np.testing.assert_allclose(found, trained[1:3].mean(0), atol=1e-6)


def test_colluding_hospitals_send_what_the_attack_makes_of_everybodys_updates(task, sites):
    """By hand: one of four turns its own update round, three times as long."""
    found = rounds(grid(task, sites, tamper=Collusion(SignFlip(3.0), frozenset({1}))), Joined(mean, SITES),
                   task.initial(), 1)
    came = torch.from_numpy(task.initial())
    changes = torch.stack([torch.from_numpy(task.train(task.initial(), rows, n, 1)) - came
                           for n, rows in enumerate(sites)])
    changes[1] *= -3
    wanted = came + mean(changes, torch.tensor([float(len(rows)) for rows in sites]))
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("attack", [SignFlip(5.0), IPM(3.0)], ids=lambda a: type(a).__name__)
def test_a_robust_rule_bears_an_attack_that_takes_the_mean_over(attack, task, whole):
    train, test, right = whole[0], whole[2], []
    for rule in (Mean(), Median()):
        equal = [train.take(slice(k, None, 6)) for k in range(6)]
        found = federate(task, equal, rule, 40, Collusion(attack, frozenset({5})))
        right.append((task.classifier(found).predict(test.x) == test.y).mean())
    assert right[1] > 0.85 > right[0] + 0.1


def test_one_call_is_the_same_federation(task, sites):
    np.testing.assert_array_equal(federate(task, sites, mean, 2), plain(task, sites, 2))


def test_flower_is_kept_off_the_network():
    """In a fresh process: Flower reads its switches when it is imported, so ours have to be there before."""
    code = ("import federated.simulate, os; from flwr.supercore import telemetry; "
            "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'], "
            "os.environ['FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION'], os.environ['RAY_USAGE_STATS_ENABLED'])")
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "RAY_"))}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "1", "0"]
