"""Writing the report of a run into its folder."""

from __future__ import annotations

from pathlib import Path

from suite.base.files import write_atomic
from suite.report.page import render
from suite.results.run import Run
from suite.results.seal import sha256


def write_report(run: Run) -> Path:
    """Write `report.html` into the run's folder, from its rows, its manifest and the pictures that its cells kept, and
    seal it; the same run gives the same bytes.

    Args:
        run: Finished or not: cells that are missing or cannot be read are listed in the report.

    Returns:
        Where the report lies.

    Raises:
        InputError: The disk is full, or the run is not as it was sealed.
    """
    run.require_seal()
    name = "report.html"
    text = render(run.rows(), run.manifest, run.arrays, run.missing()).encode()
    if run.seal.files().get(name) != sha256(text):  # an unchanged report leaves the head as it is
        run.seal.append("reported", files={name: sha256(text)})
    write_atomic(run.folder / name, lambda f: f.write(text))
    return run.folder / name
