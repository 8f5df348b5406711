"""Small trainings with differential privacy: their rows, and a cache of noise of their own."""

import numpy as np
import pytest
import torch

from suite.core.data import Split
from suite.core.space import Space

TABLE = Space(torch.tensor([0.0, 10.0, -1.0]), torch.tensor([1.0, 30.0, -1.0]))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def rows(n, seed, space=TABLE):
    """Two classes that the first two columns tell apart; the third never varies."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    z = np.clip(0.5 + 0.3 * (2 * y - 1)[:, None] + rng.normal(0, 0.1, (n, 2)), 0, 1)
    x = np.c_[z[:, 0], 10 + 20 * z[:, 1], np.full(n, -1.0)]
    return Split(x.astype(np.float32), y, space, ("healthy", "ill"), np.arange(n))


TRAIN, VAL = rows(300, 0), rows(200, 1)
