"""What a curious server learns, measured: by hand where it can be, and against noise, sums and controls."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("flwr")

from federated.defense import FederatedTraining
from federated.eavesdropping import Decomposition, LabelMix
from federated.rebuilding import TABLES, _groups
from federated.sites import IID, Dirichlet
from suite.data import Dataset
from suite.errors import InputError
from suite.evaluate.subject import Subject, measure
from suite.measurement import Sheet
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
        groups = list(_groups(federation, 2, 12, replace(subject(TRAINING, data), defense=replace(TRAINING,
                                                                                                 secure=True))))
        assert [[len(rows) for rows in group] for group in groups] == [[2, 2, 2]] * 2
        for group in groups:
            assert [set(rows.subgroups["hospital"]) for rows in group] == [{name} for name in federation.names]
        assert len(set(np.concatenate([rows.rows for group in groups for rows in group]))) == 12
