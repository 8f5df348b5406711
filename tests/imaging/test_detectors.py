"""Feature squeezing of images: the squeezers, and what they are for."""

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import nn

from imaging.defenses.transforms import bit_depth, median
from imaging.detectors import FeatureSqueezing
from imaging.space import ImageSpace
from suite.base.errors import InputError, NotApplicable
from suite.core.classifier import TorchClassifier
from suite.core.space import Space
from tests.support import models as _models


@pytest.mark.parametrize("size", [2, 3])
def test_median_is_that_of_scipy(size):
    x = np.random.default_rng(0).random((2, 3, 7, 9), np.float32)
    assert np.array_equal(median(torch.from_numpy(x), size).numpy(), median_filter(x, (1, 1, size, size)))


def test_bit_depth_by_hand():
    x = torch.tensor([0.0, 0.1, 0.4, 0.9, 1.0])
    assert torch.allclose(bit_depth(x, 2), torch.tensor([0, 0, 1, 3, 3]) / 3)


def test_the_score_is_the_greater_change_of_the_probabilities():
    classifier, x, _ = _models.images(1)
    detector = FeatureSqueezing(bits=2, size=2).fit(x.numpy(), None, classifier)
    with torch.no_grad():
        proba, *squeezed = (classifier.module(z).softmax(1) for z in (x, bit_depth(x, 2), median(x, 2)))
    expected = torch.stack([(proba - p).abs().sum(1) for p in squeezed]).amax(0)
    assert np.allclose(detector.score(x.numpy()), expected.numpy(), atol=1e-6)


def test_a_loud_pixel_is_suspicious_and_a_calm_image_is_not():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.stack([torch.zeros(64), torch.ones(64)]) * 3)
        module[1].bias.copy_(torch.tensor([1.0, 0.0]))
    classifier = TorchClassifier(module, 2, ImageSpace())
    calm = np.zeros((2, 1, 8, 8), np.float32)
    loud = calm.copy()
    loud[1, 0, 4, 4] = 1.0
    calm_score, loud_score = FeatureSqueezing().fit(calm, None, classifier).score(loud)
    assert calm_score == 0 and loud_score > 1


def test_an_attack_can_follow_it():
    classifier, x, _ = _models.images(3)
    module = FeatureSqueezing().fit(x.numpy(), None, classifier).module
    grad, = torch.autograd.grad(module(x.requires_grad_()).sum(), x)
    assert grad.flatten(1).abs().sum(1).gt(0).all()


def test_tables_and_bad_parameters_are_refused():
    table = TorchClassifier(nn.Linear(3, 2), 2, Space(0.0, 1.0))
    with pytest.raises(NotApplicable, match="use bit-depth for tables"):
        FeatureSqueezing().fit(np.zeros((4, 3), np.float32), None, table)
    with pytest.raises(InputError, match="size at least 2"):
        FeatureSqueezing(size=1)
