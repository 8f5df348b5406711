"""Membership inference: a model that memorises is seen through, members among members are not, and ART's defects."""

import dataclasses

import numpy as np
import pytest
import torch
from art.attacks.inference.membership_inference import (
    LabelOnlyDecisionBoundary,
    LabelOnlyGapAttack,
    MembershipInferenceBlackBoxRuleBased,
)
from scipy.special import expit
from scipy.stats import norm
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from privacy.membership import ArtBlackBox, LabelOnly, LossThreshold, NoiseRobustness, QuantileRegression, RuleBased
from suite.attacks.art.border import art_estimator, art_fence
from suite.base.errors import InputError
from suite.core.attack import Leaked
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from tests.support.breast import breast

ALL = (LossThreshold(), RuleBased(), ArtBlackBox(), LabelOnly(max_iter=3), NoiseRobustness(10), QuantileRegression())


@pytest.fixture(scope="module")
def audit():
    """A forest that memorises labels of which 30 % are wrong; known rows, scored rows, and who is a member."""
    train, val, test = breast()
    rng = np.random.default_rng(0)
    noisy = [s.with_data(s.x, np.where(rng.random(len(s)) < 0.3, 1 - s.y, s.y)) for s in (train, val, test)]
    forest = RandomForestClassifier(60, bootstrap=False, max_features=5, random_state=0).fit(noisy[0].x, noisy[0].y)
    model = EstimatorClassifier(forest, 2, train.space)
    known = Leaked(noisy[0].take(slice(100)), noisy[1].take(slice(100)))
    inside, outside = noisy[0].take(slice(200, 230)), noisy[2].take(slice(30))
    x, y = (np.concatenate([getattr(inside, name), getattr(outside, name)]) for name in "xy")
    return model, known, x, y, np.arange(60) < 30


@pytest.mark.parametrize("attack", ALL)
def test_sees_through_a_model_that_memorises(attack, audit):
    model, known, x, y, member = audit
    score = attack(model, known, x, y)
    assert score.shape == (60,) and score.dtype == np.float64 and np.isfinite(score).all()
    floor = {LossThreshold: 0.99, ArtBlackBox: 0.99, QuantileRegression: 0.95}.get(type(attack), 0.6)
    assert roc_auc_score(member, score) > floor


@pytest.mark.parametrize("attack", ALL)
def test_cannot_tell_members_from_members(attack, audit):
    model, known, *_ = audit
    x, y = breast()[0].x[100:180], breast()[0].y[100:180]
    half = known.members.take(slice(50)), known.members.take(slice(50, None))
    score = attack(model, Leaked(*half), x, y)
    assert abs(roc_auc_score(np.arange(80) % 2, score) - 0.5) < 0.17  # 2.6 standard errors


@pytest.mark.parametrize("attack", ALL)
def test_same_seed_same_scores_and_no_trace_in_the_global_generator(attack, audit):
    model, known, x, y, _ = audit
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(attack(model, known, x[::6], y[::6], 3), attack(model, known, x[::6], y[::6], 3))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_loss_orders_rows_by_the_probability_of_the_true_label():
    class Table:
        def predict_proba(self, x):
            return np.hstack([1 - x, x]).astype(np.float64)

    x, y = np.float32([[0.0], [0.3], [0.9], [1.0], [0.2]]), np.array([1, 1, 1, 1, 0])
    score = LossThreshold()(EstimatorClassifier(Table(), 2, Space(0.0, 1.0)), None, x, y)
    np.testing.assert_allclose(score[1:3], np.log([0.3 / 0.7, 9]), rtol=1e-5)
    assert score.argsort().tolist() == [0, 1, 4, 2, 3] and np.isfinite(score).all()


@pytest.mark.parametrize("learner", ["rf", "gb", "dt", "knn"])
def test_every_learner_learns(learner, audit):
    model, known, x, y, member = audit
    assert roc_auc_score(member, ArtBlackBox(learner)(model, known, x, y)) > 0.85


def test_learned_attack_asks_each_row_once(audit):
    model, known, x, y, _ = audit
    model.queries = 0
    ArtBlackBox()(model, known, x, y)
    assert model.queries == len(known.members) + len(known.others) + len(x)


def test_rule_agrees_with_art_where_art_works_and_works_where_art_does_not(audit):
    model, known, x, y, _ = audit
    estimator, rule = art_estimator(model, x.shape[1:]), RuleBased()
    assert LabelOnlyGapAttack is MembershipInferenceBlackBoxRuleBased
    np.testing.assert_array_equal(rule(model, known, x, y), LabelOnlyGapAttack(estimator).infer(x, y))
    one = y == 1
    np.testing.assert_array_equal(rule(model, known, x[one], y[one]), model.predict(x[one]) == 1)
    with pytest.raises(IndexError):  # ART counts the classes among the scored rows: label 1 of one class
        LabelOnlyGapAttack(estimator).infer(x[one], y[one])


def linear(weight=(1.0, 1.0), bias=-1.0):
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0.0], list(weight)]))
        module.bias.copy_(torch.tensor([0.0, bias]))
    return TorchClassifier(module, 2, Space(0.0, 1.0))


def test_distance_is_that_to_the_boundary_and_0_where_the_model_is_wrong():
    x = np.float32([[0.5, 0.9], [0.9, 0.9], [0.1, 0.2], [0.6, 0.6], [0.3, 0.3]])
    y = np.array([1, 1, 0, 1, 1])
    score = LabelOnly()(linear(), None, x, y)
    np.testing.assert_allclose(score, [0.2, 0.4, 0.35, 0.1, 0.0], rtol=0.1)


