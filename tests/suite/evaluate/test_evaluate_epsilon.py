"""What is measured of a privacy audit: its bounds, and what is claimed for the model that it trained."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from suite.core.attack import Audited, PrivacyAudit
from suite.core.data import joined
from suite.core.defense import Defense
from suite.evaluate import measure
from tests.support.toy import Majority, dataset, sheet, split, subject, value


@dataclass(frozen=True)
class Fixed(PrivacyAudit):
    """Adds the first half of the fresh rows, and makes up its bounds."""

    confidence: float = 0.9

    def __call__(self, retrain, reference, train, fresh, seed=0):
        inside = np.arange(len(fresh)) < len(fresh) // 2
        model = retrain(joined(train, fresh.take(inside)), seed + 1)
        return Audited(model, inside + 0.0, inside, 1e-3, 1.25, 2.5, 20, 17, True)


@dataclass(frozen=True)
class Claims(Defense):
    """Notes the seed and the rows that it was given as the epsilon that it claims."""

    def __call__(self, recipe, train, val, seed=0, device="cpu"):
        model = recipe.fit(train, val, seed, device)
        model.notes |= {"epsilon_claimed": float(len(train)), "epsilon_independent": float(seed), "delta": 1e-3,
                        "accountant": "none", "unit": "patient", "neighbors": "added or removed"}
        return model


@pytest.fixture
def clinic():
    rng = np.random.default_rng(0)
    whole = split(rng.normal(size=(100, 2)), np.arange(100) % 2)
    data = dataset(whole.take(slice(40)), whole.take(slice(40, 90)), whole.take(slice(90, None)))
    return subject(Majority().fit(data.train, data.val), data, Majority(), seed=7)


def test_bounds_stand_beside_the_claims_of_the_model_with_canaries(clinic):
    out = sheet()
    arrays = measure(Fixed(), replace(clinic, defense=Claims()), out)
    assert value(out, "epsilon_audited") == 1.25 and value(out, "epsilon_audited_gdp") == 2.5
    assert value(out, "epsilon_claimed") == 50 + 20 and value(out, "epsilon_independent") == 8.0
    assert value(out, "canaries") == 40 and value(out, "delta") == 1e-3
    right, = (r for r in out.rows if r.metric == "canary_guesses_right")
    assert (right.value, right.n) == (17 / 20, 20) and right.ci_low < 17 / 20 < right.ci_high
    assert value(out, "canary_auroc") == 1.0 == value(out, "claim_refuted")
    whom = {"unit": "patient", "neighbors": "added or removed"}  # beside each epsilon that is claimed
    for r in out.rows:
        claim = r.metric in ("epsilon_claimed", "epsilon_independent", "delta")
        assert r.attack_params == {"confidence": 0.9} | (whom if claim else {}) and r.seconds >= 0
    assert arrays["inside"].sum() == 20 and arrays["canary_score"].shape == (40,)


def test_canaries_come_from_as_many_test_rows_as_are_asked_for(clinic):
    out = sheet()
    arrays = measure(Fixed(), clinic, out, 10)
    assert len(arrays["inside"]) == 10 == value(out, "canaries")


def test_where_nothing_is_claimed_no_claim_is_told(clinic):
    out = sheet()
    measure(Fixed(), clinic, out)
    assert value(out, "delta") == 1e-3
    assert not [r for r in out.rows if r.metric in ("epsilon_claimed", "epsilon_independent")]
