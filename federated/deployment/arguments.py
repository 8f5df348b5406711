"""Command lines that are handed on to Flower's programs."""

from __future__ import annotations

from collections.abc import Sequence

from suite.base.errors import InputError


def refuse(arguments: Sequence[str], options: Sequence[str], why: str) -> None:
    """Raise `InputError` where one of these options is given, also as `--option=value` or by its beginning, which
    Flower's programs take for it.

    Args:
        arguments: The command line.
        options: What it may not hold, with leading hyphens.
        why: The end of the message: what is wrong with it, and what to do.
    """
    for given in (argument.partition("=")[0] for argument in arguments):
        if given.startswith("--") and len(given) > 2 and any(option.startswith(given) for option in options):
            raise InputError(f"{given}: {why}")
