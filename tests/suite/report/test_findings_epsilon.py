"""Findings about privacy budgets: hand-made rows with known verdicts."""

import math

import numpy as np
import pytest

from suite.report.rules.epsilon import largest_auroc
from suite.report.rules.every import findings
from suite.results import metrics
from tests.support.rows import about, found, manifest, only, row


def claim(claimed, independent, delta=1e-3):
    rows = [row("note[epsilon_claimed]", claimed, defense="dp"), row("note[delta]", delta, defense="dp")]
    return rows + ([row("note[epsilon_independent]", independent, defense="dp")] if independent else [])


@pytest.mark.parametrize(("independent", "level"), [(0.1, "low"), (0.104, "low"), (0.2, "high"),
                                                    (None, "inconclusive")])
def test_a_claimed_epsilon_needs_confirmation(independent, level):
    assert only(claim(0.1, independent), "defense", defense="dp").level == level


@pytest.mark.parametrize(("epsilon", "delta", "auroc"), [
    (0.0, 0.0, 0.5), (math.log(3), 0.0, 0.75), (0.0, 0.1, 0.595), (math.log(3), 0.1, 0.7975), (1e6, 0.0, 1.0)])
def test_the_largest_auroc_that_a_budget_allows(epsilon, delta, auroc):
    assert largest_auroc(epsilon, delta) == pytest.approx(auroc)


def test_no_training_with_that_budget_exceeds_it():
    """Randomized response with odds of e^epsilon, and the answer given away with probability delta, reaches it."""
    rng, n, eps, delta = np.random.default_rng(0), 200_000, 1.2, 0.05
    member = np.arange(n) % 2 == 0
    truth = rng.random(n) < math.exp(eps) / (1 + math.exp(eps))
    score = np.where(member == truth, 1.0, 0.0)
    away = rng.random(n) < delta
    score[away] = np.where(member[away], 2.0, -1.0)
    # the standard error of the AUROC is below 0.0015
    assert metrics.auroc(score, member) == pytest.approx(largest_auroc(eps, delta), abs=0.006)


@pytest.mark.parametrize("claimed", [0.3, 3.0, 200.0])
def test_a_confirmed_budget_that_promises_little_is_not_low(claimed):
    """The threshold of membership is an AUROC of 0.55, an epsilon of ln(0.55 / 0.45) = 0.2."""
    f = only(claim(claimed, claimed), "defense", defense="dp")
    assert f.level == "inconclusive" and "confirms it" in f.text and "allows a membership AUROC of up to" in f.text


def test_an_epsilon_does_not_cover_what_was_taken_from_the_patients_before():
    rows = [row(f"note[epsilon_{who}]", 3.0, defense="dp") for who in ("claimed", "independent")]
    (f,) = findings(rows, manifest(fitted=["the range of each column", "the medians filled in for missing values"]))
    assert f.level == "medium" and "the range of each column and the medians" in f.text
    assert "no such guarantee" in f.text


def test_an_epsilon_is_told_with_whom_it_protects_and_that_of_a_row_protects_no_patient():
    def told(unit, most):
        at = {"unit": unit, "neighbors": "added or removed", "defense": "dp"}
        rows = [*(row(f"note[epsilon_{name}]", value, **at) for name, value in (
            ("claimed", 3.0), ("independent", 2.98), ("replace_one", 6.1))), row("note[rows_per_patient]", most,
                                                                                 defense="dp")]
        return next(f for f in findings(rows, {}) if f.topic == "defense")

    by_row, alone, by_patient = told("row", 4), told("row", 1), told("patient", 4)
    assert "for one row, added or removed" in by_row.text and "one replaced by another it is 6.10" in by_row.text
    assert "up to 4 rows here: ε of a row does not protect a patient with several" in by_row.text
    assert by_row.level == "medium" != alone.level == by_patient.level
    assert "does not protect" not in alone.text + by_patient.text
    assert "for one patient, added or removed" in by_patient.text


def audit(shown, gaussian, claimed):
    at = {"defense": "dp", "attack": "one-run", "confidence": 0.9}
    rows = [row("epsilon_audited", shown, n=150, **at), row("epsilon_audited_gdp", gaussian, n=150, **at),
            row("canary_guesses_right", 0.95, 0.87, 0.99, 80, **at), row("delta", 1e-4, **at)]
    return rows + ([row("epsilon_claimed", claimed, **at)] if claimed else [])


@pytest.mark.parametrize(("shown", "gaussian", "level", "says"), [
    (1.2, 2.6, "high", "The claim of ε = 0.99 at δ = 0.0001 is false at 90% confidence: 150 canaries "
     "show an ε of at least 1.20, with 95% of 80 guesses right."),
    (0.8, 1.4, "medium", "if the trade-off curve is that of Gaussian noise: ε is at least 1.40 then. Without that, at "
     "least 0.80.")])
def test_a_claimed_epsilon_is_held_against_what_an_audit_has_shown(shown, gaussian, level, says):
    f = only(audit(shown, gaussian, 0.99), "privacy budget", defense="dp")
    assert f.level == level and says in f.text


def test_a_claim_that_is_not_refuted_is_proven_by_nobody_and_no_finding():
    rows = audit(0.0, 0.7, 0.99)
    assert not found(rows, "privacy budget", defense="dp")
    says, = about(rows, "epsilon")
    assert "is not refuted: 150 canaries show an ε of at least 0.00 at 90% confidence" in says


def test_where_the_curve_of_a_training_is_known_it_decides():
    def own(refuted):
        return [*audit(0.8, 1.4, 0.99), row("claim_refuted", refuted, n=150, defense="dp", attack="one-run",
                                            confidence=0.9)]

    f = only(own(1.0), "privacy budget", defense="dp")
    assert f.level == "high" and ("right more often than the training's own trade-off curve allows. Whatever the "
                                  "curve, ε is at least 0.80; for a Gaussian one, 1.40.") in f.text
    assert not found(own(0.0), "privacy budget", defense="dp") and "is not refuted" in about(own(0.0), "epsilon")[0]


def test_where_nothing_is_claimed_an_audit_refutes_nothing():
    assert findings(audit(1.2, 2.6, None), manifest()) == []
