"""An append-only log whose entries are chained by hash, so that a change of what was written shows."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from suite.base.errors import InputError
from suite.base.files import FULL, WriteError, make_folder, open_private

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

    One writer at a time, unless `shared`. A file that was cut off within a line, as by a power failure, is refused:
    somebody must look.

    Args:
        path: The file; made with the first entry, for its owner only. An existing one is verified and continued.
        shared: Several processes write at a time: each entry is added under a lock, after what others have added in
            the meantime was verified; and a last line that a killed process has left unfinished is removed.

    Attributes:
        head: Hash of the last entry.

    Raises:
        InputError: The existing file is broken; see `verify`.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self.path, self.shared = Path(path), shared
        self._n, self.head, self._size = 0, START, 0
        self.read_on()

    def learn(self, entry: dict[str, Any]) -> None:
        """Told of each entry that was read or written, in order; for journals that know what their entries mean."""

    def read_on(self) -> None:
        """Read and verify what others have added.

        Raises:
            InputError: The file is broken; see `verify`.
        """
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                self._catch_up(file)
        except (FileNotFoundError, NotADirectoryError):
            if self._n:
                raise InputError(f"{self.path} was deleted") from None
        except OSError as e:
            raise InputError(f"cannot read {self.path}: {(e.strerror or str(e)).lower()}") from None

    def _catch_up(self, file: IO[bytes]) -> None:
        if file.seek(0, os.SEEK_END) < self._size:
            raise InputError(f"{self.path}: was cut off after it had been read")
        file.seek(self._size)
        data = file.read()
        if self.shared:
            data = data[:data.rfind(b"\n") + 1]  # the rest was never finished
        for entry in parsed(data, self.path, (self._n, self.head)):
            self._n, self.head = entry["n"], entry["hash"]
            self.learn(entry)
        self._size += len(data)

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
        with self.adding(event, **facts):
            return self.head

    @contextmanager
    def adding(self, event: str, **facts: Any) -> Iterator[None]:
        """As `append`, and then runs the block before another process can write an entry."""
        for name in facts.keys() & set(OURS):
            raise InputError(f"{event!r}: '{name}' is a name that the journal uses itself")
        for name, value in [("event", event), *facts.items()]:
            if not _is_json({name: value}):
                raise InputError(f"{event!r}: {name}={value!r} is no JSON value")
        try:
            make_folder(self.path.parent)
            file = os.fdopen(open_private(self.path, os.O_RDWR | os.O_APPEND), "ab+", buffering=0)
        except OSError as e:
            raise self._failed(e) from e
        with file:
            try:
                self._write(file, event, facts)
            except OSError as e:
                raise self._failed(e) from e
            yield

    def _write(self, file: IO[bytes], event: str, facts: dict[str, Any]) -> None:
        if self.shared:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._catch_up(file)
            file.truncate(self._size)
        elif file.seek(0, os.SEEK_END) != self._size:
            raise InputError(f"{self.path} was changed by somebody else while it was being written")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"n": self._n + 1, "time": now, "event": event, **facts, "previous": self.head}
        entry["hash"] = _hash(entry)
        line = _canonical(entry) + b"\n"
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(self._size)  # half a line would break the chain for good
            raise
        self._n, self.head, self._size = self._n + 1, entry["hash"], self._size + len(line)
        self.learn(entry)

    def _failed(self, error: OSError) -> WriteError:
        what = {errno.ELOOP: "it is a symbolic link"} | dict.fromkeys(FULL, "no space left on the disk")
        return WriteError(f"cannot write {self.path}: "
                          + what.get(error.errno, (error.strerror or str(error)).lower()))


def verify(path: Path, head: str | None = None) -> int:
    """The number of entries of a journal in which all is as it was written.

    Args:
        path: The file.
        head: What the last `append` returned. Only with it can it be seen that last entries were cut off whole.

    Raises:
        InputError: Naming the file and the first line that does not fit: changed, cut off, or not following the one
            before because something was removed, inserted or moved; or the journal does not end at `head`.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from None
    hashes = [entry["hash"] for entry in parsed(data, path)]
    if head is not None:
        check_end([START, *hashes], head, path)
    return len(hashes)


def check_end(hashes: list[str], head: str, path: Path) -> None:
    """`InputError` unless the last of the hashes of a journal, of which `START` is the first, is `head`."""
    if head == hashes[-1]:
        return
    if head not in hashes:
        raise InputError(f"{path}: no line has the head's hash {head[:16]}…: entries after line {len(hashes) - 1} were "
                         "cut off, or all were written anew")
    raise InputError(f"{path}: line {hashes.index(head) + 1} was added after the head's hash {head[:16]}…")


def parsed(data: bytes, path: Path, after: tuple[int, str] = (0, START)) -> list[dict[str, Any]]:
    """The entries of a piece of a journal.

    Args:
        data: From the beginning of a line to the end of the file.
        path: Of the file, for messages.
        after: Number and hash of the entry before.

    Raises:
        InputError: Naming the file and the first line that does not fit.
    """
    lines = data.split(b"\n")
    (before, previous), entries = after, []
    for n, line in enumerate(lines[:-1], before + 1):
        entry = _entry(line)
        if entry is None:
            raise InputError(f"{path}: line {n} is no entry of a journal")
        if entry["hash"] != _hash({key: value for key, value in entry.items() if key != "hash"}):
            raise InputError(f"{path}: line {n} was changed: its hash is of something else")
        if entry["previous"] != previous or entry["n"] != n:
            raise InputError(f"{path}: line {n} does not follow the one before: an entry was removed, inserted or "
                             "moved")
        previous = entry["hash"]
        entries.append(entry)
    if lines[-1]:
        raise InputError(f"{path}: line {before + len(lines)} is cut off")
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
