"""The report of a run: one HTML file that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

from suite.run import Run, write_atomic

__all__ = ["write_report"]


def write_report(run: Run) -> Path:
    """Write `report.html` into the run's folder, from its rows, its manifest and the pictures that its cells kept;
    the same run gives the same bytes.

    Args:
        run: Finished or not: what is missing is missing in the report too.

    Returns:
        Where the report lies.

    Raises:
        InputError: The disk is full, or the run is damaged.
    """
    from suite.report.page import render

    path = run.folder / "report.html"
    text = render(run.rows(), run.manifest, run.arrays)
    write_atomic(path, lambda f: f.write(text.encode()))
    return path
