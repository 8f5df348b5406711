"""A federation in one process: equal to plain FedAvg and to a central step, with rules and with colluding hospitals."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg, FedTrimmedAvg

from federated.aggregation.aggregate import Mean, Median, TrimmedMean
from federated.aggregation.mixing import Bucketing
from federated.aggregation.rules import FED_ADAM
from federated.aggregation.trust import FLTrust
from federated.attacks.collusion import Collusion
from federated.attacks.hostile import IPM, FreeRider, GaussianUpdate, SignFlip
from federated.flower.client_app import WEIGHTS, hospital, packed
from federated.flower.grid import FIRST, Border, InProcessGrid
from federated.flower.server_app import Joined, of_round, rounds
from federated.flower.simulate import federate
from suite.base.errors import InputError
from tests.support.breast import breast
from tests.support.hospitals import SITES, four, grid, mean, plain, task_of


@pytest.fixture(scope="module")
def whole():
    return breast()


@pytest.fixture(scope="module")
def sites(whole):
    return four(whole[0])


@pytest.fixture(scope="module")
def task(whole):
    return task_of(whole[0])


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
    code = ("import federated.flower.simulate, os; from flwr.supercore import telemetry; "
            "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'], "
            "os.environ['FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION'], os.environ['RAY_USAGE_STATS_ENABLED'])")
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "RAY_"))}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "1", "0"]
