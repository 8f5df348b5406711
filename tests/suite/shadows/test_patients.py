"""Leakage patient by patient, against hand-made cases, closed forms and naive computation."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import norm

from privacy.likelihood import RMIA, LiRA
from suite.core.odds import Shadows
from suite.results.metrics import auroc
from suite.shadows.patients import (
    ABOVE,
    auroc_interval,
    aurocs_without,
    by_person,
    chance_of,
    expected_by_chance,
    patient_auroc,
    patient_tpr,
    scores_in_turn,
    shadows_needed,
    share_above,
    tpr_interval,
)
from suite.shadows.shadowing import halves

ATTACKS = (LiRA(), LiRA(offline=True), RMIA(), RMIA(offline=True))


@dataclass(frozen=True)
class Bare:
    """Scores by the odds alone."""

    shadows: int = 8

    def score(self, odds, shadows):
        return odds


def world(k=32, n=200, gap=0.0, seed=0):
    """Patients of unequal difficulty; `gap` is by how much a model is surer of those it learned from."""
    rng, inside = np.random.default_rng(seed), halves(k, n, seed)
    return Shadows(inside, rng.normal(0, 3, n) + gap * inside + rng.normal(size=(k, n)))


def observed(gap, pairs, n, seed=0):
    """(n,) AUROC over models of patients whose scores are normal, `gap` standard deviations apart."""
    rng, inside = np.random.default_rng(seed), np.repeat([[True], [False]], n, 1).repeat(pairs, 0)
    return patient_auroc(rng.normal(size=inside.shape) + gap * inside, inside)


def test_by_hand():
    inside = np.array([[True, False, True], [False, True, False], [True, True, False], [False, False, True]])
    score = np.array([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [2.0, 3.0, 0.0]])
    # the second: 1 and 0 with the patient, 1 and 3 without: one tie of four
    np.testing.assert_allclose(patient_auroc(score, inside), [3.5 / 4, 0.5 / 4, 0.5])
    # of six scores without the patient (3, 2, 1, 1, 0, 0) one may lie above a threshold of 2
    np.testing.assert_allclose(patient_tpr(score, inside, 1 / 6), [0.5, 0.0, 0.0])


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_each_model_is_scored_by_all_others_but_its_partner_and_ranks_are_those_of_a_naive_count(attack):
    shadows = world(8, 30, gap=1.0)
    score = scores_in_turn(attack, shadows)
    for t in range(8):
        rest = [u for u in range(8) if u not in (t, t ^ 1)]
        known = Shadows(shadows.inside[rest], shadows.odds[rest])
        assert (known.inside.sum(0) == 3).all()  # as many models with each patient as without
        np.testing.assert_array_equal(score[t], attack.score(shadows.odds[t], known))
    naive = [auroc(score[:, i], shadows.inside[:, i]) for i in range(30)]
    np.testing.assert_allclose(patient_auroc(score, shadows.inside), naive)


def test_the_rows_of_a_patient_are_put_together_as_a_naive_count_does():
    rng = np.random.default_rng(0)
    score, owner = rng.normal(size=(6, 9)), np.array([3, 0, 3, 1, 0])
    found = by_person(score, owner, 4)
    for i in range(4):
        own = score[:, [i, *(4 + np.flatnonzero(owner == i))]]
        np.testing.assert_allclose(found["max"][:, i], own.max(1))
        np.testing.assert_allclose(found["mean"][:, i], own.mean(1))


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_one_patient_who_is_always_found_is_named_among_many_of_whom_nothing_is_known(attack):
    """The average hides this one: it stays at chance level."""
    shadows = world(180, 60)
    shadows.odds[:, 7] = np.where(shadows.inside[:, 7], 4.0, -4.0) + 0.1 * shadows.odds[:, 8]
    found = patient_auroc(scores_in_turn(attack, shadows), shadows.inside)
    low, _ = auroc_interval(found, 90, 60)
    assert found.argmax() == 7 and low[7] > ABOVE and (np.delete(low, 7) < 0.6).all()
    assert np.median(found) < 0.6 and share_above(found, 90).value == pytest.approx(1 / 60)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_of_models_that_remember_nobody_as_many_are_found_as_chance_finds(attack):
    shadows = world(8, 2000)
    found = (patient_auroc(scores_in_turn(attack, shadows), shadows.inside) > ABOVE).mean()
    chance = expected_by_chance(attack, shadows)
    assert abs(found - chance.value) < 4 * np.sqrt(0.03 / 2000)
    assert 0.003 < chance.value < 0.06  # with eight models chance finds many
    assert expected_by_chance(attack, world(32, 500)).value < 0.005


def test_chance_is_that_of_the_rank_test_where_no_other_model_is_asked():
    """Of eight models' ranks one arrangement in 70 gives an AUROC of 1, and one more 15 / 16."""
    chance = expected_by_chance(Bare(), world(8, 5000))
    assert chance.n == 5000 and chance.value == pytest.approx(2 / 70, abs=4 * np.sqrt(2 / 70 / 5000))


