"""Secure aggregation: the sum is that of the updates, nobody's update is sent, and one who leaves is left out."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.common import bytes_to_ndarray

from federated.grid import InProcessGrid
from federated.secure import LEVELS, SecAggPlus, hospital, rounds
from federated.task import Task
from suite.errors import InputError
from tabular.models import MLP
from tests.breast import breast

SITES = 4


@pytest.fixture(scope="module")
def sites():
    """Hospitals of 20, 40, 60 and 120 rows."""
    train = breast()[0]
    return [train.take(slice(a, b)) for a, b in pairwise([0, 20, 60, 120, 240])]


@pytest.fixture(scope="module")
def task(sites):
    return Task(MLP(hidden=(8,)), sites[0].x.shape[1:], sites[0].classes, sites[0].space)


def grid(task, sites, absent=lambda *_: False, spy=lambda *_: None):
    masked = hospital(lambda context: (task, sites[context.node_config["partition-id"]],
                                       context.node_config["partition-id"]))

    def watched(message, context):
        reply = masked(message, context)
        spy(context.node_config["partition-id"], reply)
        return reply

    made = InProcessGrid(watched, len(sites), absent)
    made.set_run(SimpleNamespace(run_id=1))
    return made


def plain(task, sites, number, who=range(SITES)):
    """The weighted mean of what hospitals would send in the open, in float64."""
    weights = task.initial()
    for turn in range(1, number + 1):
        counts = np.array([len(sites[k]) for k in who], np.float64)
        changes = np.stack([task.train(weights, sites[k], k, turn).astype(np.float64) - weights for k in who])
        weights = (weights + (counts / counts.sum()) @ changes).astype(np.float32)
    return weights


def test_the_sum_is_that_of_the_updates_to_the_last_level(task, sites):
    by = SecAggPlus(most=120)
    found, wanted = rounds(grid(task, sites), task, SITES, 1, by), plain(task, sites, 1)
    assert np.abs(wanted - task.initial()).max() > 0.01
    error = by.error([len(s) for s in sites])
    assert error == pytest.approx(4 * 3 / LEVELS * 120 / 240)
    assert 0 < np.abs(found - wanted).max() <= error + 1e-7


def test_more_rows_than_needed_to_count_cost_digits(task, sites):
    wanted = plain(task, sites, 1)
    fine, coarse = (np.abs(rounds(grid(task, sites), task, SITES, 1, SecAggPlus(most)) - wanted).max()
                    for most in (120, 120_000))
    assert coarse > 100 * fine


def test_changes_beyond_the_clip_are_cut_off(task, sites):
    found = rounds(grid(task, sites), task, SITES, 1, SecAggPlus(most=120, clip=1e-3))
    assert np.abs(found - task.initial()).max() < np.abs(plain(task, sites, 1) - task.initial()).max() / 2


def test_what_is_sent_looks_random_and_another_each_time(task, sites):
    sent = []

    def spy(number, reply):
        packed = reply.content.config_records["secaggplus_configs"]
        if number == 0 and "masked_params" in packed:
            sent.append(bytes_to_ndarray(packed["masked_params"][1]))

    for _ in range(2):
        rounds(grid(task, sites, spy=spy), task, SITES, 1, SecAggPlus(most=120))
    first, second = (vector.astype(np.float64) for vector in sent)
    assert len(first) == task.size
    open_ = task.train(task.initial(), sites[0], 0, 1) - task.initial()
    for vector in (first, second):
        assert abs(np.corrcoef(vector, open_)[0, 1]) < 0.2
        assert abs(vector.mean() / 2**32 - 0.5) < 0.1
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_one_who_leaves_in_the_middle_is_left_out_and_the_others_sum_is_right(task, sites):
    events = []

    def absent(number, message):
        stage = message.content.config_records["secaggplus_configs"]["stage"]
        return number == 1 and stage in ("collect_masked_vectors", "unmask")

    by = SecAggPlus(most=120)
    found = rounds(grid(task, sites, absent), task, SITES, 1, by, event=lambda *told: events.append(told))
    np.testing.assert_allclose(found, plain(task, sites, 1, (0, 2, 3)), atol=by.error([20, 60, 120]) + 1e-7)
    assert events == [("absent", {"hospital": 1})]


def test_a_round_that_too_many_leave_changes_nothing(task, sites):
    events = []

    def absent(number, message):
        return number in (1, 2) and message.content.config_records["secaggplus_configs"]["stage"] == "unmask"

    found = rounds(grid(task, sites, absent), task, SITES, 1, SecAggPlus(most=120),
                   event=lambda *told: events.append(told))
    np.testing.assert_array_equal(found, task.initial())
    assert events == [("no result", {"round": 1, "why": "too few hospitals stayed for the sum"})]


def test_a_hospital_with_more_rows_than_agreed_leaves_instead_of_overflowing(task, sites):
    events = []
    by = SecAggPlus(most=60)
    found = rounds(grid(task, sites), task, SITES, 1, by, event=lambda *told: events.append(told))
    np.testing.assert_allclose(found, plain(task, sites, 1, (0, 1, 2)), atol=by.error([20, 40, 60]) + 1e-7)
    assert events == [("absent", {"hospital": 3})]


def test_several_rounds_stay_near(task, sites):
    found = rounds(grid(task, sites), task, SITES, 3, SecAggPlus(most=120))
    np.testing.assert_allclose(found, plain(task, sites, 3), atol=1e-3)


@pytest.mark.parametrize("wrong", [{"most": 0}, {"most": 9, "clip": 0.0}, {"most": 9, "threshold": 0.5}], ids=str)
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(InputError, match="secure aggregation needs"):
        SecAggPlus(**wrong)

