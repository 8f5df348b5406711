"""Secure aggregation: the sum is that of the updates, nobody's update is sent, and one who leaves is left out."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import bytes_to_ndarray, ndarray_to_bytes

from federated.flower.grid import InProcessGrid
from federated.flower.secure import LEVELS, SecAggPlus, hospital, rounds
from federated.task.task import Task
from suite.base.errors import InputError
from tabular.models import MLP
from tests.support.breast import breast

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


def plain(task, sites, number, who=range(SITES), first=1):
    """The weighted mean of what hospitals would send in the open, in float64."""
    weights = task.initial()
    for turn in range(first, number + 1):
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


def spoiled(task, sites, stage, spoil, who=2):
    """A grid in which one hospital's reply in a stage is what `spoil` makes of it."""
    made = grid(task, sites)
    app = made._app

    def hostile(message, context):
        number, asked = context.node_config["partition-id"], message.content.config_records["secaggplus_configs"]
        at = asked["stage"]
        reply = app(message, context)
        if number == who and at == stage:
            content = RecordDict(dict(reply.content))
            spoil(content)
            return Message(content, reply_to=message)
        return reply

    made._app = hostile
    return made


def _config(**entries):
    def spoil(content):
        content["secaggplus_configs"] = ConfigRecord(dict(content["secaggplus_configs"]) | entries)
    return spoil


def _array(values):
    return ndarray_to_bytes(np.asarray(values))


def _drop(name):
    return lambda content: content.pop(name)


def _put(name, record):
    return lambda content: content.__setitem__(name, record)


HOSTILE = {
    "no record": ("setup", _drop("secaggplus_configs")),
    "a metric for a record": ("setup", _put("secaggplus_configs", MetricRecord({"pk1": 1, "pk2": 2}))),
    "numbers for keys": ("setup", _config(pk1=1, pk2=2)),
    "no key": ("setup", _config(pk1=b"x")),
    "the same key twice": ("setup", lambda content: _config(pk2=content["secaggplus_configs"]["pk1"])(content)),
    "a key of a megabyte": ("setup", _config(pk1=b"x" * 2**20)),
    "many entries": ("setup", _config(**{f"k{i}": 1 for i in range(100)})),
    "another record": ("setup", _put("more", MetricRecord({"a": 1}))),
    "too few shares": ("share_keys", _config(dsts=[2], ctxts=[b"x"])),
    "lists of two lengths": ("share_keys", _config(ctxts=[])),
    "a number for a list": ("share_keys", _config(dsts=1)),
    "strangers": ("share_keys", _config(dsts=[7, 8, 9])),
    "a share of a megabyte": ("share_keys", _config(ctxts=[b"x" * 2**20] * 3)),
    "no numbers": ("collect_masked_vectors", _config(masked_params=[])),
    "another size": ("collect_masked_vectors", _config(masked_params=[_array([1]), _array([1, 2])])),
    "a pickle": ("collect_masked_vectors", _config(masked_params=[b"\x80\x04N.", b"\x80\x04N."])),
    "real numbers": ("collect_masked_vectors", lambda content: _config(masked_params=[_array([0.5]), content[
        "secaggplus_configs"]["masked_params"][1]])(content)),
    "beyond the modulus": ("collect_masked_vectors", lambda content: _config(masked_params=[_array([2**40]), content[
        "secaggplus_configs"]["masked_params"][1]])(content)),
    "no count": ("collect_masked_vectors", _drop("fitres.num_examples")),
    "a count of a billion": ("collect_masked_vectors",
                             _put("fitres.num_examples", MetricRecord({"num_examples": 10**9}))),
    "a list for a count": ("collect_masked_vectors", _put("fitres.num_examples", MetricRecord({"num_examples": [1]}))),
    "no status": ("collect_masked_vectors", _drop("fitres.status")),
    "arrays for the status": ("collect_masked_vectors", _put("fitres.status", ArrayRecord({"a": Array(np.ones(3))}))),
    "metrics": ("collect_masked_vectors", _put("fitres.metrics", ConfigRecord({"x" * 1000: 1}))),
    "what is not masked": ("collect_masked_vectors", _put("more", ArrayRecord({"a": Array(np.ones(3))}))),
    "no shares": ("unmask", _config(nids=[], shares=[])),
    "shares of strangers": ("unmask", _config(nids=[11, 12, 13, 14])),
    "text for a share": ("unmask", lambda content: _config(shares=["x"] * 4)(content)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_who_breaks_the_protocol_is_named_and_left_out(task, sites, name):
    stage, spoil = HOSTILE[name]
    events, by, early = [], SecAggPlus(most=120), stage in ("setup", "share_keys")
    found = rounds(spoiled(task, sites, stage, spoil), task, SITES, 1 + early, by,
                   event=lambda *told: events.append(told))
    what, facts = events.pop(0)
    assert [other[0] for other in events] == ["no result"] * early
    assert what == "refused" and facts["hospital"] == 2 and "\n" not in facts["why"] and len(facts["why"]) <= 200
    # at the last stage its numbers are in the sum, and the others' shares take its mask off
    who = range(SITES) if stage == "unmask" else (0, 1, 3)
    # before it has shared its keys the protocol cannot do without it: the next round does
    wanted = plain(task, sites, 1 + early, who, 1 + early)
    np.testing.assert_allclose(found, wanted, atol=by.error([len(sites[k]) for k in who]) + 1e-7)


@pytest.mark.parametrize(("stage", "spoil"), [
    ("share_keys", _config(ctxts=[b"x" * 200] * 3)), ("unmask", _config(shares=[b"\0" * 68] * 4)),
    ("unmask", _config(shares=[b""] * 4))])
def test_false_shares_cost_the_round_and_not_the_run(task, sites, stage, spoil):
    events = []
    found = rounds(spoiled(task, sites, stage, spoil), task, SITES, 1, SecAggPlus(most=120, threshold=1.0),
                   event=lambda *told: events.append(told))
    assert np.isfinite(found).all()
    assert {what for what, _ in events} <= {"no result", "refused"} and events


@pytest.mark.parametrize("wrong", [{"most": 0}, {"most": 9, "clip": 0.0}, {"most": 9, "threshold": 0.5}], ids=str)
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(InputError, match="secure aggregation needs"):
        SecAggPlus(**wrong)

