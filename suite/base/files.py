"""Files of a run: written whole or not at all, for their owner's eyes only, and never through a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from suite.base.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file that is full."""
PART = ".medsec-part"
"""How the name of a file or folder ends that is still being written; it begins with a dot."""
LONGEST = 100
"""Characters of a file's name that the name of its unfinished version repeats, as names are limited to 255 bytes."""


class WriteError(InputError):
    """A file of the run could not be written. Stops the run, which goes on from there when it is started again."""


def write_atomic(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that it is either there in full or not at all, also when the disk is full or the power fails.

    Only its owner can read it (mode 0600, folders that have to be made 0700), whatever the umask: what a run holds may
    be about patients. A symbolic link in its place is replaced and not followed.

    Raises:
        WriteError: The disk is full or the folder cannot be written; an older version of the file stays as it was.
    """
    with writing(path):
        make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:LONGEST]}.", suffix=PART)
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
                os.fchmod(file.fileno(), 0o600)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON."""
    write_atomic(path, lambda f: f.write(json_bytes(value)))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()


def append_line(path: Path, text: bytes) -> None:
    """Add to the end of a file in one write, as other processes add to it, too."""
    with writing(path), os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as f:
        f.write(text)


def open_private(path: Path, flags: int) -> int:
    """Open a file of the owner's, which is made where it is missing; a descriptor.

    Raises:
        OSError: It is a symbolic link (ELOOP), or the system refuses.
    """
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, for their owner only (0700), whatever the umask."""
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)  # another process may have been quicker
        folder.chmod(0o700)


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` only when the block ends well."""
    with writing(target):
        make_folder(target.parent)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:LONGEST]}.", suffix=PART))
    try:
        yield draft
        with writing(target):
            remove(target)
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a file, a folder with all in it, or a symbolic link (and not where it points); nothing where there is
    nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_parts(folders: Iterable[Path]) -> None:
    """Delete what killed processes have left unfinished in some folders, and nothing else."""
    for folder in folders:
        for leftover in [*folder.glob(f".*{PART}")] if folder.is_dir() else []:
            remove(leftover)


def is_part(path: Path) -> bool:
    """Whether a file or folder is one that was still being written."""
    return path.name.startswith(".") and path.name.endswith(PART)


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """`InputError` where something in a run folder leads out of it: what is written or deleted there would be
    somebody else's."""
    for name in names:
        path = folder / name
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link; a run keeps its files in its own folder: put them there, or "
                             "choose another folder with --out")
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InputError(f"{path} is neither a file nor a folder; delete it, or choose another folder with "
                                 "--out")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses inside the block into one line for people."""
    try:
        yield
    except OSError as e:
        full = e.errno in FULL
        what = "no space left on the disk" if full else (e.strerror or str(e)).lower()
        if e.errno == errno.ELOOP:
            what = "it is a symbolic link, which is not followed; delete the link"
        raise WriteError(f"cannot write {path}: {what}"
                         + ("; what was finished is kept, run again to go on" if full else "")) from e
