"""The run folder. What a finished cell left is complete and durable; what a killed one left is invisible."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from suite.errors import InputError
from suite.measurement import Measurement

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file that is full."""


class WriteError(InputError):
    """A file of the run could not be written. Stops the run, which goes on from there when it is started again."""


def write_atomic(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that it is either there in full or not at all, also when the disk is full or the power fails.

    Raises:
        WriteError: The disk is full or the folder cannot be written; an older version of the file stays as it was.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
                os.fchmod(file.fileno(), 0o666 & ~_umask())  # a temporary file is private, a result is not
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses inside the block into one line for people."""
    try:
        yield
    except OSError as e:
        full = e.errno in FULL
        what = "no space left on the disk" if full else (e.strerror or str(e)).lower()
        raise WriteError(f"cannot write {path}: {what}"
                         + ("; what was finished is kept, run again to go on" if full else "")) from e


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, lambda f: f.write(text.encode()))


class Run:
    """A folder with `manifest.json`, `measurements.jsonl`, `cells/`, `models/` and `report.html`.

    A cell is finished when `cells/KEY.json` is there: it holds the cell's rows, and `cells/KEY.npz` its arrays.
    `measurements.jsonl` is made from those files, so it can always be made again.

    Args:
        folder: Where the run lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: Path, manifest: dict[str, Any],
               grows: Callable[[dict[str, Any]], bool] = lambda _: False) -> Run:
        """Start a run, or go on with one of the same plan.

        Args:
            folder, manifest: Of the run.
            grows: Whether a run of another plan, as its manifest has it, can go on as one of this plan.

        Raises:
            InputError: The folder holds a run of another plan or data, or something that is no run.
        """
        run = cls(folder)
        if run.manifest_file.exists():
            found = run.manifest
            grown = found["plan"] != manifest.get("plan") and grows(found["plan"])
            for key in ("data",) if grown else ("plan", "data", "files"):
                if found.get(key) != manifest.get(key):
                    differs = _difference(found.get(key), manifest.get(key))
                    raise InputError(f"{folder} holds a run of another {'plan' if key == 'files' else key}: {differs}; "
                                     "choose another folder with --out, or delete this one")
        else:
            run._check_empty()
            write_json(run.manifest_file, manifest)
        return run

    def _check_empty(self) -> None:
        folder = self.folder
        if folder.exists() and (not folder.is_dir() or any(
                not file.name.startswith(f".{self.manifest_file.name}.") for file in folder.iterdir())):
            raise InputError(f"{folder} exists and is not a run folder; choose another with --out")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run, for reading.

        Raises:
            InputError: There is none.
        """
        run = cls(folder)
        if not run.manifest_file.is_file():
            raise InputError(f"{folder} is not a run folder: it has no {run.manifest_file.name}")
        return run

    @property
    def manifest_file(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def manifest(self) -> dict[str, Any]:
        try:
            found = json.loads(self.manifest_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise InputError(f"{self.manifest_file} is damaged: {e}") from None
        if not isinstance(found, dict) or not {"plan", "data", "cells"} <= found.keys():
            raise InputError(f"{self.folder} is not a run folder: its {self.manifest_file.name} is of something else")
        return found

    @property
    def measurements_file(self) -> Path:
        return self.folder / "measurements.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from working in the same folder, and clear away what a killed one left unfinished."""
        file = self.folder / ".lock"
        with _writing(file):
            handle = file.open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another audit is working in {self.folder}") from None
            for leftover in [*self.folder.glob(".*.*"), *self.folder.glob("cells/.*"), *self.folder.glob("models/.*")]:
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            self.collect()
            yield

    def done(self, key: str) -> bool:
        """Whether a cell is finished (with rows, or with an error as its row)."""
        return (self.folder / "cells" / f"{key}.json").is_file()

    def discard(self, key: str) -> None:
        """Make a finished cell an unfinished one."""
        for suffix in ("json", "npz"):
            (self.folder / "cells" / f"{key}.{suffix}").unlink(missing_ok=True)

    def seconds(self, key: str) -> float:
        """How long a finished cell took."""
        rows = json.loads((self.folder / "cells" / f"{key}.json").read_text(encoding="utf-8"))
        return next((row["value"] for row in rows if row["metric"] == "cell_seconds"), 0.0)

    def finish(self, key: str, rows: list[Measurement], arrays: dict[str, np.ndarray] | None = None) -> None:
        """Make a cell's outcome durable."""
        if arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            write_atomic(self.folder / "cells" / f"{key}.npz", lambda f: f.write(buffer.getbuffer()))
        # a user's attack may have parameters that JSON does not know
        dumped = [row.model_dump(mode="json", fallback=str) for row in rows]
        write_json(self.folder / "cells" / f"{key}.json", dumped)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dumped).encode()
        with _writing(self.measurements_file), self.measurements_file.open("ab", buffering=0) as f:
            f.write(lines)  # at once: other processes append too

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of a finished cell; empty if it left none."""
        file = self.folder / "cells" / f"{key}.npz"
        if not file.is_file():
            return {}
        with np.load(file, allow_pickle=False) as stored:
            return dict(stored)

    def rows(self) -> list[Measurement]:
        """All rows of all finished cells, in the order of the plan."""
        order = {key: i for i, key in enumerate(self.manifest.get("cells", []))}
        files = sorted((self.folder / "cells").glob("*.json"), key=lambda f: (order.get(f.stem, len(order)), f.stem))
        return [Measurement.model_validate(row) for f in files for row in json.loads(f.read_text(encoding="utf-8"))]

    def collect(self) -> None:
        """Make `measurements.jsonl` again from the finished cells."""
        text = "".join(json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n" for row in self.rows())
        write_atomic(self.measurements_file, lambda f: f.write(text.encode()))

    @contextmanager
    def model_folder(self, key: str) -> Iterator[Path]:
        """A folder to write a model into; it appears under `models/KEY` only when the block ends well."""
        target = self.folder / "models" / key
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}."))
        try:
            yield staging
            shutil.rmtree(target, ignore_errors=True)
            with _writing(target):
                staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def model(self, key: str) -> Path:
        """Where a finished model lies."""
        return self.folder / "models" / key


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first key in which two nested values differ, for a message."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *[k for k in new if k not in old]]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    return f"{where or 'it'} is {json.dumps(old)[:60]} there and {json.dumps(new)[:60]} here"
