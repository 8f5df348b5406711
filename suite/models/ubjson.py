"""Universal Binary JSON (draft 12, https://ubjson.org) as XGBoost writes it, read without trusting any length."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"u": ">u2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
"""Types of numbers by their mark; "u" is XGBoost's own."""
CONSTANTS = {b"Z": None, b"T": True, b"F": False}
DEEPEST = 64
"""Containers inside containers."""


def decoded(content: bytes) -> Any:
    """The value that some bytes stand for; arrays of one type of number are NumPy's.

    Raises:
        ValueError: They are no UBJSON, end too soon, or are nested too deeply.
    """
    reader = _Reader(content)
    try:
        value = reader.value(reader.take(1))
    except (struct.error, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"no UBJSON: {e}") from e
    if reader.at != len(content):
        raise ValueError(f"{len(content) - reader.at} bytes after the end of the UBJSON value")
    return value


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at, self.depth = content, 0, 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.content) - self.at:
            raise ValueError(f"UBJSON ends at byte {len(self.content)}, and {size} more were announced at {self.at}")
        self.at += size
        return self.content[self.at - size:self.at]

    def number(self, mark: bytes) -> Any:
        kind = np.dtype(NUMBERS[mark])
        return np.frombuffer(self.take(kind.itemsize), kind)[0].item()

    def length(self) -> int:
        mark = self.take(1)
        if mark not in NUMBERS or mark in b"dD" or (size := self.number(mark)) < 0:
            raise ValueError(f"no length in UBJSON at byte {self.at}")
        return size

    def text(self) -> str:
        return self.take(self.length()).decode()

    def value(self, mark: bytes) -> Any:
        if mark in NUMBERS:
            return self.number(mark)
        if mark in CONSTANTS:
            return CONSTANTS[mark]
        if mark == b"S":
            return self.text()
        if mark == b"C":
            return self.take(1).decode()
        if mark not in (b"[", b"{"):
            raise ValueError(f"unknown mark {mark!r} in UBJSON at byte {self.at}")
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError("UBJSON is nested too deeply")
        found = self._array() if mark == b"[" else self._object()
        self.depth -= 1
        return found

    def _peek(self, mark: bytes) -> bool:
        """Whether a mark comes next, which is taken then."""
        if self.content[self.at:self.at + 1] != mark:
            return False
        self.at += 1
        return True

    def _array(self) -> Any:
        if self._peek(b"$"):
            mark = self.take(1)
            if mark not in NUMBERS or not self._peek(b"#"):
                raise ValueError(f"an array without a type of number or a length in UBJSON at byte {self.at}")
            kind, size = np.dtype(NUMBERS[mark]), self.length()
            return np.frombuffer(self.take(size * kind.itemsize), kind)
        if self._peek(b"#"):
            return [self.value(self.take(1)) for _ in range(self.length())]
        out = []
        while not self._peek(b"]"):
            out.append(self.value(self.take(1)))
        return out

    def _object(self) -> dict[str, Any]:
        out = {}
        while not self._peek(b"}"):
            key = self.text()
            if key in out:  # XGBoost takes the first of two, and would see another value than is checked
                raise ValueError(f"the key {key[:40]!r} is there twice in a UBJSON object")
            out[key] = self.value(self.take(1))
        return out