def test_noise_robustness_is_the_share_of_noise_that_stays_on_its_side():
    """One feature, boundary at 0.5, one level of noise: the normal distribution says how much of it crosses."""
    module = torch.nn.Linear(1, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0], [1.0]]))
        module.bias.copy_(torch.tensor([0.0, -0.5]))
    model = TorchClassifier(module, 2, Space(-9.0, 9.0, 2.0))  # a unit of noise is 2 in the data
    x, y = np.float32([[0.6], [0.9], [0.4], [0.7]]), np.array([1, 1, 0, 0])
    score = NoiseRobustness(4000, (0.1,))(model, None, x, y)
    np.testing.assert_allclose(score, [norm.cdf(0.1 / 0.2), norm.cdf(0.4 / 0.2), norm.cdf(0.1 / 0.2), 0], atol=0.03)
    model.queries = 0
    NoiseRobustness(5)(model, None, x, y)
    assert model.queries == 4 * (1 + 5 * 4)


def test_noisy_copies_are_possible_inputs():
    class Fenced(TorchClassifier):
        def judge(self, x):
            assert self.space.possible(x).all()
            return super().judge(x)

    model = Fenced(linear().module, 2, Space(0.0, 1.0))
    score = NoiseRobustness(20, (5.0,))(model, None, np.float32([[0.9, 0.9]]), np.array([1]))
    assert 0 < score[0] < 1


def test_quantile_regression_knows_who_is_easy():
    """The model is surer of one group of strangers than of the other; what counts is to be surer than one's group."""
    rng = np.random.default_rng(0)

    class Told:
        """Rows are a group and a number that means nothing; of each it was told how sure to be."""

        def __init__(self):
            self.odds = {}

        def rows(self, group, odds):
            x = np.float32(np.stack([group, rng.random(len(group))], 1))
            self.odds |= dict(zip(x[:, 1].tolist(), odds, strict=True))
            return Split(x, np.ones(len(x), np.int64), Space(-9.0, 9.0), ("well", "ill"), np.arange(len(x)))

        def predict_proba(self, x):
            p = expit(np.array([self.odds[n] for n in x[:, 1].tolist()]))
            return np.stack([1 - p, p], 1)

    told = Told()
    group = rng.choice([0, 1], 400)
    known = Leaked(None, told.rows(group, 6 * group + rng.normal(size=400)))
    asked = told.rows(np.array([1, 0, 1, 0]), [6.0, 0.0, 9.0, 3.0])
    model = EstimatorClassifier(told, 2, Space(-9.0, 9.0))
    score = QuantileRegression()(model, known, asked.x, asked.y)
    assert min(score[2:]) > max(score[:2]) + 1
    bare = LossThreshold()(model, None, asked.x, asked.y)
    assert bare[0] > bare[3]  # the loss alone takes any of the easy group for a member


@pytest.mark.parametrize("attack", [ArtBlackBox(), QuantileRegression()])
def test_too_few_known_rows_are_refused(attack, audit):
    model, known, x, y, _ = audit
    few = Leaked(known.members.take(slice(9)), known.others.take(slice(9)))
    with pytest.raises(InputError, match="needs 10 of each kind: there are 9"):
        attack(model, few, x, y)


def test_art_takes_a_row_that_nothing_fools_for_a_stranger_and_ours_for_the_deepest():
    """Class 1 only in a corner that random starts rarely meet: the walk has nowhere to begin."""
    model = linear((1.0, 1.0), -1.9999)
    x, y = np.float32([[0.2, 0.2], [0.9, 0.9]]), np.array([0, 0])
    with art_fence(0):
        attack = LabelOnlyDecisionBoundary(art_estimator(model, (2,)), distance_threshold_tau=0.01)
        theirs = attack.infer(x, y, verbose=False, max_iter=1, init_size=5)
    assert theirs.tolist() == [0, 0]
    # beside a row that can be fooled
    near, hidden = linear(), np.float32([[0.4, 0.4]])
    low = LabelOnly()(near, None, np.concatenate([hidden, [[0.1, 0.1]]]).astype(np.float32), np.array([0, 0]))
    assert (LabelOnly(init_size=5)(model, None, x, y) > low.max()).all()


def test_art_membership_probability_is_not_monotone_in_the_distance():
    model = linear()
    rng = np.random.default_rng(0)
    x = rng.random((24, 2)).astype(np.float32)
    y = model.predict(x)
    small = {"max_iter": 3, "init_eval": 10, "max_eval": 20, "verbose": False, "norm": np.inf}
    with art_fence(0):
        attack = LabelOnlyDecisionBoundary(art_estimator(model, (2,)))
        attack.calibrate_distance_threshold(x[:12], y[:12], x[12:], y[12:], **small)
    accuracy = [acc for _, acc in attack.threshold_bins]  # what a row beyond each distance is told
    assert np.diff(accuracy).min() < 0 < np.diff(accuracy).max()


def test_attacks_are_frozen_and_say_what_they_are():
    for attack in ALL:
        assert attack.info.threats == ("membership",) and attack.info.paper and attack.info.knowledge
        with pytest.raises(dataclasses.FrozenInstanceError):
            attack.anything = 1
