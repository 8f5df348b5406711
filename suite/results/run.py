"""The run folder. What a finished cell left is complete and durable; what a killed one left is invisible."""

from __future__ import annotations

import fcntl
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from suite.base.errors import InputError
from suite.base.files import (
    append_line,
    is_part,
    json_bytes,
    open_private,
    refuse_links,
    remove,
    remove_parts,
    staging,
    write_atomic,
    writing,
)
from suite.results.measurement import Measurement
from suite.results.seal import DERIVED, FILES, FOLDERS, GONE, NAME, Checked, Seal, digests, is_inside, is_key, sha256


class Run:
    """A folder with `manifest.json`, `measurements.jsonl`, `cells/`, `models/` and `report.html`.

    A cell is finished when `cells/KEY.json` is there, and all files of the cell are as they were sealed
    (`suite.results.seal`): it holds the cell's rows, and `cells/KEY.npz` its arrays. `measurements.jsonl` is made from
    those files, so it can always be made again. All is for the owner's eyes only, and nothing leads out of the folder.

    Args:
        folder: Where the run lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._index: tuple[int, dict[str, list[str]]] = (-1, {})  # of how many entries, the sealed files of each cell

    @classmethod
    def create(cls, folder: Path, manifest: dict[str, Any],
               grows: Callable[[dict[str, Any]], bool] = lambda _: False) -> Run:
        """Start a run, or go on with one of the same plan.

        Args:
            folder, manifest: Of the run.
            grows: Whether a run of another plan, as its manifest has it, can go on as one of this plan.

        Raises:
            InputError: The folder holds a run of another plan or data, a shared copy, or something that is no run; or
                its manifest or its seal was changed.
        """
        run = cls(folder)
        refuse_links(run.folder, (*FOLDERS, *FILES))
        if run.manifest_file.exists():
            found = run.manifest
            if "shared" in found:
                raise InputError(f"{folder} is a shared copy, which can be read but not continued; choose another "
                                 "folder with --out")
            if run.seal.state(run.manifest_file.name) != "whole":
                if not run.seal.once(run.manifest_file.name, run.manifest_file.read_bytes()):
                    raise InputError(f"{run.manifest_file} is not as the run wrote it; start again with another --out")
                run.write_manifest(found, "restored")  # killed before a newer one was written
            grown = found["plan"] != manifest.get("plan") and grows(found["plan"])
            for key in ("data",) if grown else ("plan", "data", "files"):
                if found.get(key) != manifest.get(key):
                    differs = _difference(found.get(key), manifest.get(key))
                    raise InputError(f"{folder} holds a run of another {'plan' if key == 'files' else key}: {differs}; "
                                     "choose another folder with --out, or delete this one")
        else:
            run.begin(manifest, "began")
        if run.folder.stat().st_uid == os.geteuid():
            run.folder.chmod(0o700)  # also a folder that was made before, by somebody else's umask
        return run

    def begin(self, manifest: dict[str, Any], event: str) -> None:
        """Write the manifest into a new or an empty folder.

        Raises:
            InputError: Something is there.
        """
        folder = self.folder
        # killed in its first breath, a run has left its seal without a manifest
        if folder.exists() and (not folder.is_dir() or any(
                not is_part(file) and file.name != NAME for file in folder.iterdir())):
            raise InputError(f"{folder} exists and is not a run folder; choose another with --out")
        self.write_manifest(manifest, event)

    def write_manifest(self, manifest: dict[str, Any], event: str) -> None:
        """Replace the manifest, and seal it."""
        data = json_bytes(manifest)
        self.seal.append(event, files={self.manifest_file.name: sha256(data)})
        write_atomic(self.manifest_file, lambda f: f.write(data))

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run, for reading.

        Raises:
            InputError: There is none.
        """
        run = cls(folder)
        refuse_links(run.folder, (*FOLDERS, *FILES))
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
        except (OSError, ValueError, RecursionError) as e:
            raise InputError(f"{self.manifest_file} is damaged: {e}") from None
        if not isinstance(found, dict) or not {"plan", "data", "cells"} <= found.keys():
            raise InputError(f"{self.folder} is not a run folder: its {self.manifest_file.name} is of something else")
        return found

    @property
    def seal(self) -> Seal:
        """The digests of all files.

        Raises:
            InputError: The list itself was changed.
        """
        return Seal.of(self.folder)

    @property
    def measurements_file(self) -> Path:
        return self.folder / DERIVED

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from working in the same folder, and clear away what a killed one left unfinished, and
        what is not as it was sealed."""
        file = self.folder / ".lock"
        with writing(file):  # what a link leads to must not be touched
            handle = os.fdopen(open_private(file, os.O_RDWR), "rb+", buffering=0)
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another audit is working in {self.folder}") from None
            working = [*(self.folder / "checkpoints").glob("*")]
            for path in working:
                if path.is_symlink():
                    remove(path)
            remove_parts([self.folder, *(self.folder / name for name in FOLDERS), *working])
            self._mend()
            self.collect()
            yield

    def _mend(self) -> None:
        """Delete what is not as it was sealed, so that it is made again; what was found stays in the seal."""
        seal = self.seal
        checked = seal.check()
        wrong = [*checked.changed, *(name for name in checked.missing if not name.startswith("report."))]
        keys = {key for name in wrong if (key := self._key(name)) is not None}
        for key in sorted(keys):
            self.discard(key, "not as it was sealed")
        other = [name for name in wrong if self._key(name) is None and name.startswith("shadows/")]
        # a model that a killed process left without its cell is trained again anyway
        if other := [*other, *(name for name in checked.extra if _forged(name) and seal.locate(name))]:
            self._delete(other, "discarded", why="not as it was sealed")

    def _key(self, name: str) -> str | None:
        """The cell that a file belongs to."""
        top, _, rest = name.partition("/")
        if top in ("models", "checkpoints"):
            return rest.partition("/")[0]
        return rest.rpartition(".")[0] if top in ("cells", "logs") else None

    def _of(self, key: str, seal: Seal | None = None) -> list[str]:
        """The sealed files of a cell."""
        seal = seal or self.seal
        if self._index[0] != seal.entries:
            files: dict[str, list[str]] = {}
            for name in seal.files():
                files.setdefault(self._key(name) or "", []).append(name)
            self._index = seal.entries, files
        return self._index[1].get(key, [])

    def _delete(self, names: Iterable[str], event: str, **facts: Any) -> None:
        """Delete files, after it was sealed that they are gone."""
        names, seal = list(names), self.seal
        found = {_shown(name): seal.digest(name) for name in names}
        # what was never sealed may have a name that no list can hold
        seal.append(event, files=dict.fromkeys((name for name in names if is_inside(name)), GONE), found=found, **facts)
        for name in names:
            if (path := seal.locate(name)) is not None:
                remove(path)
                if name.startswith("models/"):
                    with suppress(OSError):  # an empty folder would be taken for a model
                        path.parent.rmdir()

    def discard(self, key: str, why: str) -> None:
        """Make a cell unfinished: its files are deleted, its log only where it is not as it was sealed."""
        seal = self.seal
        states = {name: seal.state(name) for name in (f"cells/{key}.json", f"cells/{key}.npz", *self._of(key, seal))}
        kept = [name for name, state in states.items() if name.startswith("logs/") and state == "whole"]
        self._delete([name for name, state in states.items() if state and name not in kept], "discarded", cell=key,
                     why=why)

    def done(self, key: str) -> bool:
        """Whether a cell is finished (with rows, or with an error as its row), and nothing of it was changed."""
        own = self._of(key, seal := self.seal)
        return f"cells/{key}.json" in own and all(seal.state(name) == "whole" for name in own)

    def seconds(self, key: str) -> float:
        """How long a finished cell took."""
        rows = json.loads((self.folder / "cells" / f"{key}.json").read_text(encoding="utf-8"))
        return next((row["value"] for row in rows if row["metric"] == "cell_seconds"), 0.0)

    def failed(self) -> list[str]:
        """Finished cells that have an error as their row."""
        return list(dict.fromkeys(row.cell for row in self.rows() if row.error))

    def finish(self, key: str, rows: list[Measurement], arrays: dict[str, np.ndarray] | None = None,
               cleaned: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row) -> None:
        """Make a cell's outcome durable, and seal all its files.

        Args:
            key: Of the cell.
            rows, arrays: Its outcome.
            cleaned: What each row becomes before it is written.
        """
        # a user's attack may have parameters that JSON does not know
        dumped = [cleaned(row.model_dump(mode="json", fallback=str)) for row in rows]
        contents = {}
        if arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            contents[f"cells/{key}.npz"] = buffer.getvalue()
        contents[f"cells/{key}.json"] = json_bytes(dumped)  # last, as it says that the cell is finished
        model, log = self.model(key), self.folder / "logs" / f"{key}.jsonl"
        made = [file for file in model.rglob("*") if file.is_file() and not is_part(file)]
        files = digests(self.folder, [*made, *([log] if log.is_file() else [])])
        files |= {name: sha256(data) for name, data in contents.items()}
        self.seal.append("finished", cell=key, files=dict.fromkeys(self._of(key), GONE) | files)
        for name, data in contents.items():
            write_atomic(self.folder / name, lambda f, data=data: f.write(data))
        append_line(self.measurements_file, b"".join(_line(row) for row in dumped))

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of a finished cell; empty if it left none."""
        name = f"cells/{key}.npz"
        if self.seal.state(name) != "whole":
            return {}
        with np.load(self.folder / name, allow_pickle=False) as stored:
            return dict(stored)

    def rows(self) -> list[Measurement]:
        """All rows of all finished cells, in the order of the plan."""
        order = {key: i for i, key in enumerate(self.manifest.get("cells", []))}
        found = sorted(filter(self._there, self._cells()), key=lambda key: (order.get(key, len(order)), key))
        return [row for key in found for row in self._rows_of(key)]

    def _rows_of(self, key: str) -> list[Measurement]:
        """The rows of a finished cell.

        Raises:
            InputError: One says that it is of another cell, under whose name it would be copied or looked up.
        """
        file = self.folder / "cells" / f"{key}.json"
        rows = [Measurement.model_validate(row) for row in json.loads(file.read_text(encoding="utf-8"))]
        if strange := next((row.cell for row in rows if row.cell != key), None):
            raise InputError(f"{file}: holds a row of the cell {ascii(strange)[:80]}; it was tampered with: use "
                             "another folder, or delete this file and give the same audit command again")
        return rows

    def _cells(self) -> list[str]:
        """Keys of all cells that were finished at some time."""
        return [self._key(name) for name in self.seal.files() if name.startswith("cells/") and name.endswith(".json")]

    def _there(self, key: str) -> bool:
        """Whether rows and arrays of a cell can be used, whatever became of its model and its log."""
        own = self._of(key, seal := self.seal)
        return all(seal.state(name) == "whole" for name in own if name.startswith("cells/"))

    def missing(self) -> list[str]:
        """Cells of the plan that have no rows: not carried out yet, or with a file that is gone or cannot be read."""
        there = {key for key in self._cells() if self._there(key)}
        return [key for key in self.manifest["cells"] if key not in there]

    def require_seal(self, head: str | None = None) -> None:
        """Raise `InputError` unless whatever is in the folder and can be read is as it was sealed, and the seal ends at
        `head`, where it is given.

        A cell whose file is gone or damaged is one of `missing`, and no error here; nor is a report that was changed,
        as it is made from the cells.
        """
        seal = Seal.of(self.folder, again=True)
        if not seal.entries:
            raise InputError(f"{self.folder} has no seal ({NAME}), so that nothing shows that its files are as the run "
                             "wrote them; run the audit again with another --out")
        checked = seal.check(head)
        wrong = [name for name in checked.changed if name != "report.html" and not self._unreadable(name)]
        finished = {self._key(name) for name in seal.files() if name.startswith("cells/")}
        # a model whose cell is not finished may be one of a killed process, and no figure is of it
        wrong += [name for name in checked.extra
                  if _forged(name) and (name.startswith("cells/") or self._key(name) in finished)]
        if wrong:
            more = f", nor are {len(wrong) - 1} other files" if wrong[1:] else ""
            raise InputError(f"{self.folder}: {_shown(wrong[0])} is not as the run wrote it{more}; medsec verify "
                             f"{self.folder} names all, and the same audit command again computes changed cells again")

    def _unreadable(self, name: str) -> bool:
        """Whether a file of a cell is damaged, rather than changed to say something else."""
        file = self.folder / name
        if not name.startswith("cells/") or file.is_symlink():
            return False
        try:
            if file.suffix == ".json":
                [Measurement.model_validate(row) for row in json.loads(file.read_text(encoding="utf-8"))]
            else:
                with np.load(file, allow_pickle=False) as stored:
                    dict(stored)
        except (ValueError, TypeError, OSError, EOFError, KeyError, RecursionError, zipfile.BadZipFile):
            return True
        return False

    def verify(self, head: str | None = None) -> Checked:
        """Compare every file with the seal, and `measurements.jsonl` with the cells.

        Raises:
            InputError: The seal itself is broken, or does not end at `head`.
        """
        checked = Seal.of(self.folder, again=True).check(head)
        derived = self.measurements_file
        if any(name.startswith(("manifest", "cells/")) for name in (*checked.changed, *checked.missing)):
            return checked  # there is nothing to compare it with
        if derived.is_file() and derived.read_bytes() == b"".join(map(_line_of, self.rows())):
            return checked
        wrong = {"changed": (*checked.changed, DERIVED)} if derived.is_file() else {
            "missing": (*checked.missing, DERIVED)}
        return replace(checked, **wrong)

    def collect(self) -> None:
        """Make `measurements.jsonl` again from the finished cells."""
        write_atomic(self.measurements_file, lambda f: f.writelines(map(_line_of, self.rows())))

    @contextmanager
    def model_folder(self, key: str) -> Iterator[Path]:
        """A folder to write a model into; it appears under `models/KEY` only when the block ends well."""
        with staging(self.model(key)) as folder:
            yield folder

    def model(self, key: str) -> Path:
        """Where a finished model lies.

        Raises:
            InputError: The key is none of a cell.
        """
        if not is_key(key):
            raise InputError(f"{ascii(key)[:80]} is no key of a cell")
        return self.folder / "models" / key


def _forged(extra: str) -> bool:
    """Whether an extra file looks like one of a cell, or lies where models are looked for."""
    return extra.startswith("models/") or (extra.startswith("cells/") and extra.endswith((".json", ".npz")))


def _shown(name: str) -> str:
    """The name of a file in ASCII, as it may be of bytes that are no text."""
    return ascii(name)[1:-1]


def _line(row: dict[str, Any]) -> bytes:
    """A dumped row as a line of `measurements.jsonl`."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _line_of(row: Measurement) -> bytes:
    return _line(row.model_dump(mode="json"))


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first key in which two nested values differ, for a message."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *[k for k in new if k not in old]]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    return f"{where or 'it'} is {json.dumps(old)[:60]} there and {json.dumps(new)[:60]} here"
