"""The classifier contract: counters, casts, refusals, gradients that leave parameters alone."""

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from torch import nn

from privacy.membership import LossThreshold, NoiseRobustness
from suite.base.errors import InputError, NotApplicable
from suite.core.classifier import REJECTED, EstimatorClassifier, TorchClassifier, margin
from suite.core.space import Space
from tests.support.models import linear


def test_the_margin_by_hand():
    logits = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0]])
    assert margin(logits, torch.tensor([1, 0]), 3).tolist() == [3.0, -3.0]


def test_who_is_refused_is_not_fooled():
    logits = torch.tensor([[2.0, 5.0, 9.0], [2.0, 5.0, 4.0]])  # the last logit stands for "refuse to judge"
    y = torch.tensor([0, 0])
    assert margin(logits, y, 2).tolist() == [4.0, -1.0]
    assert logits[0, 1] == 5  # the logits are not overwritten


class Answer(nn.Module):
    """Logits are the input, whatever it is."""

    def forward(self, x):
        return x


def test_refusals_are_labelled_so_and_probabilities_are_of_the_classes():
    model = TorchClassifier(Answer(), 2, Space(-9.0, 9.0), rejects=True)
    x = np.array([[0, 1, 5], [0, 1, -5], [3, 0, 1]], np.float32)
    assert model.predict(x).tolist() == [REJECTED, 1, 0]
    proba = model.predict_proba(x)
    assert proba.shape == (3, 2) and np.allclose(proba.sum(1), 1)
    assert proba[0, 1] == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool])
def test_any_real_dtype_is_cast(dtype):
    model = linear()
    x = np.random.default_rng(0).integers(0, 2, (5, 6)).astype(dtype)
    assert np.array_equal(model.predict_proba(x), model.predict_proba(x.astype(np.float32)))
    assert model.predict_proba(x).dtype == np.float64 and model.predict(x).dtype == np.int64


def test_queries_and_gradients_are_counted_by_the_row():
    model = linear()
    x = torch.randn(7, 6)
    model.predict_proba(x.numpy())
    assert (model.queries, model.gradients) == (7, 0)
    model.predict(x.numpy())
    model.judge(x[:3])
    assert (model.queries, model.gradients) == (17, 0)
    model.gradient(x[:2], lambda z: z[:, 0])
    assert (model.queries, model.gradients) == (19, 2)
    model.pull(x[:2], lambda z: [torch.ones_like(z), torch.zeros_like(z)])
    assert (model.queries, model.gradients) == (21, 6)


def test_batches_do_not_change_the_answer_nor_the_count():
    model = linear()
    x = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    whole = model.predict_proba(x), model.predict(x)
    model.batch, model.queries = 7, 0
    assert np.allclose(model.predict_proba(x), whole[0], atol=1e-6) and (model.predict(x) == whole[1]).all()
    assert model.queries == 100


def test_no_rows_are_no_trouble():
    model = linear()
    none = np.zeros((0, 6), np.float32)
    assert model.predict_proba(none).shape == (0, 2) and model.predict(none).shape == (0,)
    forest = EstimatorClassifier(Fixed(), 2, Space(0.0, 1.0))
    assert forest.predict_proba(none).shape == (0, 2)


def test_the_gradient_is_the_weights_and_parameters_are_untouched():
    model = linear()
    x = torch.randn(4, 6)
    logits, values, grad = model.gradient(x, lambda z: z[:, 1] - z[:, 0])
    weight = model.module.weight.detach()
    assert torch.allclose(grad, (weight[1] - weight[0]).expand(4, -1))
    assert torch.allclose(values, logits[:, 1] - logits[:, 0]) and not values.requires_grad
    assert not x.requires_grad and all(p.grad is None for p in model.module.parameters())
    _, (pulled,) = model.pull(x, lambda z: [torch.tensor([[-1.0, 1.0]]).expand_as(z)])
    assert torch.allclose(pulled, grad)


def test_existing_parameter_gradients_survive():
    model = linear()
    for p in model.module.parameters():
        p.grad = torch.full_like(p, 3.0)
    model.gradient(torch.randn(4, 6), lambda z: z[:, 0])
    assert all((p.grad == 3).all() for p in model.module.parameters())


def test_freezing_is_undone_also_after_an_error():
    model = linear()
    model.module.train()
    model.module.bias.requires_grad_(False)

    def inside():
        with model.frozen():
            assert not model.module.training and not any(p.requires_grad for p in model.module.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert model.module.training and model.module.weight.requires_grad and not model.module.bias.requires_grad


class Fixed:
    def __init__(self, proba=(0.25, 0.75)):
        self.proba = proba

    def predict_proba(self, x):
        assert x.dtype == np.float32
        return np.tile(np.array(self.proba, np.float32), (len(x), 1))


def test_an_estimator_is_counted_and_checked():
    model = EstimatorClassifier(Fixed(), 2, Space(0.0, 1.0))
    assert model.predict(np.zeros((3, 2))).tolist() == [1, 1, 1] and model.queries == 3
    with pytest.raises(InputError, match=r"shape \(3, 2\) for 3 rows and 4 classes"):
        EstimatorClassifier(Fixed(), 4, Space(0.0, 1.0)).predict(np.zeros((3, 2)))
    with pytest.raises(InputError, match="object has neither predict_proba nor predict"):
        EstimatorClassifier(object(), 2, Space(0.0, 1.0))


class Says:
    """Predicts names, by the sign of the first column, and knows no probabilities."""

    classes_ = np.array(["well", "ill"])

    def predict(self, x):
        return np.where(x[:, 0] > 0, "ill", "well")


def test_a_model_that_tells_labels_only_is_sure_of_each_and_score_attacks_refuse_it():
    model = EstimatorClassifier(Says(), 2, Space(-9.0, 9.0))
    x = np.array([[-1.0], [2.0]], np.float32)
    assert model.predict_proba(x).tolist() == [[1, 0], [0, 1]] and model.labels_only and model.queries == 2
    with pytest.raises(NotApplicable, match="LossThreshold needs probabilities, and this model tells labels only"):
        LossThreshold().check(model)
    NoiseRobustness().check(model)
    LossThreshold().check(EstimatorClassifier(DummyClassifier().fit(x, [0, 1]), 2, model.space))


def test_a_label_that_is_no_class_is_named():
    class Odd(Says):
        classes_ = np.array(["well", "sick"])

    with pytest.raises(InputError, match="predicted the label 'ill', which is none of its classes: well, sick"):
        EstimatorClassifier(Odd(), 2, Space(-9.0, 9.0)).predict(np.ones((1, 1)))
