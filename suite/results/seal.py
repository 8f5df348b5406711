"""The seal of a run folder: one list of the digests of all its files, in which no entry can be changed unnoticed.

`seal.jsonl` is a `suite.base.journal.Journal`. Each entry names files and their SHA-256; the last one that names a file
counts. An entry is on the disk before the files that it names, so that a file without one was not written by the run; a
killed process leaves at most an entry whose files are missing, and the run goes on.

What it proves: whoever kept the head (in another place) can show that all files are those of that moment. Without a
kept head it shows accidents and careless edits, but whoever can write the folder can write a new list.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suite.base.errors import InputError
from suite.base.files import is_part, write_atomic
from suite.base.journal import START, Journal, check_end

NAME = "seal.jsonl"
DERIVED = "measurements.jsonl"
"""Made from the cells, with which it is compared."""
UNSEALED = (NAME, DERIVED, ".lock")
FOLDERS = ("cells", "models", "shadows", "logs", "checkpoints")
FILES = ("manifest.json", DERIVED, NAME, "report.html")
"""All that a run has: folders with files in them, and single files."""
PART_OF_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
"""A key of a cell, or the name of a file or folder of a run."""
WORKING = "checkpoints/"
"""Files that are no results: sealed, so that only one's own are read again, and otherwise left out of every check."""
GONE = ""
"""Stands for the digest of a file that the run itself has deleted."""
LINK = "link"
"""Stands for the digest of what is no file of the folder, such as a symbolic link."""


