"""The split: by class, and never one patient on two sides."""

import numpy as np
import pandas as pd
import pytest

from suite.base.errors import InputError
from suite.datasets.split import parts_of, shared, split, with_validation


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


def test_a_column_names_the_split_in_the_usual_spellings():
    names = ["train", "Training", "val", "VALID", "validation", "test", " Testing ", "holdout"]
    assert parts_of(pd.DataFrame({"part": names}), "part").tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(InputError, match="column 'part' row 1: 'dev' is none of train, val and test"):
        parts_of(pd.DataFrame({"part": ["train", "dev"]}), "part")
    with pytest.raises(InputError, match="no column 'prat'; did you mean 'part'"):
        parts_of(pd.DataFrame({"part": names}), "prat")


def test_a_validation_split_that_is_missing_comes_from_training_by_patient():
    part, y, patient = np.repeat([0, 2], [80, 20]), np.arange(100) % 2, np.arange(100) // 4
    out = with_validation(part, y, [patient], ("no", "yes"))
    assert (out[80:] == 2).all() and np.bincount(out[:80]).tolist() == [64, 16]
    assert not set(patient[out == 0]) & set(patient[out == 1])
    given = np.repeat([0, 1, 2], [60, 20, 20])
    assert with_validation(given, y, [patient], ("no", "yes")) is given
    for lacks, word in ((np.repeat([0, 1], 50), "test"), (np.repeat([1, 2], 50), "training")):
        with pytest.raises(InputError, match=f"the split has no {word} rows; it has 50 "):
            with_validation(lacks, y, [], ("no", "yes"))


@pytest.mark.parametrize(("a", "b", "words"), [(0, 2, "training and in test"), (0, 1, "training and in validation"),
                                               (1, 2, "validation and in test")])
def test_a_patient_in_any_two_splits_is_found(a, b, words):
    names, parts = np.array([f"p{i}" for i in range(9)]), [np.arange(3), np.arange(3, 6), np.arange(6, 9)]
    assert shared(names, parts) == (set(), "")
    names[parts[b][0]] = names[parts[a][0]]
    assert shared(names, parts) == ({f"p{3 * a}"}, f"patient 'p{3 * a}' is in {words}")
