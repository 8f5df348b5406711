"""Checkpoints of trainings: a training that was killed goes on from its last finished epoch, to the same result.

Whoever starts a computation says where they may be kept; every training inside finds the place by itself, whichever
defense calls it, as progress finds its listener.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from suite.core.data import Split
from suite.results.seal import read_sealed, write_sealed

EVERY = 20.0
"""Seconds of training between two checkpoints; a shorter training leaves none."""


class Place:
    """A folder for the checkpoints of one computation, whose trainings are counted.

    Args:
        folder: Created when the first checkpoint is written.
        about: What the computation is, beyond what each training says of itself.
    """

    def __init__(self, folder: Path, about: str) -> None:
        self.folder, self.about, self.trainings = folder, about, 0


_place: ContextVar[Place | None] = ContextVar("checkpoints", default=None)


@contextmanager
def checkpoints(folder: Path, about: str = "") -> Iterator[None]:
    """Let trainings inside the block keep checkpoints in a folder, and go on from those that they find there.

    Args:
        folder: Of this computation alone; whoever owns it deletes it when the computation is done.
        about: What computes, with all its parameters: a checkpoint of anything else is not used.
    """
    token = _place.set(Place(folder, about))
    try:
        yield
    finally:
        _place.reset(token)


class Checkpoint:
    """The state of one training on disk; does nothing where nobody gave a place.

    The file's name is made from all that the result depends on: the order of the trainings in the computation, recipe,
    seed, device and data. So the checkpoint of another training is never taken for this one's.

    Args:
        train, val: What the training sees.
        about: What else it depends on.
    """

    def __init__(self, train: Split, val: Split, *about: Any) -> None:
        place = _place.get()
        self.file: Path | None = None
        self.written = time.monotonic()
        if place is None:
            return
        digest = hashlib.sha256(repr((place.about, place.trainings, *about)).encode())
        for array in (train.x, train.y, val.x, val.y):
            digest.update(np.ascontiguousarray(array).data)
        place.trainings += 1
        self.file = place.folder / f"{digest.hexdigest()[:32]}.safetensors"

    def read(self) -> dict[str, Tensor] | None:
        """What was last written, on the CPU; None where there is nothing, or nothing that this run has written whole:
        its name is no secret, and whoever wrote it would choose what is trained."""
        if self.file is None or (data := read_sealed(self.file)) is None:
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(data)
        except (SafetensorError, ValueError, KeyError):
            return None

    @property
    def due(self) -> bool:
        """Whether enough training would be lost."""
        return self.file is not None and time.monotonic() - self.written >= EVERY

    def write(self, state: dict[str, Tensor]) -> None:
        """Replace what was written before."""
        from safetensors.torch import save

        packed = save({name: t.detach().cpu().contiguous().clone() for name, t in state.items()})
        write_sealed(self.file, packed)
        self.written = time.monotonic()
