"""Breast-cancer rows that ship with scikit-learn, for tests that need real patients and no download."""

from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer

from suite.core.data import Split
from tabular.schema import Column, Schema


@cache
def breast(seed: int = 0) -> tuple[Split, Split, Split]:
    """Train (341), val (114) and test (114) rows; 1 is malignant. The first column can never change."""
    raw = load_breast_cancer()
    x, y = raw.data.astype(np.float32), (1 - raw.target).astype(np.int64)
    schema = Schema(columns={
        name: Column(min=float(low) - 1e-3, max=float(high) + 1e-3, change="never" if i == 0 else "any")
        for i, (name, low, high) in enumerate(zip(raw.feature_names, x.min(0), x.max(0), strict=True))})
    whole = Split(x, y, schema.space(), ("benign", "malignant"), np.arange(len(x)))
    order = np.random.default_rng(seed).permutation(len(x))
    return whole.take(order[:341]), whole.take(order[341:455]), whole.take(order[455:])
