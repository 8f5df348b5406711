"""What a curious server learns, measured: by hand where it can be, and against noise, sums and controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from federated.evaluate import eavesdropping
from federated.evaluate.eavesdropping import Decomposition, LabelMix, _most
from federated.evaluate.rebuilding import TABLES, _groups, _pooled, _sending
from federated.partition.sites import IID, Dirichlet
from federated.task.local import Local, seen
from federated.training.defense import FederatedTraining
from suite.base.errors import InputError
from suite.core.data import Dataset
from suite.evaluate.subject import Subject, measure
from suite.results.measurement import Sheet
from tabular.data import pima_synthetic
from tabular.models import MLP

RECIPE = MLP(hidden=(16,), balanced=False)
TRAINING = FederatedTraining(rounds=6)


@pytest.fixture(scope="module")
def whole():
    return pima_synthetic()


def subject(training, data):
    return Subject(training(RECIPE, data.train, data.val), RECIPE, training, data, 0.05, (0.05,))


def measured(attack, training, data, rows=None):
    """{(metric, subgroup, patients): value}, and the arrays kept."""
    sheet = Sheet(cell="c", dataset="d", data_sha256="", synthetic=True, model="m", device="cpu", seed=0)
    arrays = measure(attack, subject(training, data), sheet, rows)
    return {(r.metric, r.subgroup, r.attack_params.get("patients")): r.value for r in sheet.rows}, arrays


@pytest.fixture(scope="module")
def data(whole):
    return IID(3).deal(whole)


@pytest.fixture(scope="module")
def found(data):
    return {name: measured(Decomposition(), training, data) for name, training in {
        "seen": TRAINING, "summed": replace(TRAINING, secure=True),
        "hidden": replace(TRAINING, epsilon=1.0, hides="hospital")}.items()}


class TestMembership:
    def test_updates_tell_and_noise_hides(self, found):
        auroc = {name: values["membership_auroc", "", None] for name, (values, _) in found.items()}
        assert auroc["seen"] > 0.7 and auroc["seen"] > auroc["summed"] + 0.05
        assert abs(auroc["hidden"] - 0.5) < 0.08

    def test_every_hospital_is_told(self, found):
        values, _ = found["seen"]
        assert {s for m, s, _ in values if m == "membership_auroc"} == {"", *(f"hospital=hospital-{k}"
                                                                              for k in (1, 2, 3))}

    def test_what_is_kept_is_of_whom_it_says(self, found, data):
        for _, arrays in found.values():
            assert sorted(arrays["row"][arrays["member"]]) == sorted(data.train.rows)
            assert set(arrays["row"][~arrays["member"]]) <= set(data.test.rows)
            assert arrays["score"].min() > 0 and arrays["score"].max() == 1

    def test_test_rows_that_equal_training_rows_are_no_strangers(self, data):
        spoiled = data.test.with_data(np.concatenate([data.train.x[:5], data.test.x[5:]]), data.test.y)
        own = {"hospital": data.train.subgroups["hospital"][:5]}
        groups = {"hospital": np.concatenate([own["hospital"], data.test.subgroups["hospital"][5:]])}
        _, arrays = measured(Decomposition(), TRAINING, replace(data, test=replace(spoiled, subgroups=groups)))
        assert (~arrays["member"]).sum() == len(data.test) - 5

    def test_candidates_are_no_more_than_asked_for_and_drawn_by_the_seed(self, data):
        few, again = (measured(Decomposition(), TRAINING, data, 20)[1] for _ in range(2))
        whose = dict(zip(data.train.rows, data.train.subgroups["hospital"], strict=True))
        assert sorted(whose[row] for row in few["row"][few["member"]]) == sorted(20 * sorted(set(whose.values())))
        assert (~few["member"]).sum() == 60 and set(few["row"][~few["member"]]) <= set(data.test.rows)
        np.testing.assert_array_equal(few["row"], again["row"])

    @pytest.mark.parametrize("secure", [False, True], ids=["seen", "summed"])
    def test_candidates_are_no_more_than_there_is_room_for(self, data, secure, monkeypatch):
        whom = subject(replace(TRAINING, secure=secure), data)
        federation, at_once = whom.defense.federation(RECIPE, data.train, data.val), 3 if secure else 1
        assert _most(None, whom, federation) == eavesdropping.SCORED
        assert _most(None, replace(whom, rows=30), federation) == _most(30, whom, federation) == 30
        monkeypatch.setattr(eavesdropping, "AT_ONCE", 120)
        assert _most(None, whom, federation) == 60 // at_once
        monkeypatch.setattr(eavesdropping, "NUMBERS", 30 * federation.task.size)
        assert _most(None, whom, federation) == 15 // at_once
        monkeypatch.setattr(eavesdropping, "NUMBERS", 1)
        assert _most(None, whom, federation) == 1

    def test_no_strangers_no_figure(self, data: Dataset):
        with pytest.raises(InputError, match="no test patients of any hospital"):
            measured(Decomposition(), TRAINING, replace(data, test=data.train))


class TestLabelMix:
    def test_it_is_read_off_updates_and_not_off_their_mean(self, whole):
        data = Dirichlet(4, 0.5).deal(whole)
        attack = LabelMix(rounds=1, draws=8)
        seen, summed = (measured(attack, replace(TRAINING, rounds=1, secure=secure), data)[0]
                        for secure in (False, True))
        error, guess = (seen[m, "", None] for m in ("label_mix_error", "label_mix_error_baseline"))
        assert error < 0.05 < 0.1 < guess
        assert abs(summed["label_mix_error", "", None] - guess) < 0.05

        names, whose = np.unique(data.train.subgroups["hospital"], return_inverse=True)
        sick = np.array([data.train.y[whose == k].mean() for k in range(len(names))])
        by_hand = abs(sick - data.train.y.mean())  # of two classes, both shares are off by as much
        for name, off in zip(names, by_hand, strict=True):
            assert seen["label_mix_error_baseline", f"hospital={name}", None] == pytest.approx(off, abs=1e-5)


class TestRebuilding:
    def test_one_patient_is_rebuilt_and_noise_saves_him(self, data):
        attack = replace(TABLES, restarts=1, iterations=5)
        plain, hidden = (measured(attack, training, data, 4)[0] for training in (
            TRAINING, replace(TRAINING, epsilon=1.0, hides="hospital")))
        assert plain["patients_rebuilt", "", 1] == 1
        assert plain["patients_rebuilt_baseline", "", 1] == 0
        assert hidden["patients_rebuilt", "", 1] == 0
        assert plain["cells_rebuilt", "", 4] > plain["cells_rebuilt_baseline", "", 4]
        assert ("patients_rebuilt", "", 16) not in plain  # no more patients than were asked for

    def test_of_a_sum_all_hospitals_patients_are_looked_for_at_once(self, data):
        federation = TRAINING.federation(RECIPE, data.train, data.val)
        groups = list(_groups(federation, 2, 3, 2, 0))
        assert [[len(part.rows) for part in group] for group in groups] == [[2, 2, 2]] * 2
        for group in groups:
            assert [set(part.rows.subgroups["hospital"]) for part in group] == [{name} for name in federation.names]
            assert [part.whole for part in group] == [len(rows) for rows in federation.rows]
        assert len(set(np.concatenate([part.rows.rows for group in groups for part in group]))) == 12

    @pytest.mark.parametrize("size", [1, 4])
    def test_a_sum_of_one_step_each_is_one_step_of_all(self, data, size):
        federation = replace(TRAINING, batch=size).federation(RECIPE, data.train, data.val)
        task, (group,) = federation.task, _groups(federation, size, 3, 1, 0)
        came, rows = task.initial(), [part.rows for part in group]
        update = np.mean([seen(task, came, own, k, 1) for k, own in enumerate(rows)], 0)
        x, y = (torch.from_numpy(np.concatenate([getattr(own, name) for own in rows])) for name in ("x", "y"))
        sent = Local(_pooled(task, 3), came, 0, False).updates(x.double()[None], y)
        np.testing.assert_allclose(sent[0], update, rtol=0, atol=1e-6)

    def test_patients_are_rebuilt_from_a_sum_however_small_the_batches(self, data):
        attack = replace(TABLES, restarts=1, iterations=5)
        found, _ = measured(attack, replace(TRAINING, batch=1, secure=True), data, 3)
        assert found["patients_rebuilt", "", 1] == 1

    @pytest.mark.parametrize(("rows", "sizes", "patients"), [(12, {1, 4}, 12), (11, {1}, 9), (2, {1}, 3)])
    def test_of_a_sum_no_more_patients_than_were_asked_for(self, data, rows, sizes, patients):
        sheet = Sheet(cell="c", dataset="d", data_sha256="", synthetic=True, model="m", device="cpu", seed=0)
        measure(replace(TABLES, restarts=1, iterations=1), subject(replace(TRAINING, secure=True), data), sheet, rows)
        told = {r.attack_params["patients"]: r.n for r in sheet.rows if r.metric == "patients_rebuilt"}
        assert set(told) == sizes and told[1] == patients
        assert max(told.values()) <= max(rows, 3)

    def test_guesses_may_repeat_where_validation_rows_are_few(self, data):
        few = replace(data, val=data.val.take(slice(2)))
        found, _ = measured(replace(TABLES, restarts=1, iterations=1), TRAINING, few, 4)
        assert found["patients_rebuilt_baseline", "", 4] == 0

    def test_a_patient_has_the_noise_of_his_hospital(self, data):
        """One step on one row, of noise as long as it is at the hospital: it is all that differs between two draws."""
        training = replace(TRAINING, epsilon=1.0, batch=8)
        federation = training.federation(RECIPE, data.train, data.val)
        task, came = federation.task, federation.task.initial()
        ((part,),) = _groups(federation, 1, 1, 1, 0)
        sending, own = _sending(task, part.whole), task.terms(part.whole)
        assert sending.terms(1) == (own.sigma, 1.0, 1, own.delta) and own.delta == 1e-3
        assert abs(task.terms(1).sigma / own.sigma - 1) > 0.3
        a, b = (seen(sending, came, part.rows, number, 1) for number in (0, 1))
        assert (a - b).std() / (2**0.5 * task.lr) == pytest.approx(own.sigma * training.clip, rel=0.2)
        assert _sending(replace(task, private=None), part.whole).private is None
