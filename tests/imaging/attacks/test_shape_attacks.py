"""Speckle, bias fields, rotations and warps: against closed forms on linear models, and against their contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import rotate
from torch import nn

from imaging.attacks.biasfield import BiasField
from imaging.attacks.spatial import RotationTranslation, Warp
from imaging.attacks.speckle import AdversarialSpeckle, Speckle
from imaging.space import ImageSpace
from imaging.transforms import spline
from suite.attacks._search import Goal
from suite.base.errors import NotApplicable
from suite.base.seeding import torch_generator
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from tests.support.figures import brightness, figures
from tests.support.models import images

ASKS = [Speckle(), Speckle(noise="uniform"), RotationTranslation(angles=5, shifts=3), RotationTranslation(draws=10)]
CLIMBS = [AdversarialSpeckle(steps=10), BiasField(steps=10), Warp(steps=10)]
ALL = ASKS + CLIMBS


def name(attack):
    return f"{type(attack).__name__}-{getattr(attack, 'noise', getattr(attack, 'draws', ''))}"


def fooled(classifier, x, y):
    with torch.no_grad():
        return classifier.module(x).argmax(1) != y


def lead(classifier, x, y, target=None):
    with torch.no_grad():
        return Goal(classifier, y, target).lead(classifier.module(x))


# --- closed forms ----------------------------------------------------------------------------------------------------

def test_adversarial_speckle_is_exact_on_a_linear_model():
    classifier, x, y = brightness()
    slope = Goal(classifier, y).gradient(classifier, x)[1]
    found = AdversarialSpeckle(eps=0.3, early_stop=False)(classifier, x, y)
    torch.testing.assert_close(found, x + 0.3 * x * slope.sign())


def test_a_field_of_degree_0_is_one_gain_and_takes_its_bound():
    classifier, x, y = brightness()
    rises = lead(classifier, 2 * x, y) > lead(classifier, x, y)
    classifier.module[1].bias = nn.Parameter(torch.zeros(2))  # a gain alone cannot change the sign without one
    gain = torch.where(rises, np.exp(0.3), np.exp(-0.3)).float()
    found = BiasField(eps=0.3, degree=0, bend=0.0, early_stop=False)(classifier, x, y)
    torch.testing.assert_close(found, x * gain.view(-1, 1, 1, 1))


def test_no_bias_field_beats_the_best_gain_of_each_pixel_and_a_high_degree_comes_nearer():
    classifier, x, y = brightness()
    slope = Goal(classifier, y).gradient(classifier, x)[1]
    bound = lead(classifier, x * (0.2 * slope.sign()).exp(), y)
    low, high = (lead(classifier, BiasField(eps=0.2, degree=d, early_stop=False)(classifier, x, y), y) for d in (0, 8))
    assert (high <= bound + 1e-5).all()
    assert (bound - high).mean() < 0.4 * (bound - low).mean()


def test_a_quarter_turn_and_a_whole_pixel_are_exact():
    _, x, _ = images(3)
    turned = RotationTranslation(eps=90.0).moved(x, torch.tensor([[1.0, 0, 0]]).expand(6, 3))
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    shifted = RotationTranslation(eps=0.0, shift=0.125).moved(x, torch.tensor([[0, 1.0, -1.0]]).expand(6, 3))
    expected = torch.zeros_like(x)
    expected[:, :, :-1, 1:] = x[:, :, 1:, :-1]  # a pixel to the right and up; black comes in
    torch.testing.assert_close(shifted, expected, atol=1e-5, rtol=0)


def test_an_oblong_image_turns_without_shear():
    x = torch.zeros(1, 1, 8, 16)
    x[..., 3:5, 7:9] = 1  # the middle stays in the middle, whatever the sides
    turned = RotationTranslation(eps=90.0).moved(x, torch.tensor([[1.0, 0, 0]]))
    torch.testing.assert_close(turned, x, atol=1e-5, rtol=0)


def test_the_grid_finds_the_one_pose_that_fools():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        module[1].weight.zero_(), module[1].bias.copy_(torch.tensor([0.5, 0.0]))
        module[1].weight[1, 7] = 1.0  # says 1 when the pixel top right is bright
    classifier = TorchClassifier(module, 2, ImageSpace())
    x = torch.zeros(3, 1, 8, 8)
    x[0, 0, 1, 6] = x[1, 0, 4, 4] = 1.0
    attack = RotationTranslation(eps=10.0, shift=0.125, angles=3, shifts=3)
    found = attack(classifier, x, torch.zeros(3, dtype=torch.int64))
    assert fooled(classifier, found, torch.zeros(3)).tolist() == [True, False, False]
    assert torch.equal(found[1:], x[1:])


def test_the_worst_angle_is_that_of_scipy_tried_one_by_one():
    classifier, _, (x, y) = figures()
    x, y = x[:6], y[:6]
    found = RotationTranslation(eps=40.0, angles=9, shifts=1, early_stop=False)(classifier, x, y)
    how = {"axes": (1, 2), "reshape": False, "order": 1, "mode": "grid-constant"}
    turned = [np.stack([rotate(z, angle, **how) for z in x.numpy()]) for angle in np.linspace(-40, 40, 9)]
    leads = torch.stack([lead(classifier, torch.from_numpy(z), y) for z in turned])
    assert len(leads.argmax(0).unique()) > 1
    torch.testing.assert_close(lead(classifier, found, y), leads.amax(0), atol=1e-3, rtol=0)


def test_splines_are_those_of_scipy_and_keep_between_their_control_points():
    control = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    knots = np.arange(-3, 7.0)
    rows = BSpline(knots, np.eye(6), 3)(np.linspace(0, 3, 20))
    np.testing.assert_allclose(spline.matrix(20, 6).numpy(), rows, atol=1e-6)
    field = spline.field(control, 9, 20)
    assert field.shape == (9, 20)
    assert control.min() <= field.min() and field.max() <= control.max()
    torch.testing.assert_close(spline.field(torch.ones(4, 4), 7, 7), torch.ones(7, 7))


def test_a_warp_of_equal_points_is_a_translation():
    _, x, _ = images(1)
    theta = torch.zeros(6, 2, 6, 6)
    theta[:, 0] = 1.0  # each pixel comes from one pixel to the right
    expected = torch.cat([x[..., 1:], x[..., -1:]], 3)
    torch.testing.assert_close(Warp(eps=1.0).render(x, theta), expected, atol=1e-5, rtol=0)


# --- budgets and smoothness ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [Speckle(), Speckle(noise="uniform"), AdversarialSpeckle(), BiasField()], ids=name)
def test_no_pixel_changes_by_more_than_its_share(attack):
    classifier, x, y = brightness(12, 3)
    attack = replace(attack, eps=0.25, early_stop=False)
    found = attack(classifier, x, y)
    most = 0.25 if "share" in attack.unit else float(np.expm1(0.25))
    share = ((found - x) / x).abs().amax()
    assert 0.8 * most < share <= most * (1 + 1e-5)


def test_gaussian_speckle_has_half_the_budget_for_standard_deviation():
    classifier, _, _ = brightness(64)
    x = torch.full((8, 1, 64, 64), 0.5)
    share = Speckle(draws=1, eps=0.2, early_stop=False)(classifier, x, torch.zeros(8).long()) / x - 1
    assert share.std() == pytest.approx(0.1 * 0.9608, rel=0.01)  # of a normal cut off at two standard deviations


def test_displacements_keep_to_the_budget_and_are_smooth():
    theta = Warp().start(torch.zeros(50, 1, 28, 28), torch_generator(0)) * 3
    field = spline.field(Warp().limit(theta), 28, 28)
    assert field.norm(dim=1).max() <= 1 + 1e-6
    noise = torch.rand(50, 2, 28, 28, generator=torch_generator(0)) * 2 - 1
    assert field.diff(dim=3).abs().mean() < 0.15 * noise.diff(dim=3).abs().mean()


@pytest.mark.parametrize(("degree", "share"), [(1, 0.1), (3, 0.5)])
def test_what_the_bias_field_attack_finds_has_no_edge(degree, share):
    classifier, x, y = brightness(28)
    log_gain = (BiasField(eps=0.3, degree=degree, early_stop=False)(classifier, x, y) / x).log()
    step = torch.stack([log_gain.diff(dim=axis).abs().amax() for axis in (2, 3)]).max()
    assert log_gain.abs().amax() == pytest.approx(0.3, rel=1e-3)
    assert 0 < step < 0.3 * share


# --- the contract ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", ALL, ids=name)
@pytest.mark.parametrize(("channels", "n"), [(1, 1), (3, 3), (3, 6)])
def test_images_stay_possible_and_unfooled_rows_as_they_were(attack, channels, n):
    classifier, x, y = images(channels, classes=4)
    x, y = x[:n], y[:n]
    found = attack(classifier, x, y, seed=3)
    assert found.shape == x.shape and found.dtype == torch.float32
    assert classifier.space.contains(found, x).all()
    assert torch.equal((found != x).flatten(1).any(1), fooled(classifier, found, y))
    assert attack.norm == "own" and attack.unit


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_no_budget_no_change_and_no_rows_no_trouble(attack):
    classifier, x, y = figures()[0], *figures()[2]
    none = replace(attack, eps=0.0, early_stop=False, **{"shift": 0.0} if hasattr(attack, "shift") else {})
    torch.testing.assert_close(none(classifier, x[:8], y[:8]), x[:8], atol=1e-5, rtol=0)
    assert attack(classifier, x[:0], y[:0]).shape == (0, 1, 16, 16)


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_the_seed_decides_and_global_random_state_is_left_alone(attack):
    classifier, _, (x, y) = figures()
    x, y, state = x[:24], y[:24], torch.random.get_rng_state()
    attack = replace(attack, early_stop=False, **{"steps": 2} if hasattr(attack, "steps") else {})
    if attack.norm and getattr(attack, "draws", 0) is None:
        attack = replace(attack, early_stop=True)  # a whole grid has one worst pose, in whatever order it is tried
    first = attack(classifier, x, y, seed=1)
    assert torch.equal(first, attack(classifier, x, y, seed=1))
    assert not torch.equal(first, attack(classifier, x, y, seed=2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in classifier.module.parameters())


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize(("attack", "gradients", "queries"), [
    (Speckle(draws=7), 0, 7), (RotationTranslation(angles=5, shifts=3), 0, 45), (RotationTranslation(draws=10), 0, 10),
    (AdversarialSpeckle(steps=6), 6, 7), (BiasField(steps=6), 6, 7), (Warp(steps=6), 6, 7)],
    ids=lambda v: name(v) if hasattr(v, "norm") else str(v))
def test_full_strength_takes_exactly_its_passes(attack, gradients, queries, n):
    classifier, _, (x, y) = figures()
    replace(attack, early_stop=False)(classifier, x[:n], y[:n])
    assert (classifier.gradients, classifier.queries) == (gradients * n, queries * n)


@pytest.mark.parametrize("attack", CLIMBS, ids=name)
def test_batches_change_no_result(attack):
    classifier, _, (x, y) = figures()
    attack = replace(attack, step=0.5, restarts=1)
    attack_from_0 = type("FromZero", (type(attack),), {"start": lambda self, x, g: torch.zeros_like(
        type(attack).start(self, x, g))})(**vars(attack))
    whole = attack_from_0(classifier, x[:20], y[:20])
    classifier.batch = 7
    torch.testing.assert_close(attack_from_0(classifier, x[:20], y[:20]), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attack", CLIMBS, ids=name)
def test_gradients_are_asked_for_only_where_there_are_any(attack):
    class Constant:
        def predict_proba(self, x):
            return np.tile([0.2, 0.8], (len(x), 1))

    forest = EstimatorClassifier(Constant(), 2, ImageSpace())
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.ones(2).long()
    with pytest.raises(NotApplicable, match="needs gradients"):
        attack(forest, x, y)
    for asks in ASKS:
        assert torch.equal(asks(forest, x, y), x)


# --- relations -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("attack", "budgets"), [
    (Speckle(), (0.05, 0.4, 0.8)), (AdversarialSpeckle(steps=10), (0.02, 0.15, 0.4)),
    (BiasField(steps=15), (0.02, 0.2, 0.6)), (RotationTranslation(shift=0.0, angles=9, shifts=1), (2.0, 20.0, 60.0)),
    (Warp(steps=15), (0.2, 1.0, 2.5))],
    ids=lambda v: name(v) if hasattr(v, "norm") else "")
def test_a_larger_budget_is_not_weaker(attack, budgets):
    classifier, _, (x, y) = figures()
    x, y = x[:80], y[:80]
    hits = [int(fooled(classifier, replace(attack, eps=eps)(classifier, x, y), y).sum()) for eps in budgets]
    assert hits == sorted(hits) and hits[0] < hits[2]


def test_the_attacker_s_speckle_is_stronger_than_chance():
    classifier, _, (x, y) = figures()
    chance, skill = (fooled(classifier, attack(classifier, x, y), y).sum()
                     for attack in (Speckle(eps=0.15), AdversarialSpeckle(eps=0.15)))
    assert skill > 2 * chance


@pytest.mark.parametrize("attack", [BiasField(eps=0.6, steps=20), Warp(eps=1.0, steps=20)], ids=name)
def test_climbing_beats_the_random_start(attack):
    classifier, _, (x, y) = figures()
    x, y = x[:40], y[:40]
    climbed = lead(classifier, replace(attack, early_stop=False)(classifier, x, y), y)
    with torch.no_grad():
        drawn = attack.render(x, attack.start(x, torch_generator(0)).sign()).clamp(0, 1)
    assert climbed.mean() > lead(classifier, drawn, y).mean() + 1


@pytest.mark.parametrize("attack", [AdversarialSpeckle(eps=0.4), BiasField(eps=1.0), Warp(eps=2.0),
                                    RotationTranslation(eps=60.0, angles=13, shifts=3)], ids=name)
def test_a_target_is_reached_by_name(attack):
    classifier, _, (x, y) = figures()
    x, y = x[y != 1][:60], y[y != 1][:60]
    reached = classifier.judge(replace(attack, target=1)(classifier, x, y)) == 1
    assert reached.sum() > (classifier.judge(x) == 1).sum() + 5


def test_rotation_is_as_strong_as_that_of_art():
    evasion = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    classifier, _, (x, y) = figures()
    wrapped = PyTorchClassifier(classifier.module, nn.CrossEntropyLoss(), (1, 16, 16), 3, clip_values=(0.0, 1.0),
                                device_type="cpu")
    x, y = x[:60], y[:60]
    theirs = evasion.SpatialTransformation(wrapped, max_translation=12.5, num_translations=3, max_rotation=20,
                                           num_rotations=5, verbose=False).generate(x.numpy(), y.numpy())
    ours = RotationTranslation(eps=20.0, shift=0.125, angles=5, shifts=3)(classifier, x, y)
    # ART looks for one pose that suits all images, and we for one an image; poses are interpolated by different code
    less, more = (fooled(classifier, z, y).float().mean() for z in (torch.from_numpy(theirs), ours))
    assert less > 0 and more >= less - 2 / len(x)