@dataclass(frozen=True)
class Checked:
    """What a check of a run folder found; paths are relative to it.

    Attributes:
        entries, files: Of the list: its entries, and the files that it names.
        head: Hash of the last entry.
        changed, missing, extra: Files whose content is another, that are not there, and that the run did not write.
    """

    entries: int
    files: int
    head: str
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether all is as it was sealed."""
        return not (self.changed or self.missing or self.extra)


class Seal(Journal):
    """The list of the files of a run folder; see the module. Several processes may add to it.

    Args:
        folder: Of the run.

    Raises:
        InputError: A line of the list was changed, removed, inserted or moved, or names a file that no run has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._hashes = [START]
        self._sealed: dict[str, list[str]] = {}
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}
        super().__init__(self.folder / NAME, shared=True)

    @classmethod
    def of(cls, folder: Path, again: bool = False) -> Seal:
        """The seal of a folder, of which this process reads each entry only once, unless `again`."""
        file = Path(folder).absolute() / NAME
        at = (file, file.stat().st_ino if file.exists() else 0)
        found = _open.get(file)
        if again or found is None or found[0] != at:
            seal = cls(folder)
            if at[1]:
                _open[file] = (at, seal)
            return seal
        found[1].read_on()
        return found[1]

    def learn(self, entry: dict[str, Any]) -> None:
        self._hashes.append(entry["hash"])
        files = entry.get("files", {})
        if not isinstance(files, dict):
            raise InputError(f"{self.path}: line {entry['n']} is no entry of a seal")
        for name, digest in files.items():
            if not is_inside(name):  # whoever wrote the list would choose what is read and deleted here
                raise InputError(f"{self.path}: line {entry['n']} names {ascii(name)[:80]}, which is no file of a run: "
                                 "the list is damaged or was tampered with; use another folder")
            self._sealed.setdefault(name, []).append(digest)

    @property
    def entries(self) -> int:
        """How many there are."""
        return len(self._hashes) - 1

    def files(self) -> dict[str, str]:
        """Path -> digest of every file that should be there."""
        return {name: digests[-1] for name, digests in self._sealed.items() if digests[-1] != GONE}

    def state(self, name: str) -> str:
        """ "whole", "changed" or "missing" of a sealed file; "extra" or "" of another one, as it is there or not."""
        sealed = self._sealed.get(name, [GONE])[-1]
        found = self.digest(name)
        if sealed == GONE:
            return "extra" if found else ""
        return "whole" if found == sealed and found != LINK else "changed" if found else "missing"

    def once(self, name: str, data: bytes) -> bool:
        """Whether a file had this content at some time: a process may have been killed before it wrote a newer one."""
        return hashlib.sha256(data).hexdigest() in self._sealed.get(name, ())

    def digest(self, name: str) -> str:
        """SHA-256 of a file that is there, `GONE` where it is not, `LINK` where it is none."""
        parts = name.split("/")
        if any(self.folder.joinpath(*parts[:i]).is_symlink() for i in range(1, len(parts) + 1)):
            return LINK
        path = self.folder / name
        try:
            at = path.stat()
        except OSError:
            return GONE
        if not stat.S_ISREG(at.st_mode):
            return LINK
        stamp = (at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
        if self._known.get(name, ((), ""))[0] != stamp:
            with path.open("rb") as file:
                self._known[name] = (stamp, hashlib.file_digest(file, "sha256").hexdigest())
        return self._known[name][1]

    def locate(self, name: str) -> Path | None:
        """Where something lies that is in the folder, or the link in its place, whatever it leads to; None for nothing.

        Raises:
            InputError: The name leads out of the folder.
        """
        path, parts = self.folder, name.split("/")
        if ".." in parts or name.startswith("/"):
            raise InputError(f"{name!a} lies outside of {self.folder}, and was not touched")
        for part in parts:
            path = path / part
            if path.is_symlink():
                return path
        return path if path.exists() else None

    def check(self, head: str | None = None) -> Checked:
        """Compare the folder with the list. All files are read again.

        Args:
            head: What was printed before: the list must end there.

        Raises:
            InputError: The list does not end there.
        """
        self._known.clear()
        if head is not None:
            check_end(self._hashes, head, self.path)
        names = {*self.files(), *self.present()}
        states = {name: self.state(name) for name in sorted(names) if not name.startswith(WORKING)}
        changed, missing, extra = (tuple(name for name, state in states.items() if state == wanted)
                                   for wanted in ("changed", "missing", "extra"))
        return Checked(self.entries, len(self.files()), self.head, changed, missing, extra)

    def present(self) -> list[str]:
        """Paths of all that is in the folder, without what is no result or still being written."""
        out = []
        for at, folders, names in os.walk(self.folder):
            place = Path(at)
            links = [name for name in folders if (place / name).is_symlink()]
            folders[:] = [name for name in folders if name not in links and not is_part(place / name)
                          and (place != self.folder or name != "checkpoints")]
            out += [(place / name).relative_to(self.folder).as_posix() for name in (*names, *links)
                    if not is_part(place / name) and not (place == self.folder and name in UNSEALED)]
        return out


def is_key(name: str) -> bool:
    """Whether a name can be that of a cell, a file or a folder in a run: it leads nowhere else."""
    return PART_OF_NAME.fullmatch(name) is not None and name not in (".", "..")


def is_inside(name: str) -> bool:
    """Whether a relative path can be that of a file of a run."""
    top, *rest = name.split("/")
    return all(map(is_key, rest)) and (top in FOLDERS if rest else top in FILES)


_open: dict[Path, tuple[tuple[Path, int], Seal]] = {}


def digests(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Path relative to a folder -> SHA-256."""
    out = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            out[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def read_sealed(file: Path) -> bytes | None:
    """A file that was kept in a folder of a run.

    Args:
        file: As of `write_sealed`.

    Returns:
        Its content; None where there is none, or where it is not as it was written, so that it must be made again.
    """
    seal, name = _around(file)
    if seal and seal.digest(name) == LINK:
        return None
    try:
        data = file.read_bytes()
    except OSError:
        return None
    return data if seal is None or seal.once(name, data) else None


def write_sealed(file: Path, data: bytes) -> None:
    """Keep a file in a folder of a run, and seal it; outside of runs only write it."""
    seal, name = _around(file)
    if not seal:
        write_atomic(file, lambda f: f.write(data))
        return
    with seal.adding("kept", files={name: sha256(data)}):  # nobody else may write it between the two
        write_atomic(file, lambda f: f.write(data))


def read_kept(file: Path) -> np.ndarray | None:
    """An array that was kept in a folder of a run, such as the answers of shadow models; None as of `read_sealed`."""
    if (data := read_sealed(file)) is None:
        return None
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None


def keep(file: Path, array: np.ndarray) -> None:
    """Keep an array in a folder of a run, and seal it."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_sealed(file, buffer.getvalue())


def _around(file: Path) -> tuple[Seal | None, str]:
    """The seal of the run in which a file lies, in a folder or in one inside that, and its name there; None outside of
    runs."""
    for depth in (2, 3):
        folder = Path(*file.parts[:-depth])
        if (folder / NAME).is_file():
            return Seal.of(folder), "/".join(file.parts[-depth:])
    return None, ""
