"""Membership inference by shadow models, against closed forms, and on models that memorise or do not."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from privacy.likelihood import RMIA, CalibratedLoss, LiRA
from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.core.attack import Leaked
from suite.core.odds import Shadows
from suite.shadows.shadowing import halves

ALL = (LiRA(), LiRA(offline=True), RMIA(), RMIA(offline=True), CalibratedLoss())


def world(n=4000, k=64, gap=2.0, spread=1.0, seed=0):
    """Rows of unequal difficulty whose odds are normal, higher by `gap` where the model knows them."""
    rng = np.random.default_rng(seed)
    hard, member, inside = rng.normal(0, 3, n), rng.random(n) < 0.5, halves(k, n, seed)
    shadows = Shadows(inside, hard + gap * inside + spread * rng.normal(size=inside.shape))
    return hard + gap * member + spread * rng.normal(size=n), shadows, member, hard


def test_lira_is_the_likelihood_ratio():
    odds = np.array([0.5, 2.0])
    inside = np.array([[True, False], [True, False], [False, True], [False, True]])
    shadows = Shadows(inside, np.array([[1.0, 4.0], [3.0, 8.0], [0.0, 1.0], [-2.0, 3.0]]))

    def expected(phi, known, unknown, near, far):
        return norm.logpdf(phi, np.mean(known), near) - norm.logpdf(phi, np.mean(unknown), far)

    rows = [([1, 3], [0, -2]), ([1, 3], [4, 8])]
    own = [expected(p, a, b, np.std(a, ddof=1), np.std(b, ddof=1)) for p, (a, b) in zip(odds, rows, strict=True)]
    np.testing.assert_allclose(LiRA(spread="row").score(odds, shadows), own)
    near, far = np.sqrt(2), np.sqrt((2 + 8) / 2)
    pooled = [expected(p, a, b, near, far) for p, (a, b) in zip(odds, rows, strict=True)]
    np.testing.assert_allclose(LiRA().score(odds, shadows), pooled)  # few models: pooled
    offline = [(p - np.mean(b)) / far for p, (_, b) in zip(odds, rows, strict=True)]
    np.testing.assert_allclose(LiRA(offline=True).score(odds, shadows), offline)


@pytest.mark.parametrize("attack", ALL[:2])
def test_lira_is_as_good_as_the_best_test_there_is(attack):
    """Two normal distributions, 2 apart: no test does better than the ratio of their densities."""
    odds, shadows, member, _ = world()
    best = norm.cdf(2 / np.sqrt(2))
    estimated = norm.cdf(2 / np.sqrt(2 * (1 + 1 / 32)))  # the means are of 32 models
    found = roc_auc_score(member, attack.score(odds, shadows))
    assert estimated - 0.02 < found < best + 0.01


def test_of_few_models_the_pooled_spread_is_the_better_one_and_of_many_their_own():
    odds, shadows, member, _ = world(k=4)
    assert (roc_auc_score(member, LiRA().score(odds, shadows))
            > roc_auc_score(member, LiRA(spread="row").score(odds, shadows)) + 0.02)
    rng = np.random.default_rng(1)
    spread = np.exp(rng.normal(0, 1.5, 4000))  # rows of very unequal spread
    odds, shadows, member, _ = world(gap=2 * spread, spread=spread)
    assert (roc_auc_score(member, LiRA().score(odds, shadows))
            > roc_auc_score(member, LiRA(spread="pooled").score(odds, shadows)) + 0.02)


def test_rmia_by_hand():
    odds = np.array([1.0, -1.0])
    inside = np.array([[True, False], [False, True]])
    shadows = Shadows(inside, np.array([[2.0, 0.0], [0.0, 2.0]]))
    p = expit(odds)
    mean = (expit(2.0) + 0.5) / 2
    np.testing.assert_allclose(RMIA().score(odds, shadows), np.log(p / mean))
    guessed = 0.65 * 0.5 + 0.35
    np.testing.assert_allclose(RMIA(offline=True).score(odds, shadows), np.log(p / guessed))
    np.testing.assert_allclose(CalibratedLoss().score(odds, shadows), np.log(p / 0.5))


def test_rmia_orders_rows_as_the_share_of_the_population_they_exceed_does():
    """The paper's score: how many population rows z have ratio_x / ratio_z >= gamma, from the same models."""
    odds, shadows, *_ = world(500)
    ratio = RMIA().score(odds, shadows)
    population = np.random.default_rng(2).choice(ratio, 300)
    dominated = (ratio[:, None] - population >= np.log(1.1)).mean(1)
    order = np.argsort(ratio)
    assert (np.diff(dominated[order]) >= 0).all() and dominated.std() > 0.1


@pytest.mark.parametrize("attack", ALL, ids=str)
def test_each_beats_the_bare_loss_and_finds_nothing_where_nothing_is(attack):
    odds, shadows, member, _ = world()
    assert roc_auc_score(member, attack.score(odds, shadows)) > roc_auc_score(member, odds) + 0.05
    odds, shadows, member, _ = world(gap=0.0)
    assert abs(roc_auc_score(member, attack.score(odds, shadows)) - 0.5) < 0.03


@pytest.mark.parametrize("attack", ALL, ids=str)
def test_numbers_stay_finite_however_sure_the_models_are(attack):
    odds, shadows, *_ = world(50, 8)
    sure = Shadows(shadows.inside, 800 * np.sign(shadows.odds))
    assert np.isfinite(attack.score(800 * np.sign(odds), sure)).all()
    constant = Shadows(shadows.inside, np.zeros_like(shadows.odds))
    assert np.isfinite(attack.score(odds, constant)).all()
    pair = Shadows(shadows.inside[:2], shadows.odds[:2])  # one model each way
    assert np.isfinite(attack.score(odds, pair)).all()


@pytest.mark.parametrize("attack", ALL, ids=str)
def test_asks_for_its_number_of_models_and_says_when_there_can_be_none(attack):
    asked = []

    class Model:
        def predict_proba(self, x):
            return np.full((len(x), 2), 0.5)

    def shadows(count):
        asked.append(count)
        return world(6, count)[1]

    x, y = np.zeros((6, 2), np.float32), np.zeros(6, np.int64)
    score = attack(Model(), Leaked(None, None, shadows), x, y)
    assert asked == [attack.shadows] and score.shape == (6,) and score.dtype == np.float64
    with pytest.raises(NotApplicable, match="cannot be trained again"):
        attack(Model(), Leaked(None, None), x, y)
    assert attack.retrains and attack.info.threats == ("membership",)
    assert attack.surrogates == (attack not in (LiRA(), RMIA()))  # those two look at models that know the row
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.shadows = 1


@pytest.mark.parametrize(("name", "params", "said"), [
    ("lira", {"shadows": 15}, "shadows"), ("rmia", {"shadows": 0}, "shadows"), ("rmia", {"a": 3.0}, "a"),
    ("lira", {"spread": "wide"}, "spread")])
def test_parameters_out_of_range_are_refused_before_anything_is_trained(name, params, said):
    with pytest.raises(InputError, match=said):
        registry.make("attacks", name, params)
