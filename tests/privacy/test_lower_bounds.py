"""Lower bounds on epsilon: never above the truth more often than stated, near it with much evidence, and the papers'
numbers."""

from functools import cache

import dp_accounting
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binom, binomtest, norm

from privacy.lower_bounds import (
    Guesses,
    from_counts,
    from_scores,
    from_scores_gdp,
    gaussian_epsilon,
    guess,
    one_run,
    one_run_gdp,
    refutes,
    strongest,
)
from suite.base.errors import InputError
from suite.defenses.private.accounting import privacy_curve

REPEATS = 400
ALLOWED = binom.ppf(0.999, REPEATS, 0.05) / REPEATS
"""Share of bounds above the truth that 400 repeats may show of 5 %."""


@cache
def one_run_once(guesses, confidence):
    return one_run(guesses, 0.0, confidence)


def fdp(guesses, delta, confidence=0.95):
    return gaussian_epsilon(one_run_gdp(guesses, confidence), delta)


# ---- independent trials


def test_rates_are_bounded_as_by_an_independent_clopper_pearson():
    for hits, alarms, n in ((40, 3, 50), (50, 0, 50), (9, 1, 10)):
        tpr, fpr = (binomtest(k, n).proportion_ci(0.95, "exact") for k in (hits, alarms))
        assert from_counts(hits, n, alarms, n, 0.0) == pytest.approx(np.log(tpr.low / fpr.high), rel=1e-9)
        assert from_counts(hits, n, alarms, n, 0.1) == pytest.approx(np.log((tpr.low - 0.1) / fpr.high), rel=1e-9)


def test_the_inequality_of_true_and_false_negatives_counts_as_well():
    assert from_counts(100, 100, 60, 100, 0.0) == pytest.approx(from_counts(40, 100, 0, 100, 0.0))
    assert from_counts(100, 100, 60, 100, 0.0) > 2 > np.log(1 / 0.6)


@pytest.mark.parametrize(("epsilon", "confidence"), [(0.5, 0.95), (1.5, 0.95), (1.5, 0.8), (3.0, 0.95)])
def test_of_all_outcomes_of_randomized_response_few_enough_get_a_bound_above_its_epsilon(epsilon, confidence):
    n, p = 40, expit(epsilon)
    chance = np.outer(binom.pmf(np.arange(n + 1), n, p), binom.pmf(np.arange(n + 1), n, 1 - p))
    above = [[from_counts(t, n, f, n, 0.0, confidence) > epsilon for f in range(n + 1)] for t in range(n + 1)]
    assert (chance * above).sum() <= 1 - confidence


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_many_trials_bring_the_bound_near_to_the_epsilon_of_randomized_response(epsilon):
    n, hits = 20_000, round(20_000 * expit(epsilon))
    assert 0.93 * epsilon < from_counts(hits, n, n - hits, n, 0.0) <= epsilon


