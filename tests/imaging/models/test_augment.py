"""Augmentation: known pictures for each kind of change, each image its own draw, nothing global touched."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from imaging.models.augment import MODALITIES, NOTHING, Augmentation
from imaging.models.models import ResNetSmall, SimpleCNN
from imaging.space import ImageSpace
from suite.audit.plan import Modality
from suite.base.errors import InputError
from suite.base.seeding import torch_generator
from suite.core.data import Split
from suite.defenses.robust.ensemble import MCDropout


def pictures(n=64, channels=1, height=28, width=28):
    return torch.rand(n, channels, height, width, generator=torch_generator(0))


def augmented(change, x, seed=1):
    return change(x, torch_generator(seed))


def equal(a, b):
    return (a - b).abs().flatten(1).amax(1) < 1e-4


def test_nothing_changes_nothing_and_draws_nothing():
    generator = torch_generator(1)
    before = generator.get_state()
    x = pictures()
    assert NOTHING(x, generator) is x and torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("change", "dims"), [(Augmentation(mirror=True), [3]), (Augmentation(upend=True), [2])])
def test_half_of_the_images_are_flipped_and_the_others_left(change, dims):
    x = pictures(200, 3, 12, 9)
    found = augmented(change, x)
    flipped, left = equal(found, x.flip(dims)), equal(found, x)
    assert (flipped ^ left).all() and 70 < flipped.sum() < 130


class Quarter(Augmentation):
    """Turns every image by a right angle."""

    def _affine(self, x, mirror, upend, angle, *rest):
        return super()._affine(x, mirror, upend, torch.ones_like(angle), *rest)


def test_a_turn_turns_pixels_also_in_images_that_are_no_squares():
    """By a right angle about the middle: the middle square of the image is that of `rot90`."""
    x = pictures(4, 1, 20, 12)
    found = augmented(Quarter(angle=90), x)
    assert equal(found[:, :, 4:16], x[:, :, 4:16].rot90(1, (2, 3))).all() \
        or equal(found[:, :, 4:16], x[:, :, 4:16].rot90(-1, (2, 3))).all()


def test_shifts_reach_their_bound_and_no_further():
    """The brightest pixel's place tells the shift; bilinear sampling spreads it over two pixels at most."""
    x = torch.zeros(300, 1, 40, 40)
    x[:, :, 20, 20] = 1
    found = augmented(Augmentation(shift=0.1), x)
    weight = found / found.sum((2, 3), keepdim=True)
    place = torch.arange(40.0)
    down, right = (weight.sum(3) * place).sum(2) - 20, (weight.sum(2) * place).sum(2) - 20
    for moved in (down, right):
        assert moved.abs().max() <= 4 + 1e-3 and moved.max() > 3.5 and moved.min() < -3.5
    assert abs(float(torch.corrcoef(torch.cat([down, right], 1).T)[0, 1])) < 0.2


def test_intensities_by_hand():
    x = torch.full((500, 1, 4, 4), 0.25)
    gain = augmented(Augmentation(gain=0.2), x)[:, 0, 0, 0]
    assert gain.min() >= 0.2 - 1e-6 and gain.max() <= 0.3 + 1e-6 and gain.std() > 0.02
    gamma = augmented(Augmentation(gamma=0.5), x)[:, 0, 0, 0].log() / torch.tensor(0.25).log()
    assert gamma.min() >= 0.6 and gamma.max() <= 1.65 and gamma.log().abs().max() > 0.45


@pytest.mark.parametrize("name", sorted(set(MODALITIES) - {"none"}))
def test_every_modality_gives_possible_images_each_with_its_own_draw(name):
    one = pictures(1, 3)
    x = one.expand(8, -1, -1, -1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = augmented(MODALITIES[name], x)
    assert found.shape == x.shape and found.min() >= 0 and found.max() <= 1 and found.isfinite().all()
    assert torch.cdist(found.flatten(1), found.flatten(1)).add(torch.eye(8)).min() > 0.1
    assert torch.equal(found, augmented(MODALITIES[name], x)) and not torch.equal(found,
                                                                                 augmented(MODALITIES[name], x, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_heart_stays_on_its_side():
    """A chest X-ray is never mirrored: what is bright on the left stays there."""
    x = torch.zeros(100, 1, 28, 28)
    x[..., :8] = 1
    found = augmented(MODALITIES["xray"], x)
    assert (found[..., :14].mean((1, 2, 3)) > found[..., 14:].mean((1, 2, 3)) + 0.2).all()
    mirrored = augmented(replace(MODALITIES["xray"], mirror=True), x)
    assert (mirrored[..., :14].mean((1, 2, 3)) < mirrored[..., 14:].mean((1, 2, 3))).any()


def test_a_recipe_augments_as_its_modality_says():
    x = pictures()
    assert torch.equal(ResNetSmall(modality="mri").augment(x, torch_generator(3)),
                       MODALITIES["mri"](x, torch_generator(3)))
    with pytest.raises(InputError, match="modality must be one of xray, ct, mri"):
        ResNetSmall(modality="pet")


@pytest.mark.parametrize(("said", "of_data", "used"), [(None, "mri", "mri"), (None, "", "other"), ("ct", "mri", "ct"),
                                                       ("none", "mri", "none")])
def test_a_training_augments_as_its_data_says_unless_the_recipe_does(said, of_data, used):
    x = np.random.default_rng(0).random((8, 1, 8, 8)).astype(np.float32)
    train = Split(x, np.arange(8) % 2, ImageSpace(), ("a", "b"), np.arange(8), modality=of_data)
    recipe = SimpleCNN(epochs=1, modality=said)
    made, wanted = (r.fit(train.take(slice(6)), train) for r in (recipe, replace(recipe, modality=used)))
    assert made.recipe.modality == used and np.array_equal(made.predict_proba(x), wanted.predict_proba(x))
    dropped = MCDropout(draws=2)(recipe, train, train)  # whose recipe wraps the other
    again = MCDropout(draws=2)(replace(recipe, modality=used), train, train)
    assert all(torch.equal(a, b) for a, b in zip(dropped.module.parameters(), again.module.parameters(), strict=True))


def test_modalities_are_those_of_a_plan():
    assert tuple(MODALITIES) == get_args(Modality)
