"""What the gradient attacks share: the attacker's goal, and gradients without an objective's graph."""

import pytest
import torch
from torch.nn import functional as F

from suite.attacks._search import Goal, random_start
from suite.base.seeding import torch_generator
from suite.core.classifier import margin
from suite.core.space import Space
from tests.support.models import images, linear, patients, rows


@pytest.mark.parametrize(("classes", "rejects"), [(2, False), (2, True), (5, False), (5, True)])
def test_lead_is_the_margin_reversed(classes, rejects):
    classifier = linear(classes=classes, rejects=rejects)
    x, y = rows(classifier, 30)
    logits = classifier.module(x).detach()
    torch.testing.assert_close(Goal(classifier, y).lead(logits), -margin(logits, y, classes))
    assert torch.equal(Goal(classifier, y, target=1).lead(logits) > 0, logits.argmax(1) == 1)


@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize(("classes", "rejects"), [(2, False), (2, True), (5, True)])
def test_gradient_is_that_of_the_loss(classes, rejects, loss, target):
    classifier = linear(classes=classes, rejects=rejects)
    x, y = rows(classifier, 30)
    goal = Goal(classifier, y, target)
    _, values, expected = classifier.gradient(x, lambda logits: goal.loss(logits, loss))
    assert values.shape == (30,)
    logits, grad = goal.gradient(classifier, x, loss)
    torch.testing.assert_close(grad, expected)
    assert torch.equal(logits, classifier.module(x))
    assert classifier.gradients == classifier.queries == 60


def test_log_odds_rise_in_the_direction_of_cross_entropy():
    classifier = linear(classes=4)
    x, y = rows(classifier, 20)
    goal = Goal(classifier, y)
    _, _, entropy = classifier.gradient(x, lambda logits: F.cross_entropy(logits, y, reduction="none"))
    _, odds = goal.gradient(classifier, x)
    torch.testing.assert_close(F.normalize(entropy), F.normalize(odds), rtol=1e-4, atol=1e-5)
    logits = classifier.module(x)
    torch.testing.assert_close(F.softplus(goal.loss(logits, "ce")), F.cross_entropy(logits, y, reduction="none"))


def test_pull_serves_several_weights_with_one_forward_pass():
    classifier, x, _ = images(3, classes=4)
    basis = [torch.eye(4)[j].expand(6, 4) for j in range(4)]
    logits, grads = classifier.pull(x, lambda logits: basis)
    assert (classifier.queries, classifier.gradients) == (6, 24)
    for j, grad in enumerate(grads):
        torch.testing.assert_close(grad, classifier.gradient(x, lambda logits, j=j: logits[:, j])[2])
    assert not logits.requires_grad


@pytest.mark.parametrize("edge", [True, False])
def test_random_starts_fill_the_ball(edge):
    space = Space(-100.0, 100.0, torch.tensor([1.0, 2.0, 4.0]))
    reach = space.reach(torch.zeros(4000, 3), 0.5)
    cube = random_start(reach, space.scale, 0.5, "linf", torch_generator(0), edge) / space.scale
    ball = random_start(reach, space.scale, 0.5, "l2", torch_generator(0), edge) / space.scale
    assert cube.abs().max() <= 0.5 + 1e-6 and ball.norm(dim=1).max() <= 0.5 + 1e-6
    if edge:
        torch.testing.assert_close(cube.abs(), torch.full_like(cube, 0.5))
        torch.testing.assert_close(ball.norm(dim=1), torch.full((4000,), 0.5))
    else:  # a uniform coordinate has mean square r^2 / 3 in a cube and r^2 / 5 in a ball of three dimensions
        torch.testing.assert_close(cube.square().mean(0), torch.full((3,), 0.25 / 3), rtol=0.06, atol=0)
        torch.testing.assert_close(ball.square().mean(0), torch.full((3,), 0.25 / 5), rtol=0.08, atol=0)


def test_a_reach_snaps_as_its_space_does():
    classifier, x, _ = patients()
    space, noise = classifier.space, torch.randn(60, 6, generator=torch.Generator().manual_seed(5))
    everything = space.reach(x, float("inf"))
    for inward in (False, True):
        z = torch.clamp(x + 0.3 * space.scale * noise, everything.lower, everything.upper)
        snapped = everything.snap(z.clone(), inward)
        assert torch.equal(snapped, space.snap(z, x, inward))
        some = torch.tensor([3, 9, 40])
        assert torch.equal(everything.take(some).snap(z[some].clone(), inward), snapped[some])


def test_patients_are_rounded_to_the_nearest_code_or_towards_where_they_started():
    space = patients(relations=False)[0].space
    x = torch.tensor([[100.0, 30.0, 50.0, 0.0, 6.0, 90.0]]).repeat(3, 1)
    z = torch.tensor([[101.6, 30.6, 51.0, 0.7, 4.4, 80.4], [97.4, 29.4, 49.0, 0.2, 4.6, 80.6],
                      [100.4, 31.5, 50.0, -1.0, 6.6, 95.0]])
    nearest = torch.tensor([[102.0, 30.6, 50.0, 1.0, 3.0, 80.0], [97.0, 29.4, 50.0, 0.0, 6.0, 81.0],
                            [100.0, 31.5, 50.0, 0.0, 7.0, 90.0]])
    inward = torch.tensor([[101.0, 30.6, 50.0, 0.0, 6.0, 81.0], [98.0, 29.4, 50.0, 0.0, 6.0, 81.0],
                           [100.0, 31.5, 50.0, 0.0, 6.0, 90.0]])
    assert torch.equal(space.snap(z, x), nearest)
    assert torch.equal(space.snap(z, x, inward=True), inward)


def test_an_input_off_the_grid_stays_possible():
    space = patients(relations=False)[0].space
    x = torch.tensor([[100.3, 30.0, 50.5, 0.0, 5.0, 90.7]]).repeat(200, 1)
    noise = torch.rand(200, 6, generator=torch.Generator().manual_seed(6)) * 2 - 1
    for eps in (0.001, 0.004, 0.02, 0.3):
        for inward in (False, True):
            reach = space.reach(x, eps)
            z = torch.clamp(x + eps * space.scale * noise, reach.lower, reach.upper)
            snapped = reach.snap(z.clone(), inward)
            assert space.contains(snapped, x).all()
            assert (space.distance(snapped, x) <= eps + 1e-5).all()
            if inward:
                assert ((snapped - x).abs() <= (z - x).abs()).all()
