"""Shared by all tests: one thread, and real data only where it is."""

import os
from pathlib import Path

import pytest

# small problems: more threads only get in each other's way, above all when tests run in several processes
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


@pytest.fixture
def real_data() -> Path:
    """The folder of real data, or a skip that says why."""
    folder = os.environ.get("MEDSEC_DATA")
    if not folder:
        pytest.skip("MEDSEC_DATA is not set: no real data here")
    return Path(folder)