def gaussian_trials(n, mu, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(mu, 1, n), rng.normal(0, 1, n)


def test_choosing_the_threshold_does_not_break_the_confidence():
    mu, delta, n = 1.0, 1e-3, 60
    truth = gaussian_epsilon(mu, delta)
    bounds = np.array([from_scores(*gaussian_trials(n, mu, s), delta) for s in range(REPEATS)])
    assert (bounds > truth).mean() <= ALLOWED and bounds.max() > 0.3 * truth
    # randomized response has two scores only, which tie
    rng, p = np.random.default_rng(1), expit(1.0)
    ties = np.array([from_scores(rng.random(n) < p, rng.random(n) > p, 0.0, 0.8) for _ in range(REPEATS)])
    assert (ties > 1.0).mean() <= binom.ppf(0.999, REPEATS, 0.2) / REPEATS


def test_many_scores_bring_the_bound_near_to_the_epsilon_of_the_gaussian_mechanism():
    truth = gaussian_epsilon(1.0, 0.01)
    assert 0.6 * truth < from_scores(*gaussian_trials(5000, 1.0, 0), 0.01) <= truth
    weaker = from_scores(*gaussian_trials(200, 1.0, 0), 0.01)
    assert 0 < weaker < 0.6 * truth


def test_a_bound_on_mu_is_too_high_no_more_often_than_stated_and_comes_near():
    mu, found = 1.5, []
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        found.append(from_scores_gdp(rng.normal(mu, 1, 60), rng.normal(0, 1, 60)))
    assert np.mean(np.array(found) > mu) <= ALLOWED and np.median(found) > 0.3
    rng = np.random.default_rng(0)
    assert 0.9 * mu < from_scores_gdp(rng.normal(mu, 1, 20000), rng.normal(0, 1, 20000)) <= mu


def test_the_bound_on_mu_is_that_of_the_best_threshold_either_way():
    many = from_scores_gdp(np.ones(64), np.zeros(64))
    low = (0.05 / (2 * 2 * 6)) ** (1 / 64)  # two rates of six thresholds from either side
    assert many == pytest.approx(2 * ndtri(low)) and many > 2
    assert from_scores_gdp(-np.zeros(64), -np.ones(64)) == many
    assert from_scores_gdp(np.zeros(64), np.zeros(64)) == 0


def test_scores_that_separate_the_sides_have_a_closed_form():
    n, risk = 64, 0.05 / (2 * 12)  # ranks 1 to 32, from both sides
    scores = np.arange(n) + 0.5
    expected = np.log(risk ** (1 / n) / (1 - risk ** (1 / n)))
    assert from_scores(scores, -scores, 0.0) == pytest.approx(expected)
    assert from_scores(-scores, scores, 0.0) == 0
    assert from_scores(np.ones(n), np.ones(n), 0.0) == 0
    assert from_scores([np.inf], [-np.inf], 0.0) == 0  # one trial each shows nothing


# ---- one run


def naive_p_value(m, r, v, epsilon, delta):
    """Appendix D of arXiv 2305.08846, as a sum of products."""
    w = binom(r, 1 / (1 + np.exp(-epsilon)))
    alpha = max([sum(w.pmf(v - j) for j in range(1, i + 1)) / i for i in range(1, v + 1)], default=0)
    return sum(w.pmf(k) for k in range(v, r + 1)) + 2 * m * delta * alpha


def test_the_example_of_the_paper():
    assert one_run(Guesses(1000, 100, 75), 1e-4) == pytest.approx(0.673, abs=5e-4)


@pytest.mark.parametrize(("m", "r", "v", "delta"), [(50, 50, 45, 0.0), (50, 20, 20, 1e-3), (200, 60, 50, 1e-4)])
def test_the_bound_is_where_the_p_value_is_the_risk(m, r, v, delta):
    epsilon = one_run(Guesses(m, r, v), delta, 0.9)
    assert epsilon > 0.5
    assert naive_p_value(m, r, v, epsilon, delta) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("r", [10, 100])
def test_all_guesses_right_has_a_closed_form(r):
    q = 0.05 ** (1 / r)
    assert one_run(Guesses(100, r, r), 0.0) == pytest.approx(np.log(q / (1 - q)))


def test_nothing_shown_is_no_bound():
    for counts in (Guesses(100, 0, 0), Guesses(100, 100, 0), Guesses(100, 100, 50)):
        assert one_run(counts, 1e-5) == 0 == one_run_gdp(counts)
    assert one_run(Guesses(1000, 100, 80), 0.01) == 0 < one_run(Guesses(1000, 100, 80), 1e-5)  # 2 m delta > 1


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_of_all_outcomes_of_randomized_response_few_enough_get_a_one_run_bound_above_it(epsilon):
    """Every canary's coin is told truly with the chance that epsilon allows; the bound is tight for it."""
    m = 80
    chance = binom.pmf(np.arange(m + 1), m, expit(epsilon))
    wrong = chance @ [one_run(Guesses(m, m, v), 0.0) > epsilon for v in range(m + 1)]
    assert 0.01 < wrong <= 0.05
    assert one_run(Guesses(9000, 9000, round(9000 * expit(epsilon))), 0.0) > 0.85 * epsilon


@pytest.mark.parametrize("mu", [0.5, 1.5])
def test_of_all_outcomes_of_gaussian_noise_few_enough_get_a_bound_above_its_mu(mu):
    m = 80
    chance = binom.pmf(np.arange(m + 1), m, ndtr(mu / 2))
    wrong = chance @ [one_run_gdp(Guesses(m, m, v)) > mu for v in range(m + 1)]
    assert wrong <= 0.05


def test_choosing_the_number_of_guesses_by_its_success_would_break_the_confidence():
    m, epsilon, unfair, fair = 100, 1.0, [], []
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        inside, told = rng.random(m) < 0.5, rng.random(m) < expit(epsilon)
        scores = np.where(inside == told, 1, -1) * rng.random(m)  # some are told more surely, and none more truly
        unfair.append(max(one_run_once(guess(scores, inside, k, k), 0.95) for k in range(5, 51)))
        fair.append(strongest(one_run_once, [guess(scores, inside, k, k) for k in (50, 25, 12, 6)])[0])
    assert np.mean(np.array(unfair) > epsilon) > 0.13 > ALLOWED
    assert np.mean(np.array(fair) > epsilon) <= ALLOWED


def noisy_canaries(m, mu, seed):
    rng = np.random.default_rng(seed)
    inside = rng.random(m) < 0.5
    return mu * inside + rng.normal(0, 1, m), inside


def test_with_abstention_and_the_best_of_several_numbers_of_guesses_it_holds_as_well():
    m, mu, delta = 120, 1.0, 1e-3
    truth, found = gaussian_epsilon(mu, delta), []
    bounds = cache(lambda g, c: one_run(g, delta, c)), cache(one_run_gdp)
    for seed in range(REPEATS):
        choices = [guess(*noisy_canaries(m, mu, seed), k, k) for k in (60, 30, 15, 8)]
        found.append([strongest(bound, choices)[0] for bound in bounds])
    above = np.array(found) > (truth, mu)
    assert (above.mean(0) <= ALLOWED).all()
    assert (np.median(found, 0) > (0.1, 0.2)).all()


@pytest.mark.parametrize("mu", [1.0, 2.0])
def test_the_gaussian_curve_tightens_the_bound(mu):
    """For Gaussian noise the general theorem stays far below epsilon; this one comes nearer."""
    counts, delta = guess(*noisy_canaries(4000, mu, 0), 200, 200), 1e-5
    assert 0.6 * mu < one_run_gdp(counts) <= mu
    assert one_run(counts, delta) < 0.8 * fdp(counts, delta)


@pytest.mark.parametrize(("r", "v"), [(6, 6), (8, 7), (5, 5)])
def test_at_the_bound_a_linear_program_finds_the_likeliest_guesses_just_as_likely_as_the_risk(r, v):
    """All chances of 0 to r right guesses that the theorem's inequalities allow, g cut out by its tangents."""
    m, risk = 8, 0.1
    mu = one_run_gdp(Guesses(m, r, v), 1 - risk)
    assert mu > 0
    z = np.linspace(-8, 4, 1500)
    x, g, slope = ndtr(z), ndtr(z + mu), np.exp(norm.logpdf(z + mu) - norm.logpdf(z))
    i, rows, limits = np.arange(r + 1), [], []
    for a in range(r):
        right, wrong = i * (i >= a + 1) / m, (r - i) * (i >= a) / m
        rows.append(right[None] - slope[:, None] * wrong[None])
        limits.append(g - slope * x)
    scale = [1 / np.maximum(1, np.abs(part).max(1)) for part in rows]
    found = linprog(-(i >= v).astype(float), np.concatenate([p * s[:, None] for p, s in zip(rows, scale, strict=True)]),
                    np.concatenate([b * s for b, s in zip(limits, scale, strict=True)]),
                    np.ones((1, r + 1)), [1.0])
    assert -found.fun == pytest.approx(risk, rel=1e-3)


@pytest.mark.parametrize("counts", [Guesses(100, 100, 90), Guesses(100, 30, 30), Guesses(400, 80, 70)])
def test_the_curve_of_gaussian_noise_is_refuted_up_to_the_bound_on_mu(counts):
    mu = one_run_gdp(counts, 0.9)
    for factor, refuted in ((0.97, True), (1.001, False)):  # pairs let a little more pass than the curve through them
        epsilons, deltas = privacy_curve(20**0.5 / (factor * mu), 1.0, 20)
        assert refutes(counts, epsilons, deltas, 0.9) is refuted


def test_a_curve_of_one_pair_refutes_less_than_the_theorem_for_it_but_something():
    counts = Guesses(200, 100, 90)
    epsilon = one_run(counts, 0.0)
    for share, delta, refuted in ((1.0, 0.0, False), (0.5, 0.0, True), (0.5, 0.5, False)):
        assert refutes(counts, np.array([share * epsilon]), np.array([delta])) is refuted


def test_each_more_point_of_a_curve_can_only_refute_more():
    counts, nothing = Guesses(200, 100, 90), (np.array([9.0]), np.array([0.9]))
    assert not refutes(counts, *nothing)
    assert refutes(counts, *(np.r_[a, b] for a, b in zip(nothing, ([0.5], [0.0]), strict=True)))


@pytest.mark.parametrize("bound", [lambda g, c=0.95: one_run(g, 1e-4, c), one_run_gdp])
def test_more_right_guesses_say_more_and_more_confidence_less(bound):
    right = [bound(Guesses(100, 50, v)) for v in range(51)]
    assert (np.diff(right) >= 0).all() and right[25] == 0 < right[40] < right[50]
    sure = [bound(Guesses(100, 50, 45), c) for c in (0.5, 0.9, 0.95, 0.99)]
    assert (np.diff(sure) < 0).all()
    more = [bound(Guesses(m, m, round(0.9 * m))) for m in (20, 50, 100, 400)]
    assert (np.diff(more) > 0).all()


def test_more_canaries_left_unguessed_say_less_where_delta_counts_them():
    assert one_run(Guesses(50, 50, 45), 1e-4) > one_run(Guesses(500, 50, 45), 1e-4)
    assert one_run(Guesses(50, 50, 45), 0.0) == one_run(Guesses(500, 50, 45), 0.0)


def test_guesses_follow_the_scores():
    scores, inside = np.array([0.1, 5.0, -3.0, 2.0, -1.0, 0.0]), np.array([1, 1, 0, 0, 1, 0])
    assert guess(scores, inside, 1, 1) == (6, 2, 2)
    assert guess(scores, inside, 2, 2) == (6, 4, 2)
    assert guess(scores, inside, 0, 3) == (6, 3, 2)
    assert guess(scores, inside, 3, 0) == (6, 3, 2)
    assert guess(np.array([np.inf, -np.inf]), np.array([True, False]), 1, 1).right == 2


def test_the_best_of_several_is_taken_at_a_share_of_the_risk():
    choices = [Guesses(100, 100, 60), Guesses(100, 20, 20)]
    value, counts = strongest(lambda g, c: one_run(g, 0.0, c), choices, 0.9)
    assert counts == choices[1] and value == pytest.approx(one_run(choices[1], 0.0, 0.95))


# ---- Gaussian differential privacy


@pytest.mark.parametrize("mu", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-6])
def test_another_library_agrees_on_the_epsilon_of_gaussian_noise(mu, delta):
    assert gaussian_epsilon(mu, delta) == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, delta), rel=1e-6)


