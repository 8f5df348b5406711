"""The chest phantom: synthetic and labelled so, reproducible, split by patient, and showing what its classes say."""

import numpy as np
import pytest
import torch

from imaging.datasets import data, phantom
from suite.audit.plan import Images
from suite.base.errors import InputError


def test_it_is_labelled_synthetic_and_split_by_patient():
    dataset = data.chest_phantom()
    assert dataset.provenance.synthetic and "SYNTHETIC" in dataset.provenance.source
    assert "SYNTHETIC" in dataset.provenance.note and dataset.classes == ("normal", "opacity")
    held = [set(s.patients.tolist()) for s in (dataset.train, dataset.val, dataset.test)]
    assert len(set().union(*held)) == sum(map(len, held)) == phantom.PATIENTS
    assert dataset.train.x.shape == (900, 1, 64, 64) and len(dataset.val) == len(dataset.test) == 300
    assert dataset.train.x.min() >= 0 and dataset.train.x.max() <= 1
    with pytest.raises(InputError, match="is generated and reads no file"):
        data.chest_phantom(path="x.npz")


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    (a, y, whose), (b, *_), (other, *_) = (phantom.draw(16, patients=20, seed=s) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, other)
    assert torch.equal(before, torch.get_rng_state())
    assert whose.bincount().tolist() == [phantom.EACH] * 20
    assert all(len(y[whose == p].unique()) == 1 for p in range(20))


@pytest.mark.parametrize("size", [28, 128])
def test_sizes_channels_and_four_classes(size):
    x, y, _ = phantom.draw(size, 4, patients=8, each=2)
    assert x.shape == (16, 1, size, size) and y.bincount().tolist() == [4, 4, 4, 4]
    dataset = data.chest_phantom_4(images=Images(size=16, channels=3))
    assert dataset.classes == phantom.KINDS and dataset.train.x.shape[1:] == (3, 16, 16)
    assert (dataset.train.x[:, 0] == dataset.train.x[:, 2]).all()


def test_chunks_do_not_change_the_images(monkeypatch):
    whole = phantom.draw(16, 4, patients=12)[0]
    monkeypatch.setattr(phantom, "CHUNK", 5)
    torch.testing.assert_close(phantom.draw(16, 4, patients=12)[0], whole)


def test_a_lesion_adds_tissue_inside_one_lung_and_clear_adds_none():
    generator = torch.Generator().manual_seed(0)
    n, size = 40, 64
    lesion = {"side": torch.ones(n, 1, 1), "across": torch.zeros(n, 1, 1), "down": torch.zeros(n, 1, 1),
              "contrast": torch.full((n, 1, 1), 0.5), "radius": torch.full((n, 1, 1), 0.15)}
    line = torch.linspace(-1.5, 1.5, size)
    a, b = line[None, None, :].expand(n, size, size), line[None, :, None].expand(n, size, size)
    lung = ((a.abs() < 1) & (b.abs() < 1)).float()
    mottle = torch.randn(n, size, size, generator=generator) * 0.5
    for kind in range(4):
        sides = [(a, b, torch.zeros_like(lung)), (a, b, lung)]
        added = phantom._lesion(torch.full((n, 1, 1), kind), lesion, sides, mottle)
        assert (added[lung == 0] == 0).all() and (added >= -0.05).all()
        assert (added.amax((1, 2)) == 0).all() if kind == 0 else (added.amax((1, 2)) > 0.25).all()
    peak = phantom._lesion(torch.full((n, 1, 1), 2), lesion, [(a, b, lung), (a, b, lung)], mottle)[0]
    rows = (peak > 0.25).any(1).nonzero()
    assert b[0, rows.min(), 0] > 0.2  # fluid lies at the bottom


def test_linear_models_do_not_solve_it_and_patients_can_be_recognized():
    from sklearn.linear_model import LogisticRegression

    from suite.results.metrics import auroc

    dataset = data.chest_phantom(images=Images(size=16))
    train, test = ((s.x.reshape(len(s), -1), s.y) for s in (dataset.train, dataset.test))
    score = LogisticRegression(C=0.1, max_iter=300).fit(*train).decision_function(test[0])
    assert 0.5 < auroc(score, test[1] == 1) < 0.88
    x, _, whose = phantom.draw(32, patients=60)
    flat = x.flatten(1)
    near = torch.cdist(flat, flat).fill_diagonal_(np.inf).argmin(1)
    assert (whose[near] == whose).float().mean() > 0.5  # by chance 1 in 30