def test_the_tail_grows_with_what_models_remember():
    """Norms of the gap are those of models that are trained for longer, or are larger."""
    for attack in (LiRA(), RMIA()):
        tails, means = [], []
        for gap in (0.0, 1.0, 2.0, 4.0):
            shadows = world(64, 300, gap)
            found = patient_auroc(scores_in_turn(attack, shadows), shadows.inside)
            tails.append(share_above(found, 32))
            means.append(found.mean())
        assert tails[0].high < 0.02 and tails[3].low > 0.9
        assert sorted(means) == means and tails[1].value < tails[2].value < tails[3].value


class TestBounds:
    def test_whoever_is_always_found_is_bounded_by_a_power(self):
        """A distribution reaches it: one model in ten forgets the patient."""
        for pairs in (1, 8, 29, 90):
            assert chance_of(1.0, 0.9, pairs) == pytest.approx(0.9 ** pairs)
            low, high = auroc_interval(np.ones(3), pairs)
            assert low == pytest.approx(0.025 ** (1 / pairs), abs=1e-6) and (high == 1).all()

    def test_it_bounds_the_binomial_and_rises_with_the_truth(self):
        from scipy.stats import binom

        for found, true in ((0.95, 0.9), (0.75, 0.5), (1.0, 0.99)):
            exact = binom.sf(np.ceil(found * 40) - 1, 40, true)
            assert exact <= chance_of(found, true, 40) <= np.e * exact + 1e-12
        assert (np.diff(chance_of(np.full(9, 0.9), np.linspace(0.1, 0.9, 9), 20)) >= 0).all()
        assert chance_of(0.5, 0.9, 20) == 1.0

    @pytest.mark.parametrize("pairs", [8, 32])
    @pytest.mark.parametrize("forgets", [False, True])
    def test_intervals_hold_the_truth_also_where_some_models_forget_a_patient(self, pairs, forgets):
        n, true, held, jointly = 1000, 0.9, [], []
        for seed in range(8):
            if forgets:
                rng, inside = np.random.default_rng(seed), np.repeat([[True], [False]], n, 1).repeat(pairs, 0)
                found = patient_auroc(inside * np.where(rng.random(inside.shape) < 1 - true, -1.0, 1.0), inside)
            else:
                found = observed(norm.ppf(true) * np.sqrt(2), pairs, n, seed)
            low, high = auroc_interval(found, pairs)
            joint = auroc_interval(found, pairs, n)
            held.append(((low <= true) & (true <= high)).mean())
            jointly.append(((joint[0] <= true) & (true <= joint[1])).all())
            assert (joint[0] <= low).all() and (joint[1] >= high).all()
        assert np.mean(held) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / (8 * n))
        assert sum(jointly) >= 6  # of eight at 95 %, three fail once in 170

    def test_more_models_are_narrower(self):
        for found in (0.5, 0.8, 1.0):
            widths = [np.subtract(*reversed(auroc_interval(np.array([found]), m))).item() for m in (8, 32, 90)]
            assert sorted(widths, reverse=True) == widths
        spans = [(e := share_above(np.r_[np.ones(30), np.full(270, 0.5)], m)).high - e.low for m in (4, 32, 90)]
        assert sorted(spans, reverse=True) == spans

    @pytest.mark.parametrize("share", [0.0, 0.15, 0.6])
    @pytest.mark.parametrize("pairs", [8, 32])
    def test_the_interval_of_a_share_holds_the_true_one_where_the_rest_is_just_below(self, share, pairs):
        """The worst case: everyone else has a true AUROC of 0.86, and many of them are observed above 0.9."""
        for seed in range(10):
            surely = observed(4.0, pairs, round(400 * share), seed)
            others = observed(norm.ppf(0.86) * np.sqrt(2), pairs, 400 - len(surely), 100 + seed)
            found = share_above(np.r_[surely, others], pairs)
            assert found.low <= share + 0.05 and found.low <= found.value <= found.high
            assert found.high >= share and found.value > share + 0.05  # what was observed says too much

    @pytest.mark.parametrize("pairs", [8, 32])
    def test_the_interval_of_a_share_holds_where_all_patients_share_models_that_forget_everybody(self, pairs):
        """One model in five remembers nobody: everyone's true AUROC is 0.9, and a few lucky models move all at once.

        Taken for independent, 3 in 20 intervals of eight pairs say that someone is above 0.9.
        """
        alone, shared, runs = 0, 0, 60
        for seed in range(runs):
            rng, inside = np.random.default_rng(seed), halves(2 * pairs, 300, seed)
            gap = np.where(rng.random(2 * pairs) < 0.2, 0.0, 8.0)
            score = rng.normal(size=inside.shape) + gap[:, None] * inside
            found, without = patient_auroc(score, inside), aurocs_without(score, inside)
            alone += share_above(found, pairs).low > 0
            shared += share_above(found, pairs, without).low > 0
        assert shared <= 4  # of 60 at 5 %, fewer than 7 but once in fifty
        assert pairs == 32 or alone > 5

    def test_what_is_left_without_a_pair_is_that_of_a_naive_count_and_shared_models_widen_only(self):
        shadows = world(12, 40, gap=1.0)
        score = np.round(shadows.odds)  # with ties
        naive = [patient_auroc(*(np.delete(a, [2 * p, 2 * p + 1], 0) for a in (score, shadows.inside)))
                 for p in range(6)]
        without = aurocs_without(score, shadows.inside)
        np.testing.assert_allclose(without, naive)
        found = patient_auroc(score, shadows.inside)
        apart, together = share_above(found, 6), share_above(found, 6, without)
        assert together.low <= apart.low <= together.value <= apart.high <= together.high

    def test_sixteen_models_cannot_resolve_a_tail_that_sixty_four_do(self):
        some = 0.15
        few, many = (share_above(np.r_[observed(6.0, m, 45), observed(0.5, m, 255, 1)], m) for m in (8, 32))
        assert few.low == 0.0 and many.low > 0.05 and many.high < 0.3 and many.value == pytest.approx(some, abs=0.01)

    def test_tpr(self):
        low, high = tpr_interval(np.array([0.0, 0.5, 1.0]), 10)
        np.testing.assert_allclose(low, [0.0, 0.187, 0.692], atol=5e-4)  # Clopper and Pearson's table
        np.testing.assert_allclose(high, [0.308, 0.813, 1.0], atol=5e-4)


def test_how_many_models_are_needed():
    assert shadows_needed() == 58 and 0.9 ** 29 <= 0.05 < 0.9 ** 28
    assert shadows_needed(308) == 180
    for n in (1, 20, 308, 5000):
        pairs = shadows_needed(n) // 2
        assert auroc_interval(np.ones(1), pairs, n)[0] >= 0.9 > auroc_interval(np.ones(1), pairs - 1, n)[0]