def test_no_leak_is_epsilon_0():
    assert gaussian_epsilon(0.0, 1e-5) == 0


# ---- bad input


def test_refuses_what_is_no_evidence():
    fine, nan = np.arange(4.0), np.array([1.0, np.nan, 0.0, 2.0])
    for scores in ((nan, fine), (fine, nan), (fine, [])):
        with pytest.raises(InputError, match="scores"):
            from_scores(*scores, 1e-5)
    with pytest.raises(InputError, match="not a number"):
        guess(nan, fine > 1, 1, 1)
    for counts in ((3, 2, 0, 2), (-1, 2, 0, 2), (0, 0, 0, 2)):
        with pytest.raises(InputError, match="no count"):
            from_counts(*counts, 1e-5)
    for guesses in (Guesses(5, 6, 2), Guesses(5, 3, 4), Guesses(0, 0, 0)):
        for bound in (lambda g: one_run(g, 1e-5), one_run_gdp):
            with pytest.raises(InputError, match="no count"):
                bound(guesses)
    with pytest.raises(InputError, match="3 \\+ 2 guesses about 4"):
        guess(fine, fine > 1, 3, 2)
    for delta, confidence in ((1.0, 0.95), (-0.1, 0.95), (0.1, 1.0), (0.1, 0.0)):
        with pytest.raises(InputError, match="confidence"):
            one_run(Guesses(5, 5, 5), delta, confidence)
    with pytest.raises(InputError, match="mu"):
        gaussian_epsilon(float("nan"), 1e-5)


