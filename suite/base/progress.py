"""Telling whoever listens how far a long computation has come, without handing a callback through every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def advance(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` steps of `what` are done. Costs nothing when nobody listens."""
    if listener := _listener.get():
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener(what, done, total)` called for everything that `advance` says inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
