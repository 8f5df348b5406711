"""What is measured of extraction: agreement, queries, weaknesses that the copy shares, and the alarm."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from suite.core.attack import ExtractionAttack
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.evaluate import measure
from suite.evaluate.extraction import transferred
from suite.evaluate.prada import PRADA
from tests.support.toy import dataset, sheet, split, subject, value


class Sign:
    """Says whether the second column is above zero."""

    def predict_proba(self, x):
        return np.stack([x[:, 1] <= 0, x[:, 1] > 0], 1).astype(float)


@dataclass(frozen=True)
class Copy(ExtractionAttack):
    """Asks `rows` times the same tiny variations of one row, or as many rows of the pool; its copy is perfect."""

    near: bool = False

    def __call__(self, query, pool, budget, seed=0):
        noise = 1e-6 * np.random.default_rng(0).normal(size=(budget, 2)) ** 3
        query((pool.x[:1] + noise).astype(np.float32) if self.near else pool.x[:budget])
        return EstimatorClassifier(Sign(), 2, pool.space)

    def surrogate(self, x, answers, pool, seed=0):
        """Says the commonest of its answers of everyone."""
        return EstimatorClassifier(Always(int(answers.sum(0).argmax())), 2, pool.space)


@dataclass(frozen=True)
class Learner(Copy):
    """Its copy and its surrogate are the same, whatever the victim says."""

    def surrogate(self, x, answers, pool, seed=0):
        return EstimatorClassifier(Sign(), 2, pool.space)


class Always:
    def __init__(self, k):
        self.k = k

    def predict_proba(self, x):
        return np.eye(2)[np.full(len(x), self.k)]


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 2))
    whole = split(x, (x[:, 1] > 0).astype(int))
    return dataset(whole.take(slice(500, 800)), whole.take(slice(400)), whole.take(slice(400, 500)))


def linear(weight, people):
    """A network that says 1 where `weight` times the row is positive."""
    module = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0.0], weight]))
    return TorchClassifier(module, 2, people.test.space)


def test_agreement_and_queries_are_counted(people):
    out = sheet()
    measure(Copy(), subject(EstimatorClassifier(Sign(), 2, people.test.space), people), out)
    rows = [r for r in out.rows if r.metric == "fidelity"]
    assert [r.attack_params["budget"] for r in rows] == [25, 50, 100, 200, 400]
    assert [r.queries for r in rows] == [25, 50, 100, 100, 100]  # the thief has but 100 rows
    assert {r.value for r in rows} == {1.0}
    guess = max(np.mean(people.test.y), 1 - np.mean(people.test.y))
    assert value(out, "fidelity_of_guessing") == pytest.approx(guess)
    assert not [r for r in out.rows if r.metric.startswith("transfer")]  # the copy is no network


def test_the_gain_is_over_a_model_of_the_thiefs_own_labels_patient_by_patient(people):
    victim = EstimatorClassifier(Sign(), 2, people.test.space)
    out = {attack: sheet() for attack in (Copy(), Learner())}
    for attack, found in out.items():
        measure(attack, subject(victim, people), found)
    rows = {m: [r for r in out[Copy()].rows if r.metric == m]
            for m in ("fidelity", "fidelity_of_own_labels", "accuracy_of_own_labels", "fidelity_gain")}
    assert {len(found) for found in rows.values()} == {5}
    for copy, own, right, gain in zip(*rows.values(), strict=True):
        assert own.value == pytest.approx(max(people.test.y.mean(), 1 - people.test.y.mean()), abs=0.15)
        assert own.value == right.value  # this victim is always right
        assert gain.value == pytest.approx(copy.value - own.value) and gain.ci_low > 0.3
    easy = [r for r in out[Learner()].rows if r.metric == "fidelity_gain"]  # the same without a single answer
    assert all(r.value == 0 and r.ci_low < 0 < r.ci_high for r in easy)


def test_the_alarm_is_raised_by_near_copies_and_not_by_the_pool(people):
    victim = EstimatorClassifier(Sign(), 2, people.test.space)
    for near in (False, True):
        out = sheet()
        measure(Copy(near), subject(victim, people), out)
        alarms = [r for r in out.rows if r.metric == "alarm_after"]
        assert bool(alarms) == near
        false = next(r for r in out.rows if r.metric == "false_alarms")
        assert false.n == 20 and 0 <= false.value < 1 and false.attack_params["budget"] == 400
    assert 50 < alarms[0].value <= 80


def test_a_true_copy_transfers_and_a_wrong_one_no_better_than_noise(people):
    victim, test = linear([0.0, 1.0], people), people.test
    same, other = (transferred(linear(w, people), victim, test, 0.5, 0) for w in ([0.0, 1.0], [1.0, 0.0]))
    within = np.mean(np.abs(test.x[:, 1]) < 0.5)  # what a step of 0.5 along the second column can turn
    assert same["transfer_back"].value == pytest.approx(within, abs=0.01)
    assert same["transfer_noise"].value == pytest.approx(within / 2, abs=0.06)  # corners: half point the wrong way
    assert other["transfer_back"].value < same["transfer_noise"].value and same["transfer_back"].n == len(test)


def test_rows_that_the_victim_gets_wrong_anyway_are_not_counted(people):
    backwards = linear([0.0, -1.0], people)
    found = transferred(backwards, backwards, people.test, 0.5, 0)
    assert found["transfer_back"].n == 0 == found["transfer_noise"].n


class TestPRADA:
    def stream(self, n=200, near=False, seed=0):
        """Patients of many columns, whose nearest distances are nearly normal; or an attacker's steps from ten."""
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 20))
        if near:
            x[10:] = x[rng.integers(10, size=n - 10)] + 1e-3 * rng.normal(size=(n - 10, 20))
        return x.astype(np.float32), np.zeros(n, np.int64)

    def test_patients_do_not_alarm_and_near_copies_do(self):
        watch = PRADA().calibrated(self.stream(seed=s) for s in range(1, 11))
        assert watch.delta > 0.8
        assert np.mean([watch.alarm(*self.stream(seed=s)) is not None for s in range(20, 40)]) <= 0.4
        after = [watch.alarm(*self.stream(near=True, seed=s)) for s in range(5)]
        assert all(a is not None and 101 < a <= 130 for a in after)

    def test_calibration_streams_themselves_never_alarm_and_the_least_of_them_nearly_does(self):
        streams = [self.stream(seed=s, n=80) for s in range(5)]
        watch = PRADA(least=30).calibrated(streams)
        assert all(watch.alarm(*s) is None for s in streams)
        stricter = PRADA(watch.delta + 1e-9, least=30)
        assert sum(stricter.alarm(*s) is not None for s in streams) == 1

    def test_statistic_by_hand(self):
        """One label, one row, then its repetitions: all distances are 0, and there is no variance to test."""
        x = np.zeros((40, 3), np.float32)
        found = PRADA(least=30).statistic(x, np.zeros(40, np.int64))
        assert (found[:31] == 1).all() and (found[31:] == 0).all()
        assert PRADA(least=30).alarm(x, np.zeros(40, np.int64)) == 32
        assert PRADA(least=30).alarm(x, np.arange(40)) is None  # a label of its own each: no distance at all

    def test_without_a_stream_that_is_long_enough_there_is_no_alarm(self):
        watch = PRADA().calibrated([self.stream(n=50)])
        assert watch.delta == 0 and watch.alarm(*self.stream(near=True)) is None

    def test_distances_are_to_the_growing_set_of_the_label(self):
        from suite.evaluate.prada import _Grown

        grown = _Grown([np.zeros(1)])
        assert grown.meet(np.array([4.0])) == 4 and len(grown.rows) == 2  # threshold: mean 2 less deviation 2
        assert grown.threshold == 0
        assert grown.meet(np.array([10.0])) == 6  # distances 0, 4, 6: mean 10/3 less deviation 2.49
        assert grown.threshold == pytest.approx(10 / 3 - np.std([0, 4, 6]))
        assert grown.meet(np.array([10.5])) == 0.5 and len(grown.rows) == 3  # too near to join
