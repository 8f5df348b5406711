"""Defensive distillation: what temperature does to logits, and that it hides gradients rather than weaknesses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from suite.attacks.ascent import ascend
from suite.attacks.gradient import BIM
from suite.base.errors import InputError, NotApplicable
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.robust.distillation import Distillation
from tabular.models import MLP, LogisticRegression, RandomForest
from tests.support.images import SmallCNN, squares


def blobs(n, seed):
    """Two overlapping classes in four columns."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = 0.5 + 0.07 * (2 * y[:, None] - 1) + rng.normal(0, 0.1, (n, 4))
    return Split(np.clip(x, 0, 1).astype(np.float32), y, Space(0.0, 1.0), ("healthy", "ill"), np.arange(n))


TRAIN, VAL, TEST = blobs(400, 0), blobs(500, 1), blobs(500, 2)  # more to validate on: a mix-up of soft labels shows


def gap(classifier):
    with torch.no_grad():
        logits = classifier.module(torch.from_numpy(TEST.x))
    return (logits[:, 1] - logits[:, 0]).numpy()


def test_logits_of_a_linear_model_are_those_of_temperature_one_times_the_temperature():
    recipe = LogisticRegression(epochs=100, lr=0.02, patience=100)
    one, twenty = (gap(Distillation(temperature=t)(recipe, TRAIN, VAL)) for t in (1, 20))
    assert np.corrcoef(one, twenty)[0, 1] > 0.995
    assert abs(np.polyfit(one, twenty, 1)[0] / 20 - 1) < 0.1


def test_student_learns_the_soft_labels_of_the_teacher():
    """A student that matched the hard labels would be far surer than its teacher on a network that can overfit."""
    recipe = MLP(hidden=(32,), epochs=60)
    teacher = recipe.fit(TRAIN, VAL).predict_proba(TEST.x)[:, 1]
    student = Distillation(temperature=1)(recipe, TRAIN, VAL).predict_proba(TEST.x)[:, 1]
    assert np.abs(teacher - student).mean() < 0.05


@pytest.mark.parametrize("recipe", [LogisticRegression(epochs=60), MLP(hidden=(32, 32), epochs=60)])
def test_costs_little_accuracy(recipe):
    plain = (recipe.fit(TRAIN, VAL).predict(TEST.x) == TEST.y).mean()
    for temperature in (5, 50):
        defended = Distillation(temperature=temperature)(recipe, TRAIN, VAL)
        assert (defended.predict(TEST.x) == TEST.y).mean() > plain - 0.03
        assert defended.recipe is recipe


def test_hides_the_gradient_of_cross_entropy_and_not_that_of_the_logits():
    recipe, x, y = MLP(hidden=(32,), epochs=60), torch.from_numpy(TEST.x), torch.from_numpy(TEST.y)
    vanished = []
    for temperature in (1, 20, 100):
        classifier = Distillation(temperature=temperature)(recipe, TRAIN, VAL)
        right = classifier.judge(x) == y
        loss = classifier.gradient(x, lambda z: F.cross_entropy(z, y, reduction="none"))[2]
        logit = classifier.gradient(x, lambda z: z[:, 1] - z[:, 0])[2]
        vanished.append(float((loss[right].abs().amax(1) == 0).float().mean()))
        assert (logit.abs().amax(1) > 0).all()
    assert vanished[0] == 0
    assert vanished[0] < vanished[1] < vanished[2]
    assert vanished[2] > 0.5


def test_on_images_it_withstands_attacks_that_follow_the_cross_entropy_and_not_ours():
    """The same steps from the same start, along the sign of either gradient; none is left where softmax saturates."""
    train, val, test = squares(300, 0), squares(100, 1), squares(100, 2)
    classifier = Distillation(temperature=100.0)(SmallCNN(), train, val)
    x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)

    def climb(z):
        loss = classifier.gradient(z, lambda logits: F.cross_entropy(logits, y, reduction="none"))
        return loss[2]

    box = classifier.space.ball(x, 0.15)
    naive = ascend(climb, x, box, 0.015, 20)
    ours = BIM(eps=0.15, steps=20)(classifier, x, y)
    clean, weak, strong = (float((classifier.judge(z) == y).float().mean()) for z in (x, naive, ours))
    assert clean > 0.9
    assert strong < weak - 0.3, (weak, strong)


def test_same_seed_same_network():
    first, again, other = (gap(Distillation()(MLP(hidden=(8,), epochs=3), TRAIN, VAL, seed=s)) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_refuses_what_makes_no_sense():
    with pytest.raises(InputError, match="temperature"):
        Distillation(temperature=0.5)
    with pytest.raises(NotApplicable, match="RandomForest"):
        Distillation()(RandomForest(), TRAIN, VAL)
