"""Epsilon against closed forms and a second library, and the noise that a target needs."""

import json

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from suite.base.errors import InputError
from suite.defenses.private import accounting
from suite.defenses.private.accounting import epsilon_pld, epsilon_prv, epsilon_replaced, noise_multiplier
from suite.defenses.private.dpsgd import DPSGD
from tabular.models import MLP
from tests.support.private import TRAIN, VAL, own_cache  # noqa: F401 - a fixture


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (4.0, 9), (10.0, 50)])
def test_both_accountants_know_the_closed_form_of_the_gaussian_mechanism(sigma, steps):
    """Without sampling, k steps are one step with noise sigma / sqrt(k) (Balle and Wang 2018, arXiv 1805.06530)."""
    s, delta = sigma / np.sqrt(steps), 1e-3

    def excess(e):
        return norm.cdf(0.5 / s - e * s) - np.exp(e) * norm.cdf(-0.5 / s - e * s) - delta

    exact = brentq(excess, 0, 50)
    assert epsilon_prv(sigma, delta, 1.0, steps) == pytest.approx(exact, rel=0.01)
    assert epsilon_pld(sigma, delta, 1.0, steps) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("sigma", "delta", "rate", "steps"),
                         [(1.2, 1e-3, 0.14, 215), (2.3, 1e-3, 0.14, 215), (2.0, 1e-5, 0.005, 10000)])
def test_two_libraries_agree(sigma, delta, rate, steps):
    assert epsilon_prv(sigma, delta, rate, steps) == pytest.approx(epsilon_pld(sigma, delta, rate, steps), rel=0.02)


@pytest.mark.parametrize("epsilon_of", [epsilon_prv, epsilon_pld])
def test_epsilon_adds_up_over_steps_and_falls_with_noise_and_delta(epsilon_of):
    """Opacus reports the last engine's epsilon only when a run makes a fresh one each round; here steps add up."""
    spent = epsilon_of(2.0, 1e-3, 0.1, 100)
    assert epsilon_of(2.0, 1e-3, 0.1, 200) > 1.2 * spent
    assert epsilon_of(2.0, 1e-3, 0.2, 100) > 1.2 * spent
    assert epsilon_of(4.0, 1e-3, 0.1, 100) < spent / 1.5
    assert epsilon_of(2.0, 1e-5, 0.1, 100) > 1.2 * spent


@pytest.mark.parametrize("epsilon", [0.2, 3.0])
def test_calibrated_noise_spends_the_target_and_hardly_less(epsilon):
    sigma = noise_multiplier(epsilon, 1e-3, 0.4, 20)
    for spent in (epsilon_prv(sigma, 1e-3, 0.4, 20), epsilon_pld(sigma, 1e-3, 0.4, 20)):
        assert 0.97 * epsilon < spent <= epsilon


def test_calibration_is_remembered_across_processes_and_survives_a_broken_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEC_CACHE", str(tmp_path))
    file, asked = tmp_path / "noise_multipliers.json", (5.0, 1e-3, 0.5, 4)
    file.write_text("{ not json")
    accounting.noise_multiplier.cache_clear()
    sigma = noise_multiplier(*asked)
    assert list(json.loads(file.read_text()).values()) == [sigma]
    accounting.noise_multiplier.cache_clear()  # as in another process
    monkeypatch.setattr("opacus.accountants.utils.get_noise_multiplier", None)
    assert noise_multiplier(*asked) == sigma
    with pytest.raises(TypeError):  # another question has another answer
        noise_multiplier(5.0, 1e-4, 0.5, 4)


def test_an_epsilon_out_of_reach_is_told_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("suite.defenses.private.dpsgd.build", None)
    with pytest.raises(InputError, match=r"^epsilon 1e-05 at delta 0.001 is out of reach .* \(about 40 epochs\)"):
        DPSGD(epsilon=1e-5)(MLP(), TRAIN, VAL)
    with monkeypatch.context() as patch:  # Opacus says "The privacy budget is too low.", and of what, it does not
        patch.setattr("opacus.accountants.utils.MAX_SIGMA", 1.0)
        with pytest.raises(InputError, match=r"^epsilon 0.77 at delta 0.001 is out of reach of 3 steps"):
            noise_multiplier(0.77, 1e-3, 0.4, 3)
    assert noise_multiplier(0.77, 1e-3, 0.4, 3) > 1


@pytest.mark.parametrize(("sigma", "rate"), [(1.5, 0.3), (0.7, 0.05), (2.0, 1.0)])
def test_epsilon_where_a_row_is_replaced_is_that_of_the_worst_pair_by_quadrature(sigma, rate):
    """One step, N(0) mixed with N(1) against N(0) mixed with N(-1), by adding up where one exceeds the other."""
    z = np.linspace(-15 * sigma, 15 * sigma, 400_001)
    p, q = (rate * norm.pdf(z, mean, sigma) + (1 - rate) * norm.pdf(z, 0, sigma) for mean in (1, -1))

    def excess(e):
        return np.trapezoid(np.maximum(p - np.exp(e) * q, 0), z) - 1e-3

    assert epsilon_replaced(sigma, 1e-3, rate, 1) == pytest.approx(brentq(excess, 0, 50), abs=2e-3)
    assert epsilon_replaced(sigma, 1e-3, rate, 20) > 1.1 * epsilon_pld(sigma, 1e-3, rate, 20)
