"""A hospital of a federation."""

from __future__ import annotations

from dataclasses import dataclass

from suite.core.data import Split


@dataclass(frozen=True)
class Site:
    """A hospital and its own rows, which never leave it.

    Attributes:
        name: Unique in the federation.
        train, val, test: As of a `Dataset`; the numbers in `rows` are those of the source.
        features: Column names for tables; empty for images.
    """

    name: str
    train: Split
    val: Split
    test: Split
    features: tuple[str, ...] = ()
