"""A copy of a run without patient-level data, to be shared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from suite.audit.paths import without_any_folder
from suite.base.errors import InputError
from suite.base.files import make_folder, write_atomic
from suite.base.limits import SMALLEST_GROUP
from suite.results.measurement import Measurement
from suite.results.run import Run

LEFT_OUT = ("arrays with a value for each patient", "pictures", "answers of shadow models", "logs")


def export_shared(run: Run, target: Path, models: bool = False, smallest_group: int | None = None) -> Run:
    """Copy the measurements of a run into a new run folder, and write its report.

    Args:
        run: Finished or not; as it was sealed.
        target: A new or an empty folder.
        models: Copy the trained models, too.
        smallest_group: People (not rows) of a subgroup below which its rows are left out; as many as of the run, and at
            least `SMALLEST_GROUP`, where it is None.

    Returns:
        The copy. Its manifest says so under "shared", with the head of the run. It can be read, not continued.

    Raises:
        InputError: The run is not as it was sealed, or the target is not empty.
        WriteError: The disk is full.
    """
    from suite.report.write import write_report

    run.require_seal()
    if Path(target).resolve().is_relative_to(run.folder.resolve()):
        raise InputError(f"{target} lies in the run's own folder; choose another place for the copy")
    manifest = run.manifest
    least = smallest_group or max(SMALLEST_GROUP, manifest["plan"].get("smallest_group", SMALLEST_GROUP))
    rows = shared_rows(run, least)
    if "shared" in manifest:
        raise InputError(f"{run.folder} is a shared copy already")
    copy = Run(target)
    copy.begin(manifest | {"shared": {"head": run.seal.head, "smallest_group": least,
                                      "left_out": [*LEFT_OUT, *(() if models else ("models",))]}}, "shared")
    for key in dict.fromkeys(row.cell for row in rows):
        if models and run.model(key).is_dir():
            _copy(run.model(key), copy.model(key))
        copy.finish(key, [row for row in rows if row.cell == key])
    copy.collect()
    write_report(copy)
    return copy


def shared_rows(run: Run, least: int) -> list[Measurement]:
    """The rows of a run without folders, and without those of a subgroup of fewer people than `least`, or of which
    nobody knows how many: rows behind a figure say nothing, as a patient may have several."""
    return [_shown(row, run.folder) for row in run.rows()
            if not row.subgroup or (row.people is not None and row.people >= least)]


def _shown(row: Measurement, folder: Path) -> Measurement:
    return row.model_copy(update={"error": without_any_folder(row.error, [folder])}) if row.error else row


def _copy(source: Path, target: Path) -> None:
    """The files of a model, and nothing that a link in its place leads to."""
    make_folder(target)
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.is_symlink():
            def fill(stream: Any, file: Path = file) -> None:
                with file.open("rb") as read:
                    shutil.copyfileobj(read, stream)

            write_atomic(target / file.name, fill)
