"""The audit of each hospital's epsilon: what leaks is shown, what is promised is not refuted, what is broken is."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("flwr")

from federated.evaluate.epsilon_audit import HospitalAudit
from federated.partition.sites import IID
from federated.training.defense import FederatedTraining
from suite.base.errors import InputError
from suite.defenses.private.sizes import known_size
from suite.evaluate.subject import Subject, measure
from suite.results.measurement import Sheet
from tabular.data import pima_synthetic
from tabular.models import MLP

RECIPE, PLAIN = MLP(hidden=(32,), balanced=False), FederatedTraining(rounds=8, batch=512)
SITES = [f"hospital=hospital-{k}" for k in (1, 2, 3)]


@pytest.fixture(scope="module")
def data():
    return IID(3).deal(pima_synthetic())


def audit(training, data, **changes):
    """{hospital: {metric: value}}, and the arrays kept."""
    made = training(RECIPE, data.train, data.val)
    sheet = Sheet(cell="c", dataset="d", data_sha256="", synthetic=True, model="m", device="cpu", seed=0)
    arrays = measure(HospitalAudit(**changes), Subject(made, RECIPE, training, data, 0.05, (0.05,)), sheet)
    return {s: {r.metric: r.value for r in sheet.rows if r.subgroup == s} for s in SITES}, arrays


def test_without_noise_every_hospital_leaks_and_promises_nothing(data):
    found, arrays = audit(PLAIN, data)
    assert arrays["inside"].shape == arrays["canary_score"].shape == (300,)
    for of in found.values():
        assert of["epsilon_audited"] > 1.2 and of["canary_auroc"] > 0.9 and "epsilon_claimed" not in of


def test_what_is_promised_is_not_refuted(data):
    found, _ = audit(replace(PLAIN, epsilon=2.0), data)
    for of in found.values():
        assert of["epsilon_audited"] <= of["epsilon_claimed"] <= 2 and not of["claim_refuted"]
        assert of["epsilon_independent"] == pytest.approx(of["epsilon_claimed"], rel=0.03)


def test_the_number_of_rows_taken_to_be_public_stands_beside_epsilon(data):
    sizes = [int((data.train.subgroups["hospital"] == s.partition("=")[2]).sum()) for s in SITES]
    private = FederatedTraining(rounds=1, batch=512, epsilon=2.0)
    derived, declared = (t(RECIPE, data.train, data.val).notes for t in (private, replace(private, public_rows=140)))
    edge = "rounded at an edge" in {known_size(n, None).source for n in sizes}
    assert derived["public_rows_from"] == ("rounded at an edge" if edge else "rounded")
    assert (declared["public_rows_from"], declared["public_rows"]) == ("declared", 140)
    with pytest.raises(InputError, match="public_rows is about an epsilon of rows"):
        replace(PLAIN, public_rows=140)


def test_a_hospital_that_forgets_its_noise_is_caught(data, monkeypatch):
    training = replace(PLAIN, epsilon=1.0)
    made = training(RECIPE, data.train, data.val)
    monkeypatch.setattr("federated.task.task.PrivateGradient", quiet)
    sheet = Sheet(cell="c", dataset="d", data_sha256="", synthetic=True, model="m", device="cpu", seed=0)
    measure(HospitalAudit(), Subject(made, RECIPE, training, data, 0.05, (0.05,)), sheet)
    refuted = [r.value for r in sheet.rows if r.metric == "claim_refuted"]
    assert len(refuted) == 3 and all(refuted)


def quiet(clipped, norm, sigma, expected, generator):
    """DP-SGD with a hundredth of its noise."""
    from suite.defenses.private.dpsgd import PrivateGradient

    return PrivateGradient(clipped, norm, sigma / 100, expected, generator)


def test_the_same_seed_tosses_the_same_coins(data):
    _, first = audit(PLAIN, data, canaries=20)
    _, again = audit(PLAIN, data, canaries=20)
    assert np.array_equal(first["canary_score"], again["canary_score"])
    assert 0.3 < first["inside"].mean() < 0.7
