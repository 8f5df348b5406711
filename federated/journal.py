"""An append-only log whose entries are chained by hash, so that a change of what was written shows."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from suite.errors import InputError
from suite.run import FULL, WriteError

START = "0" * 64
"""What stands for the hash before the first entry."""

OURS = ("n", "time", "event", "previous", "hash")


class Journal:
    """A file of JSON lines, each `{"n", "time", "event", ..., "previous", "hash"}` with its keys in sorted order.

    `n` counts from 1, `time` is UTC, `previous` is the hash of the entry before, and `hash` is the SHA-256 of the
    canonical JSON (sorted keys, no spaces, UTF-8) of the entry without it. The chain is that of Haber and Stornetta,
    J. Cryptology 3:99 (1991).

    What it proves: whoever kept the hash of some entry (its head; in another place, or at other hospitals) can later
    show that this entry and all before it are as they were written. Without a kept head, it shows accidents and
    careless edits, but no cut between two entries at the end. What it does not prove: that what was written is true or
    complete, or that the clock was right. Who can write the file, and the place where the head is kept, can forge both;
    nothing here is signed.

    One writer at a time. A file that was cut off within a line, as by a power failure, is refused: somebody must look.

    Args:
        path: The file; made with the first entry. An existing one is verified and continued.

    Attributes:
        head: Hash of the last entry.

    Raises:
        InputError: The existing file is broken; see `verify`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._n, self.head, self._size = _read(self.path)[-1] if self.path.exists() else (0, START, 0)

    def append(self, event: str, **facts: Any) -> str:
        """Write an entry, and return when it is on the disk.

        Args:
            event: What happened, for example "rejected".
            facts: JSON values: None, bool, int, finite float, str, and lists and dicts (with keys of str) of these.

        Returns:
            The head: hash of this entry, for `verify`.

        Raises:
            InputError: A fact is no JSON value or has a name that the entry needs itself, or somebody else wrote to the
                file. Nothing is written then.
            WriteError: The disk is full or the file cannot be written; the file is left as it was.
        """
        for name in facts.keys() & set(OURS):
            raise InputError(f"{event!r}: '{name}' is a name that the journal uses itself")
        for name, value in [("event", event), *facts.items()]:
            if not _is_json({name: value}):
                raise InputError(f"{event!r}: {name}={value!r} is no JSON value")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"n": self._n + 1, "time": now, "event": event, **facts, "previous": self.head}
        entry["hash"] = _hash(entry)
        line = _canonical(entry) + b"\n"
        try:
            self._write(line)
        except OSError as e:
            what = "no space left on the disk" if e.errno in FULL else (e.strerror or str(e)).lower()
            raise WriteError(f"cannot write {self.path}: {what}") from e
        self._n, self.head, self._size = self._n + 1, entry["hash"], self._size + len(line)
        return self.head

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            if file.tell() != self._size:
                raise InputError(f"{self.path} was changed by somebody else while it was being written")
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._size)  # half a line would break the chain for good
                raise


def verify(path: Path, head: str | None = None) -> int:
    """The number of entries of a journal in which all is as it was written.

    Args:
        path: The file.
        head: What the last `append` returned. Only with it can it be seen that last entries were cut off whole.

    Raises:
        InputError: Naming the file and the first line that does not fit: changed, cut off, or not following the one
            before because something was removed, inserted or moved; or the journal does not end at `head`.
    """
    entries = _read(Path(path))
    n, last, _ = entries[-1]
    if head is not None and head != last:
        found = next((k for k, known, _ in entries if known == head), None)
        if found is None:
            raise InputError(f"{path}: no line has the head's hash {head[:16]}…: entries after line {n} were cut off, "
                             "or all were written anew")
        raise InputError(f"{path}: line {found + 1} was added after the head's hash {head[:16]}…")
    return n


def _read(path: Path) -> list[tuple[int, str, int]]:
    """(number, hash, bytes up to its end) of each entry, and of none as the first; `InputError` where it is broken."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as e:
        raise InputError(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from None
    entries = [(0, START, 0)]
    for n, line in enumerate(lines[:-1], 1):
        _, previous, size = entries[-1]
        entry = _entry(line)
        if entry is None:
            raise InputError(f"{path}: line {n} is no entry of a journal")
        if entry["hash"] != _hash({key: value for key, value in entry.items() if key != "hash"}):
            raise InputError(f"{path}: line {n} was changed: its hash is of something else")
        if entry["previous"] != previous or entry["n"] != n:
            raise InputError(f"{path}: line {n} does not follow the one before: an entry was removed, inserted or "
                             "moved")
        entries.append((n, entry["hash"], size + len(line) + 1))
    if lines[-1]:
        raise InputError(f"{path}: line {len(lines)} is cut off")
    return entries


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry that a line holds, if it is written as we write them: a key that stands there twice, or a space, would
    not change what is hashed."""
    try:
        entry = json.loads(line)
        return entry if isinstance(entry, dict) and set(OURS) <= entry.keys() and _canonical(entry) == line else None
    except (ValueError, RecursionError):
        return None


def _hash(entry: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(entry)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _is_json(value: Any) -> bool:
    """Whether a value comes back from JSON as it was; a tuple does not, nor a key that is a number."""
    try:
        return bool(json.loads(_canonical(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
