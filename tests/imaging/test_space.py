"""The space of images, and their cosine transform, against independent libraries."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from imaging.space import ImageSpace
from imaging.transforms import dct


def pair(shape=(4, 3, 28, 28), seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator)
    return a, (a + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)


def test_l0_counts_pixels_and_not_channels():
    a, _ = pair()
    b = a.clone()
    b[0, :, 3, 4] += 0.1
    b[0, 1, 5, 6] += 0.1
    b[1, 0, 0, 0] += 0.1
    assert ImageSpace().distance(a, b, "l0").tolist() == [2, 1, 0, 0]


def test_equal_images_look_alike_and_more_change_is_more_visible():
    a, b = pair()
    same, some, more = (ImageSpace().visibility(a, z) for z in (a, a.lerp(b, 0.3), b))
    torch.testing.assert_close(same["ssim"], torch.ones(4))
    assert same["psnr"].isinf().all() and (same["l2"] == 0).all()
    assert all((some[name] > more[name]).all() for name in ("ssim", "psnr"))
    assert (some["l2"] < more["l2"]).all()


def test_psnr_and_l2_by_hand():
    a = torch.zeros(1, 1, 16, 16)
    found = ImageSpace().visibility(a, a + 0.1)
    assert found["psnr"].item() == pytest.approx(20, abs=1e-4)
    assert found["l2"].item() == pytest.approx(1.6, rel=1e-5)


@pytest.mark.parametrize("side", [6, 7, 28])
def test_small_and_odd_images_have_a_similarity_too(side):
    a, b = pair((2, 1, side, side))
    assert (((s := ImageSpace().visibility(a, b)["ssim"]) > 0) & (s < 1)).all()


@pytest.mark.parametrize("shape", [(8, 8), (28, 20)])
def test_cosine_transform_is_that_of_scipy_and_comes_back(shape):
    a, _ = pair((2, 1, *shape))
    found = dct.spectrum(a)
    np.testing.assert_allclose(found.numpy(), dctn(a.numpy(), axes=(2, 3), norm="ortho"), atol=1e-5)
    torch.testing.assert_close(dct.image(found), a)
