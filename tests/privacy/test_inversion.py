"""Model inversion: the corner of a linear model in closed form, ART's inverted stop test, and the score."""

import numpy as np
import pytest
import torch
from art.attacks.inference.model_inversion import MIFace as ArtMIFace

from privacy.inversion import MIFace
from suite.art import art_fence, art_gradient_estimator
from suite.classifier import EstimatorClassifier, TorchClassifier
from suite.data import Split
from suite.errors import NotApplicable
from suite.evaluate.privacy import closeness
from suite.space import Space

LOWER, UPPER = torch.tensor([0.0, -50.0, 0.0]), torch.tensor([200.0, 50.0, 1.0])
SPACE = Space(LOWER, UPPER, UPPER - LOWER)
WEIGHT = torch.tensor([[0.02, 0.03, 0.0], [-0.02, 0.05, 4.0], [0.01, -0.10, -3.0]])


def softmax(weight=WEIGHT, space=SPACE):
    module = torch.nn.Linear(weight.shape[1], len(weight), bias=False)
    with torch.no_grad():
        module.weight.copy_(weight)
    return TorchClassifier(module, len(weight), space)


def test_climbs_to_the_corner_of_a_two_class_linear_model():
    classifier = softmax(WEIGHT[:2])
    start = ((LOWER + UPPER) / 2).numpy()
    found = MIFace(max_iter=2000, rate=0.5)(classifier, start)
    rising = (WEIGHT[0] > WEIGHT[1]).numpy()  # where more of the feature speaks for class 0
    corner = np.where(rising, UPPER, LOWER), np.where(rising, LOWER, UPPER)
    np.testing.assert_allclose(found, corner, atol=1e-3)
    assert found.dtype == np.float32


def test_the_first_step_goes_along_the_closed_form_gradient():
    start = np.float32([100, 0, 0.5])
    step = MIFace(max_iter=1, rate=1e-3)(softmax(), start) - start
    proba = softmax().predict_proba(start[None])[0]
    scale = SPACE.scale.numpy()
    for k in range(3):
        slope = (WEIGHT[k].numpy() - proba @ WEIGHT.numpy()) * scale  # d log p_k in scaled units
        np.testing.assert_allclose(step[k] / scale, 1e-3 * slope, rtol=0.02, atol=1e-6)


def test_more_steps_reach_more_confidence_inside_the_box():
    classifier, start = softmax(), np.float32([100, 0, 0.5])
    few, many = (MIFace(max_iter=n)(classifier, start) for n in (2, 200))
    reached = [np.diag(classifier.predict_proba(z)) for z in (start[None].repeat(3, 0), few, many)]
    assert (reached[0] < reached[1]).all() and (reached[1] <= reached[2]).all() and (reached[2] > 0.9).all()
    assert ((many >= LOWER.numpy()) & (many <= UPPER.numpy())).all()


def test_spends_one_gradient_a_class_and_step_and_leaves_the_model_as_it_was():
    classifier = softmax()
    MIFace(max_iter=7)(classifier, np.float32([100, 0, 0.5]))
    assert classifier.gradients == 7 * 3
    assert all(p.requires_grad and p.grad is None for p in classifier.module.parameters())


def test_needs_gradients():
    class Half:
        def predict_proba(self, x):
            return np.full((len(x), 2), 0.5)

    with pytest.raises(NotApplicable, match="gradients"):
        MIFace().check(EstimatorClassifier(Half(), 2, SPACE))


def test_works_on_images_and_finds_the_bright_corner():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].weight[1, 0] = 5.0
        module[1].bias.zero_()
    found = MIFace()(TorchClassifier(module, 2, Space(0.0, 1.0)), np.full((1, 4, 4), 0.5, np.float32))
    assert found.shape == (2, 1, 4, 4)
    assert found[0, 0, 0, 0] < 0.05 and found[1, 0, 0, 0] > 0.95 and (found[:, 0, 1:] == 0.5).all()


def test_art_stops_where_the_model_is_unsure_and_ours_climbs_on():
    """ART goes on while the cost is below the threshold, that is, while the confidence is already high."""
    class Sure(torch.nn.Module):
        """Probabilities, as the paper has it; sure of class 0 at the start."""

        def forward(self, x):
            z = 12 * (x.sum(1) - 0.5)
            return torch.stack([torch.sigmoid(-z), torch.sigmoid(z)], 1)

    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(Sure(), torch.nn.CrossEntropyLoss(), (1,), 2, clip_values=(0.0, 1.0),
                                  device_type="cpu")

    def reached(threshold):
        with art_fence(0):
            attack = ArtMIFace(estimator, max_iter=500, threshold=threshold, learning_rate=0.1, verbose=False)
            return estimator.predict(attack.infer(np.zeros((1, 1), np.float32), np.array([1])))[0, 1]

    assert reached(0.99) < 0.01  # its default
    assert reached(1.0) > 0.99
    logits = torch.nn.Linear(1, 2)
    with torch.no_grad():
        logits.weight.copy_(torch.tensor([[0.0], [12.0]]))
        logits.bias.copy_(torch.tensor([0.0, -6.0]))
    classifier = TorchClassifier(logits, 2, Space(0.0, 1.0))
    found = MIFace(max_iter=20)(classifier, np.zeros(1, np.float32))
    assert classifier.predict_proba(found)[1, 1] > 0.99


def test_art_stop_test_would_end_our_climb_after_one_step():
    classifier = softmax(WEIGHT[:2])
    z = np.full((2, 3), 0.5, np.float32)
    with art_fence(0), classifier.frozen():
        estimator = art_gradient_estimator(classifier, (3,))
        kwargs = {"max_iter": 100, "learning_rate": 0.01, "batch_size": 2, "verbose": False}
        ArtMIFace(estimator, threshold=0.99, **kwargs).infer(z, np.arange(2))
    assert classifier.gradients == 2


def test_score_is_the_distance_to_the_class_mean_beside_that_of_the_overall_mean():
    x = np.float32([[0, 0, 0], [20, 0, 0], [100, 50, 1], [120, 50, 1]])
    train = Split(x, np.array([0, 0, 1, 1]), SPACE, ("a", "b"), np.arange(4))
    means = np.float32([[10, 0, 0], [110, 50, 1]])
    perfect, shifted = closeness(means, train), closeness(means + np.float32([20, 0, 0]), train)
    np.testing.assert_allclose(perfect["distance"], 0, atol=1e-7)
    np.testing.assert_allclose(shifted["distance"], 0.1 / np.sqrt(3), rtol=1e-5)
    away = np.sqrt((0.25 ** 2 + 0.25 ** 2 + 0.5 ** 2) / 3)
    np.testing.assert_allclose(perfect["prior"], away, rtol=1e-5)
