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

from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg

from federated.aggregate import Mean, Median
from federated.client_app import COUNT, WEIGHTS, hospital
from federated.collusion import Collusion
from federated.grid import FIRST, Border, InProcessGrid
from federated.hostile import IPM, SignFlip
from federated.server_app import Joined, rounds
from federated.simulate import federate
from federated.task import Task
from tabular.models import MLP
from tests.breast import breast

SITES = 4


def mean(changes, counts):
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
    other_way = grid(task, sites, tamper=lambda came, replies: replies[::-1])
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


DULL = {
    "NaN": (weights_of(lambda w: np.where(np.arange(len(w)) == 3, np.nan, w)), "norm of nan"),
    "infinite": (weights_of(lambda w: w + np.inf), "norm of inf"),
    "huge": (weights_of(lambda w: w + 1e9), "and at most 1e\\+06 is let in"),
    "short": (weights_of(lambda w: w[:-1]), "parameters are float32 of shape"),
    "double": (weights_of(lambda w: w, np.float64), "parameters are float64"),
    "count": (count_of(10**9), "num-examples is 1000000000, and may be from 1 to 40"),
    "negative": (count_of(-5), "num-examples is -5"),
    "zero": (count_of(0), "num-examples is 0"),
    "fraction": (count_of(3.5), "num-examples is 3.5"),
    "no metrics": (drop("metrics"), "tells no num-examples"),
    "no arrays": (drop("arrays"), "other arrays than weights"),
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
    assert events == [("refused", {"hospital": 0, "why": "it failed: RuntimeError: scanner offline"}),
                      ("absent", {"hospital": 2})]


def test_a_replayed_message_counts_once(task, sites):
    events = []
    twice = grid(task, sites, events=events, tamper=lambda came, replies: [*replies, replies[0]])
    np.testing.assert_array_equal(rounds(twice, Joined(mean, SITES), task.initial(), 1), plain(task, sites, 1))
    (what, facts), = events
    assert what == "refused" and facts["why"] == "it has answered already"


def test_nobody_answers_and_the_model_stays(task, sites):
    found = rounds(grid(task, sites, absent=lambda *_: True), Joined(mean, SITES), task.initial(), 2)
    np.testing.assert_array_equal(found, task.initial())


def test_a_hospital_that_changes_nothing_is_let_in(task, sites):
    """A free rider, or one with nothing to learn: no division by its zero update."""
    def same(message, reply):
        reply.content["arrays"] = ArrayRecord({WEIGHTS: Array(message.content["arrays"][WEIGHTS].numpy())})
        return reply

    found = rounds(grid(task, sites, same), Joined(mean, SITES), task.initial(), 1)
    np.testing.assert_array_equal(found, task.initial())


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
