"""Answers that tell less: what is told by hand, labels that stay, and what it keeps from whom."""

import numpy as np
import pytest
import torch
from torch import nn

from suite.attacks.gradient import PGD
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.odds import log_odds
from suite.core.space import Space
from suite.defenses.post_training.answers import ClippedAnswers, LabelAnswers, RoundedAnswers, TopAnswer
from tests.support.toy import split

P = np.array([[0.234, 0.666, 0.1], [0.449, 0.451, 0.1], [1.0, 0.0, 0.0], [0.34, 0.33, 0.33]])
ALL = [RoundedAnswers(), RoundedAnswers(2), RoundedAnswers(0), TopAnswer(), LabelAnswers(), ClippedAnswers(),
       ClippedAnswers(0.6)]


class Fixed:
    def predict_proba(self, x):
        return P[x[:, 0].astype(int)]


class Logits(nn.Module):
    def forward(self, x):
        return torch.from_numpy(np.log(np.maximum(P, 1e-9))).float()[x[:, 0].long()] + 0 * x[:, :1]


def models(defense):
    data = split(np.zeros((4, 2)), np.zeros(4))
    space = Space(-10.0, 10.0)
    yield defense.wrap(EstimatorClassifier(Fixed(), 3, space), data, data)
    yield defense.wrap(TorchClassifier(Logits(), 3, space), data, data)


X = np.float32([[0, 0], [1, 0], [2, 0], [3, 0]])


def test_rounded_by_hand():
    for model in models(RoundedAnswers(1)):
        told = model.predict_proba(X)
        np.testing.assert_allclose(told[0], [0.2, 0.7, 0.1], atol=1e-5)
        np.testing.assert_allclose(told[1, :2].sum(), 1 - 0.1 / 1.1, atol=0.02)  # 0.4, 0.5 and 0.1, or a tie
        np.testing.assert_allclose(told[2], [1, 0, 0], atol=1e-5)
        np.testing.assert_allclose(told[3], [1 / 3] * 3, atol=1e-5)
    for model in models(RoundedAnswers(2)):
        np.testing.assert_allclose(model.predict_proba(X)[0], [0.23, 0.67, 0.1], atol=1e-5)


def test_nothing_above_the_ceiling_is_told_and_the_rest_is_spread():
    defense = ClippedAnswers(0.6)
    told = defense.answer(torch.tensor([[0.2, 0.7, 0.1], [0.9, 0.1, 0.0], [0.3, 0.3, 0.4]], dtype=torch.float64))
    np.testing.assert_allclose(told, [[0.25, 0.6, 0.15], [0.6, 0.25, 0.15], [0.3, 0.3, 0.4]], atol=1e-5)


def test_a_label_is_all_that_is_told():
    for model in models(LabelAnswers()):
        told = model.predict_proba(X)
        assert told.argmax(1).tolist() == [1, 1, 0, 0]
        np.testing.assert_allclose(told.max(1), 1, atol=1e-5)
        assert len({tuple(sorted(row.round(9))) for row in told}) == 1  # the same numbers for everyone


def test_the_top_answer_by_hand():
    for model in models(TopAnswer()):
        told = model.predict_proba(X)
        np.testing.assert_allclose(told[:3], [[0.167, 0.666, 0.167], [0.2745, 0.451, 0.2745], [1, 0, 0]], atol=1e-5)
    binary = torch.tensor([[0.3, 0.7], [0.9, 0.1]])
    np.testing.assert_allclose(TopAnswer().answer(binary), binary, atol=1e-5)  # nothing is kept back


@pytest.mark.parametrize("defense", ALL, ids=str)
def test_no_label_changes_and_all_that_is_told_is_a_finite_distribution(defense):
    rng = np.random.default_rng(0)
    proba = torch.from_numpy(rng.dirichlet([1, 1, 1], 2000))
    told = defense.answer(proba)
    assert (told.argmax(1) == proba.argmax(1)).all() and (told > 0).all()
    assert torch.allclose(told.sum(1), torch.ones(2000, dtype=told.dtype))
    for model in models(defense):
        assert np.isfinite(log_odds(model, X, np.array([0, 0, 1, 2]))).all()


def test_fewer_decimals_tell_no_more():
    rng = np.random.default_rng(0)
    proba = torch.from_numpy(rng.dirichlet([1, 1, 1], 500))
    kinds = [len(np.unique(d.answer(proba).numpy().round(7), axis=0)) for d in (
        RoundedAnswers(3), RoundedAnswers(1), RoundedAnswers(0), LabelAnswers())]
    assert kinds == sorted(kinds, reverse=True) and kinds[0] > 400 and kinds[-1] == 3


@pytest.mark.parametrize("defense", ALL, ids=str)
def test_whoever_holds_the_network_is_not_kept_from_fooling_it(defense):
    torch.manual_seed(0)
    plain = TorchClassifier(nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)), 3, Space(-3.0, 3.0))
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) * 4 - 2
    y = plain.judge(x)
    found = PGD(0.3, early_stop=False)(defense.wrap(plain, None, None), x, y)
    bare = PGD(0.3, early_stop=False)(plain, x, y)
    fooled, reached = ((plain.judge(a) != y).float().mean() for a in (found, bare))
    assert fooled > reached - 0.03 and reached > 0.2


def test_a_model_that_refuses_goes_on_refusing():
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])

    class Refusing(nn.Module):
        def forward(self, x):
            return logits + 0 * x[:, :1]

    model = LabelAnswers().wrap(TorchClassifier(Refusing(), 2, Space(0.0, 1.0), rejects=True), None, None)
    assert model.judge(torch.zeros(2, 2)).tolist() == [-1, 0]
