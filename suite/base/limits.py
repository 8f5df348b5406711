"""What keeps foreign code from stopping an audit: it may not end the process, and may not take for ever to answer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from suite.base.errors import InputError

SMALLEST_GROUP = 10
"""People of a subgroup below which its figures could be about one of them whom somebody knows."""
DEFAULT_TIME_LIMIT = 120.0
"""Seconds that a fitted model may take for one query, and for its trial."""


@contextmanager
def answering(name: str, seconds: float | None = None) -> Iterator[None]:
    """A query to a model inside the block; what would end or block the process becomes an error of the model.

    Args:
        name: Of the model, for the message.
        seconds: What the query may take; None for no limit. There is none outside the main thread, nor for code that
            never returns to the interpreter.

    Raises:
        InputError: The model called `sys.exit`, or took longer.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        with _contained(name):
            yield
        return

    def expired(_: int, __: FrameType | None) -> None:
        raise InputError(f"model {name} took longer than {seconds:g} s for one query; --time-limit allows more")

    before = signal.signal(signal.SIGALRM, expired)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again each second, as models swallow exceptions
    try:
        with _contained(name):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, every)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _contained(name: str) -> Iterator[None]:
    """Turns what ends a process, and is no error, into one; but for Ctrl-C."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as e:
        what = f"called sys.exit({e.code!r})" if isinstance(e, SystemExit) else f"raised {type(e).__name__}"
        raise InputError(f"model {name} {what} when queried") from e
