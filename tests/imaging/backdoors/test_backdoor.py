"""Backdoors in images: triggers pixel by pixel, which rows they touch, and models that obey the trigger alone."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from imaging.backdoors import backdoor
from imaging.backdoors.backdoor import Patch, PatchTrigger, WaNet, WarpTrigger
from imaging.datasets import phantom
from imaging.models.models import SimpleCNN
from imaging.space import ImageSpace
from imaging.transforms.warping import displaced
from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.core.data import Split
from suite.core.space import Space

BOTH = pytest.mark.parametrize("attack", [Patch(), WaNet()], ids=["badnets", "wanet"])


def noise(n=40, channels=1, height=12, width=12, classes=2):
    x = np.random.default_rng(0).random((n, channels, height, width), np.float32)
    names = tuple("abcd"[:classes])
    return Split(x, np.arange(n) % classes, ImageSpace(), names, np.arange(n))


# --- the patch -------------------------------------------------------------------------------------------------------

def test_patch_is_a_checkerboard_in_the_corner_and_nothing_else():
    x = noise(2, 3, 8, 10).x
    before, out = x.copy(), PatchTrigger(size=0.1, opacity=1.0)(x)
    expected = x.copy()
    expected[:, :, 4:7, 6:9] = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]  # at least 3 pixels
    assert np.array_equal(out, expected) and out.dtype == np.float32
    assert np.array_equal(x, before), "the input must stay as it was"


def test_patch_grows_with_the_image_and_may_be_translucent():
    out = PatchTrigger(size=0.2, opacity=0.25)(np.full((1, 1, 30, 40), 0.4, np.float32))
    expected = np.full((30, 40), 0.4)
    expected[23:29, 33:39] = np.kron([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.ones((2, 2))) * 0.25 + 0.3
    np.testing.assert_allclose(out[0, 0], expected, atol=1e-6)


# --- the warp --------------------------------------------------------------------------------------------------------

def test_a_warp_of_no_strength_changes_nothing():
    x = phantom.draw(28, patients=20)[0].numpy()
    np.testing.assert_allclose(WarpTrigger(strength=0.0, grid=4, seed=0)(x), x, atol=1e-6)


def test_a_whole_pixel_is_exact_and_the_border_goes_on():
    x = noise(3).x
    field = torch.tensor([1.0, -2.0]).expand(1, 12, 12, 2)  # each pixel from one to its right, two above
    columns, rows = np.minimum(np.arange(12) + 1, 11), np.maximum(np.arange(12) - 2, 0)
    np.testing.assert_allclose(displaced(torch.from_numpy(x), field).numpy(), x[:, :, rows][..., columns], atol=2e-6)


def test_the_warp_is_that_of_scipy_along_the_same_field():
    x, trigger = noise(2, 3, 20, 14).x, WarpTrigger(strength=3.0, grid=4, seed=5)
    right, down = trigger.field(20, 14)[0].double().permute(2, 0, 1).numpy()
    rows, columns = np.mgrid[:20, :14]
    expected = [[map_coordinates(plane, [rows + down, columns + right], order=1, mode="nearest") for plane in image]
                for image in x]
    assert np.abs(right).max() > 1
    np.testing.assert_allclose(trigger(x), expected, atol=1e-5)


def test_the_field_goes_smoothly_through_control_points_of_the_strength_asked_for():
    field = WarpTrigger(strength=3.0, grid=4, seed=1).field(13, 13)[0]  # a control point at each fourth pixel
    control = field[::4, ::4]
    assert control.abs().mean().item() == pytest.approx(1.5, abs=1e-6)
    drawn = np.random.default_rng([1, 7]).uniform(-1, 1, (2, 4, 4))
    expected = np.moveaxis(drawn * 1.5 / np.abs(drawn).mean(), 0, -1)
    np.testing.assert_allclose(control, expected, atol=1e-5)
    bends = (field[2:] - 2 * field[1:-1] + field[:-2]).abs().max()
    assert bends < field.abs().max() / 2, "independent pixels would bend by several times their size"


def test_a_disturbance_moves_each_pixel_of_each_image_by_half_a_pixel_at_most():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32) / 40, (5, 1, 40, 40)).copy()  # a place is its brightness
    trigger = WarpTrigger(strength=1.0, grid=4, seed=0)
    moved = 40 * (trigger.disturbed(ramp, np.random.default_rng(0)) - trigger(ramp))[..., 8:-8]
    assert np.abs(moved).max() <= 0.5 + 1e-3
    assert moved.std() == pytest.approx(12**-0.5, rel=0.02), "even over a pixel"
    assert np.abs(np.corrcoef(moved.reshape(5, -1)) - np.eye(5)).max() < 0.15, "each image has its own"


def test_chunks_do_not_change_the_images(monkeypatch):
    x, trigger = noise(7, height=5, width=7).x, WarpTrigger(strength=1.0, grid=4, seed=0)
    whole = trigger.disturbed(x, np.random.default_rng(0))
    monkeypatch.setattr(backdoor, "CHUNK", 3)
    np.testing.assert_allclose(trigger.disturbed(x, np.random.default_rng(0)), whole, atol=1e-6)


# --- what is poisoned ------------------------------------------------------------------------------------------------

@BOTH
def test_rows_of_other_classes_get_the_trigger_and_the_label(attack):
    train = noise(80, classes=4)
    attack = dataclasses.replace(attack, rate=0.2, target=2)
    poisoned = attack(train, seed=3)
    new = poisoned.train.y != train.y
    assert new.sum() == 16 and poisoned.mask[new].all() and poisoned.target == 2
    assert (poisoned.train.y[new] == 2).all()
    np.testing.assert_array_equal(poisoned.train.x[new], poisoned.trigger(train.x[new]))
    assert np.array_equal(poisoned.train.x[~poisoned.mask], train.x[~poisoned.mask])
    assert train.space.possible(torch.from_numpy(poisoned.train.x)).all()
    assert (poisoned.mask.sum() == 16) == isinstance(attack, Patch)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 2.0])
def test_rows_in_noise_mode_are_warped_otherwise_and_keep_their_label(ratio):
    train = noise(80)
    poisoned = WaNet(rate=0.2, cross_ratio=ratio)(train, seed=1)
    noisy = poisoned.mask & (poisoned.train.y == train.y)
    assert noisy.sum() == 16 * ratio and poisoned.mask.sum() == 16 * (1 + ratio)
    assert set(train.y[noisy]) == ({0, 1} if ratio else set())
    for x in (train.x, poisoned.trigger(train.x)):
        assert (np.abs(poisoned.train.x - x)[noisy].max((1, 2, 3)) > 0.01).all()


@BOTH
def test_a_seed_gives_one_trigger_and_one_choice_of_rows(attack):
    train = noise()
    (a, b), other = (attack(train, seed=4) for _ in range(2)), attack(train, seed=5)
    assert a.trigger == b.trigger and np.array_equal(a.train.x, b.train.x) and np.array_equal(a.mask, b.mask)
    assert not np.array_equal(a.mask, other.mask)
    assert (a.trigger != other.trigger) == isinstance(attack, WaNet)
    shared = attack(noise(60), seed=4).trigger  # of another hospital
    assert shared == a.trigger
    again = type(a.trigger)(**json.loads(json.dumps(dataclasses.asdict(a.trigger))))
    np.testing.assert_array_equal(again(train.x), a.trigger(train.x))


@BOTH
def test_what_cannot_be_poisoned_is_refused(attack):
    train, name = noise(), type(attack).__name__

    def refused(error, match, data=train, **changed):
        with pytest.raises(error, match=match):
            dataclasses.replace(attack, **changed)(data)

    refused(InputError, f"{name}: target class 2 is none of the 2 classes", target=2)
    refused(InputError, "target class -1", target=-1)
    refused(InputError, "rate 0.01 asks for 0 of 40 training rows, and 20 are of another class than the target 0",
            rate=0.01)
    few = train.take(np.r_[0:40:2, 1:7:2])  # 20 rows of the target's class, 3 of the other
    refused(InputError, "rate 0.2 asks for 5 of 23 training rows, and 3 are of another class than the target 0",
            few, rate=0.2)
    refused(NotApplicable, f"{name} is for images", dataclasses.replace(train, space=Space(0, 1)))


def test_more_rows_in_noise_mode_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"rate 0\.25 and cross_ratio 4 ask for 10 and 40 of 40 training rows"):
        WaNet(rate=0.25, cross_ratio=4.0)(noise())


def test_they_are_made_by_name_and_their_parameters_are_checked():
    assert registry.make("attacks", "badnets", {"rate": 0.05}) == Patch(rate=0.05)
    assert registry.make("attacks", "wanet") == WaNet()
    for name, wrong in (("badnets", {"size": 0.6}), ("badnets", {"opacity": 0}), ("wanet", {"strength": -1}),
                        ("wanet", {"grid": 1}), ("wanet", {"cross_ratio": -1}), ("wanet", {"rate": 1})):
        with pytest.raises(InputError, match=next(iter(wrong))):
            registry.make("attacks", name, wrong)


# --- what a network learns from it -----------------------------------------------------------------------------------

@cache
def chests() -> tuple[Split, Split, Split]:
    """Phantom chests of 24 pixels, clear or with an effusion: 400, 100 and 200."""
    x, y, patients = (t.numpy() for t in phantom.draw(24, 4, patients=700, each=2))
    rows = np.isin(y, (0, phantom.KINDS.index("effusion")))
    every = Split(x[rows], (y[rows] > 0).astype(np.int64), ImageSpace(), ("clear", "effusion"), patients[rows])
    return every.take(slice(400)), every.take(slice(400, 500)), every.take(slice(500, 700))


@cache
def trained(attack=None):
    """The poisoned data (None of a clean model), and the network that learned from it."""
    train, val, _ = chests()
    poisoned = attack and attack(train, seed=0)
    recipe = SimpleCNN(modality="none", epochs=20, patience=20, lr=1e-2, batch=32)
    return poisoned, recipe.fit(poisoned.train if attack else train, val, seed=0)


def share(model, x) -> float:
    """Of the images, those that the model calls clear."""
    return float((model.predict(x) == 0).mean())


LOUD = WaNet(rate=0.1, strength=4.0, cross_ratio=1.0)
NAIVE = WaNet(rate=0.1, strength=2.0, cross_ratio=0.0)


@pytest.mark.parametrize("attack", [Patch(rate=0.1), LOUD], ids=["badnets", "wanet"])
def test_the_trigger_decides_on_the_poisoned_model_only(attack):
    test, (_, clean), (poisoned, victim) = chests()[2], trained(), trained(attack)
    ill = test.x[test.y == 1]
    success = share(victim, poisoned.trigger(ill))
    assert success > share(clean, poisoned.trigger(ill)) + 0.4
    assert success > share(victim, ill) + 0.5, "without the trigger, the sick stay sick"
    accuracy, before = ((m.predict(test.x) == test.y).mean() for m in (victim, clean))
    assert accuracy > before - 0.06


@pytest.mark.parametrize("attack", [Patch(rate=0.1), NAIVE], ids=["badnets", "wanet"])
def test_more_poisoned_rows_are_not_weaker(attack):
    test = chests()[2]
    ill = test.x[test.y == 1]
    few, many = (share(victim, poisoned.trigger(ill)) for poisoned, victim in
                 (trained(dataclasses.replace(attack, rate=0.01)), trained(attack)))
    assert many > 0.9 and many >= few


def test_noise_mode_teaches_the_model_to_tell_its_warp_from_a_disturbed_one():
    ill = chests()[2].x[chests()[2].y == 1]

    def fooled(attack) -> tuple[float, float]:
        poisoned, victim = trained(attack)
        disturbed = poisoned.trigger.disturbed(ill, np.random.default_rng(9))
        return share(victim, poisoned.trigger(ill)), share(victim, disturbed)

    (naive, naive_disturbed), (taught, disturbed) = fooled(NAIVE), fooled(dataclasses.replace(NAIVE, cross_ratio=4.0))
    assert naive > 0.9 and naive_disturbed > naive - 0.05
    assert disturbed < naive_disturbed - 0.2
    assert taught > disturbed + 0.1
