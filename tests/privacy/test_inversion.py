"""Model inversion: the corner of a linear model, the optimum under a prior, ART's inverted stop test, the score."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from art.attacks.inference.model_inversion import MIFace as ArtMIFace

from imaging.datasets import phantom
from imaging.models.models import SimpleCNN
from imaging.space import ImageSpace
from privacy.inversion import MIFace, PriorInversion, variation
from suite.attacks.art.border import art_fence, art_gradient_estimator
from suite.base.errors import InputError, NotApplicable
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.evaluate.privacy import closeness, likeness

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


@pytest.mark.parametrize("attack", [MIFace(), PriorInversion()])
def test_needs_gradients(attack):
    class Half:
        def predict_proba(self, x):
            return np.full((len(x), 2), 0.5)

    with pytest.raises(NotApplicable, match="gradients"):
        attack.check(EstimatorClassifier(Half(), 2, SPACE))


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


SPOT = np.zeros((28, 28), bool)
SPOT[6:18, 4:12] = True


@pytest.fixture(scope="module")
def chest():
    """A small network, and the phantom images that it has learned to tell: those of one class have a bright spot."""
    x, y = (np.asarray(v) for v in phantom.draw(28, 2, patients=120, each=1)[:2])
    x = np.where((y == 1)[:, None, None, None] & SPOT, np.minimum(x + 0.4, 1), x).astype(np.float32)
    whole = Split(x, y.astype(np.int64), ImageSpace(), ("clear", "spot"), np.arange(len(y)))
    train, val = whole.take(slice(80)), whole.take(slice(80, 120))
    return SimpleCNN(epochs=30, lr=1e-2, average=0.0).fit(train, val), train


@pytest.mark.parametrize("attack", [MIFace(max_iter=60), PriorInversion(steps=60)])
def test_a_convolutional_network_shows_the_spot_that_it_looks_for(attack, chest):
    model, train = chest
    start = train.x.mean(0)
    found = attack(model, start)
    assert found.shape == (2, 1, 28, 28) and found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    before = model.predict_proba(start[None])[0]
    assert (np.diag(model.predict_proba(found)) > before + 0.1).all()
    brighter = (found[1] - found[0])[0]
    assert brighter[SPOT].mean() > 0.03 > 2 * brighter[~SPOT].mean()
    np.testing.assert_array_equal(found, attack(model, start))


@pytest.mark.parametrize("prior", [20.0, 200.0])
def test_at_the_optimum_the_pull_of_the_class_and_that_of_the_prior_cancel(prior):
    """For a linear model the gradient of log p is known: `2 prior (z - start) / d = w_k - E_p w`, in units of scale."""
    classifier, start, scale = softmax(), np.float32([100, 0, 0.5]), SPACE.scale.numpy()
    found = PriorInversion(prior=prior, steps=1500)(classifier, start)
    assert ((found > LOWER.numpy()) & (found < UPPER.numpy())).all()
    proba = classifier.predict_proba(found)
    for k in range(3):
        pull = (WEIGHT[k].numpy() - proba[k] @ WEIGHT.numpy()) * scale
        np.testing.assert_allclose(2 * prior * (found[k] - start) / scale / 3, pull, atol=0.01)
        assert np.abs(pull).max() > 0.5  # the test would see a prior of another size


def test_without_a_prior_it_ends_in_the_corner_and_with_more_it_stays_nearer_to_the_start():
    classifier, start = softmax(WEIGHT[:2]), ((LOWER + UPPER) / 2).numpy()
    found = [PriorInversion(prior=prior)(classifier, start) for prior in (0.0, 10.0, 100.0, 1e4)]
    rising = (WEIGHT[0] > WEIGHT[1]).numpy()
    np.testing.assert_allclose(found[0], (np.where(rising, UPPER, LOWER), np.where(rising, LOWER, UPPER)), atol=1e-3)
    far = [np.linalg.norm((z - start) / SPACE.scale.numpy(), axis=1) for z in found]
    assert all((a > 1.2 * b).all() for a, b in pairwise(far)) and (far[-1] < 0.02).all()


def test_variation_counts_neighbours_in_both_directions():
    image = torch.zeros(2, 1, 4, 5)
    image[0, 0, :, 2:] = 1.0  # one edge of four pixels, among 4 * 4 neighbours in a row
    image[1, 0, 1, :] = 0.5  # two edges of five, among 3 * 5 in a column
    torch.testing.assert_close(variation(image), torch.tensor([4 / 16, 0.5 * 10 / 15]))


def test_more_total_variation_makes_smoother_images(chest):
    model, train = chest
    rough = [variation(torch.from_numpy(PriorInversion(tv=tv, prior=10.0)(model, train.x.mean(0)))).numpy()
             for tv in (0.0, 3.0, 30.0)]
    assert (rough[0] > 1.2 * rough[1]).all() and (rough[1] > 1.2 * rough[2]).all()


def test_a_table_has_no_variation_and_every_class_and_step_costs_one_gradient():
    classifier, start = softmax(), np.float32([100, 0, 0.5])
    found = PriorInversion(tv=0.0, steps=7)(classifier, start)
    assert classifier.gradients == 7 * 3 == classifier.queries
    np.testing.assert_array_equal(found, PriorInversion(tv=50.0, steps=7)(classifier, start))
    assert all(p.requires_grad and p.grad is None for p in classifier.module.parameters())


@pytest.mark.parametrize("wrong", [{"tv": -1.0}, {"prior": float("nan")}, {"prior": float("inf")}])
def test_weights_must_be_finite_and_not_negative(wrong):
    with pytest.raises(InputError, match="tv and prior must be 0 or more"):
        PriorInversion(**wrong)


def test_likeness_is_1_to_the_image_itself_and_less_to_any_other(chest):
    _, train = chest
    means = np.stack([train.x[train.y == k].mean(0) for k in range(2)])
    same = likeness(means, train)
    np.testing.assert_allclose(same["ssim_mean"], 1, atol=1e-5)
    assert (same["ssim_nearest"] < 0.95).all()
    copied = likeness(np.stack([train.x[train.y == k][3] for k in range(2)]), train)
    np.testing.assert_allclose(copied["ssim_nearest"], 1, atol=1e-5)
    assert (copied["ssim_mean"] < 0.95).all()


def test_rows_of_a_table_look_like_nothing():
    train = Split(np.zeros((2, 3), np.float32), np.array([0, 1]), SPACE, ("a", "b"), np.arange(2))
    assert likeness(np.zeros((2, 3), np.float32), train) == {}
