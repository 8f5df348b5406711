"""Keeping randomness local: generators from one seed, and a fence around libraries that only know the global one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def torch_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A local generator; the same seed on the same kind of device gives the same numbers."""
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """As `seeded`, of PyTorch's global generators alone: what a module needs that is called again and again."""
    with torch.random.fork_rng():
        # torch.manual_seed also writes down the whole stack for each kind of device that has not been started
        torch.default_generator.manual_seed(seed)
        if (device := torch.accelerator.current_accelerator(check_available=True)) is not None:
            torch.get_device_module(device).manual_seed_all(seed)
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and PyTorch, and put back their state afterwards.

    For third-party code that takes no generator (weight initialisation, dropout, ART). Not safe across threads.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state to protect is the global one
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with torch_seeded(seed):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
