"""The split: by class, and never one patient on two sides."""

import numpy as np
import pytest

from suite.errors import InputError
from suite.split import split


def test_split_is_a_stratified_partition_that_depends_on_its_seed_only():
    y = np.repeat([0, 1], [500, 268])
    a, b, other = (split(y, [], ("no", "yes"), seed) for seed in (0, 0, 1))
    assert sorted(np.concatenate(a).tolist()) == list(range(768))
    assert [np.bincount(y[i]).tolist() for i in a] == [[300, 160], [100, 54], [100, 54]]
    assert all((i == j).all() for i, j in zip(a, b, strict=True))
    assert not all(np.array_equal(i, j) for i, j in zip(a, other, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_patients_and_twins_never_straddle_splits(seed):
    rng = np.random.default_rng(seed)
    patient, twin = rng.integers(0, 150, 600), rng.integers(0, 3000, 600)
    y = (rng.random(600) < 0.4).astype(np.int64)
    train, val, test = split(y, [patient, twin], ("no", "yes"), seed)
    for key in (patient, twin):
        assert not set(key[train]) & set(key[val])
        assert not set(key[train]) & set(key[test])
        assert not set(key[val]) & set(key[test])
    assert len(train) + len(val) + len(test) == 600
    assert abs(len(test) - 120) <= 12
    assert abs(len(val) - 120) <= 12


def test_a_class_needs_three_separate_patients():
    with pytest.raises(InputError, match="class 'yes' has 1 row; at least 3"):
        split(np.array([0] * 9 + [1]), [], ("no", "yes"))
    with pytest.raises(InputError, match="class 'yes' has 4 rows of 2 separate patients"):
        split(np.array([0] * 6 + [1] * 4), [np.array([0, 1, 2, 3, 4, 5, 6, 6, 7, 7])], ("no", "yes"))
    assert [len(i) for i in split(np.array([0] * 3 + [1] * 3), [], ("no", "yes"))] == [2, 2, 2]
