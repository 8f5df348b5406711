"""Splits: rows are taken and joined with all that is known of them."""

from dataclasses import replace

import numpy as np

from suite.core.data import joined
from tests.support.toy import split


def test_joined_rows_keep_what_is_known_of_both():
    whole = replace(split(np.arange(20).reshape(10, 2), np.arange(10) % 2), patients=np.arange(10) // 2, modality="mri")
    first, second, both = whole.take([3, 1]), whole.take([7]), whole.take([3, 1, 7])
    found = joined(first, second)
    for name in ("x", "y", "rows", "patients"):
        assert np.array_equal(getattr(found, name), getattr(both, name))
    assert found.subgroups["site"].tolist() == both.subgroups["site"].tolist() and found.modality == "mri"
    third = whole.take([0, 9])
    for one, other in ((joined(first, second, third), joined(joined(first, second), third)), (joined(first), first)):
        for name in ("x", "y", "rows", "patients"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert one.subgroups["site"].tolist() == other.subgroups["site"].tolist()
    bare = joined(first, replace(second, subgroups={}, patients=None))
    assert bare.subgroups == {} and bare.patients is None and len(bare) == 3
