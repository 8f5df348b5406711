"""Where a training may write what happened in it, for whoever looks into the run later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_file: ContextVar[Path | None] = ContextVar("log", default=None)


@contextmanager
def log_at(file: Path) -> Iterator[None]:
    """Let the one training inside the block write its log to a file."""
    token = _file.set(file)
    try:
        yield
    finally:
        _file.reset(token)


def log_file() -> Path | None:
    """Where to write; None where nobody wants to know."""
    return _file.get()
