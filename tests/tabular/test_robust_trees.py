"""Retraining trees on exact adversarial patients: what they gain, what is claimed, and who is added."""

import numpy as np
import pytest
import torch

from suite.base.errors import InputError, NotApplicable
from suite.core.data import Split
from suite.core.space import Space
from tabular.defenses import RobustTrees
from tabular.models import MLP, RandomForest, XGBoost
from tabular.trees.ensemble import Ensemble
from tabular.trees.exact import solve
from tests.support.breast import breast

RECIPES = (RandomForest(trees=15, depth=4), XGBoost(trees=15, depth=3))


def robust_or_useful(n, seed, space=Space(0.0, 1.0)):  # noqa: B008 - never changed
    """One column that is right for 90 % and far from 0.5, four that are right more often and close to it."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    sign = 2 * y - 1
    robust = 0.5 + 0.4 * sign * np.where(rng.random(n) < 0.9, 1, -1) + rng.normal(0, 0.02, n)
    weak = 0.5 + 0.07 * sign[:, None] + rng.normal(0, 0.05, (n, 4))
    return Split(np.clip(np.c_[robust, weak], 0, 1).astype(np.float32), y, space, ("healthy", "ill"), np.arange(n),
                 {"site": np.where(rng.random(n) < 0.5, "A", "B")})


@pytest.fixture(scope="module")
def parts():
    space = Space(torch.zeros(5), torch.ones(5), torch.ones(5))
    return tuple(robust_or_useful(n, seed, space) for seed, n in enumerate((300, 150, 200)))


def robust_accuracy(classifier, data, eps):
    """By the exact attack, asking the model itself."""
    ensemble, labels = Ensemble.of(classifier.estimator), classifier.predict(data.x)
    held = [solve(ensemble, classifier.predict, data.space, x, eps=eps).witness is None for x in data.x]
    return float(((labels == data.y) & held).mean())


# boosted trees find new ways to use the weak columns for longer than forests do
@pytest.mark.parametrize(("recipe", "gain"), [(RECIPES[0], 0.3), (RECIPES[1], 0.05)])
def test_withstands_more_at_little_cost_and_says_how_much(recipe, gain, parts):
    train, val, test = parts
    plain, robust = recipe.fit(train, val), RobustTrees(eps=0.1, rounds=4)(recipe, train, val)
    assert robust_accuracy(robust, test, 0.1) > robust_accuracy(plain, test, 0.1) + gain
    assert (robust.predict(test.x) == test.y).mean() > 0.85
    assert robust.notes["robust_validation"] == pytest.approx(robust_accuracy(robust, val, 0.1), abs=0.01)
    assert robust.notes["round"] > 0
    assert robust.notes["cut_short"] == robust.notes["cut_by_clock"] == 0


def test_takes_the_round_that_is_best_on_validation_rows(parts):
    """More rounds only add candidates, and the plain model is the first of them."""
    train, val, _ = parts
    plain = RECIPES[1].fit(train, val)
    held = [RobustTrees(eps=0.1, rounds=r)(RECIPES[1], train, val).notes for r in (0, 1, 3)]
    assert held[0] == {"eps": 0.1, "round": 0, "added": 0, "cut_short": 0, "cut_by_clock": 0,
                       "robust_validation": pytest.approx(robust_accuracy(plain, val, 0.1), abs=0.01)}
    assert held[0]["robust_validation"] <= held[1]["robust_validation"] <= held[2]["robust_validation"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_added_patients_are_possible_and_fool_the_model_and_no_random_one_is_missed(recipe):
    train, val, _ = breast()
    train, eps = train.take(slice(80)), 0.05
    classifier = recipe.fit(train, val)
    patients, fooled, _ = RobustTrees()._attack(classifier, train, eps)
    x, z = torch.from_numpy(train.x), torch.from_numpy(patients)
    right = classifier.predict(train.x) == train.y
    assert 0 < fooled.sum() < right.sum()
    assert train.space.contains(z, x).all()
    assert (train.space.distance(z, x) <= eps + 1e-5).all()
    assert np.array_equal(patients[:, 0], train.x[:, 0])  # a column that can never change
    assert np.array_equal(patients[~fooled], train.x[~fooled])
    assert (classifier.predict(patients[fooled]) != train.y[fooled]).all()
    generator, (lower, upper) = torch.Generator().manual_seed(0), train.space.ball(x, eps)
    for _ in range(50):
        noisy = lower + (upper - lower) * torch.rand(x.shape, generator=generator).round()
        changed = classifier.predict(noisy.numpy()) != train.y
        assert not (changed & right & ~fooled).any()


def test_same_seed_same_model(parts):
    first, again, other = (RobustTrees(eps=0.1, rounds=1)(RECIPES[0], *parts[:2], seed=s).predict_proba(parts[2].x)
                           for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_refuses_what_it_cannot_train(parts):
    with pytest.raises(NotApplicable, match="adversarial-training"):
        RobustTrees()(MLP(), *parts[:2])
    with pytest.raises(InputError, match="margin"):
        RobustTrees(margin=0.5)
