"""Keeping account of a federation that runs in this process: what went wrong, what it took, and the log of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from suite.base.journal import Journal


class Record:
    """What the events of one federation amount to.

    Args:
        hospitals: Names.
        rows: Training rows of each.
        journal: File of the log, which is continued where it is there already; None for no log.
        about: What the log's first entry says besides.

    Attributes:
        sent: (n,) int64, bytes to and from each hospital.
        seconds: (n,) float64 of each hospital's own work.
        events: How often something of each kind went wrong, and did not stop it ("refused", "absent", "no result").
    """

    def __init__(self, hospitals: list[str], rows: list[int], journal: Path | None = None, **about: Any) -> None:
        self.log = Journal(journal).append if journal else lambda *_, **__: None
        self.sent, self.seconds = np.zeros(len(rows), np.int64), np.zeros(len(rows))
        self.events: dict[str, int] = {}
        self._began = time.perf_counter()
        self.log("began", hospitals=hospitals, rows=rows, **about)

    def event(self, what: str, facts: dict[str, Any]) -> None:
        """As `federated.flower.grid.Event`, of what went wrong."""
        self.events[what] = self.events.get(what, 0) + 1
        self.log(what, **facts)

    def done(self, what: str, facts: dict[str, Any]) -> None:
        """As `federated.flower.grid.Event`, of what was done."""
        if what == "worked":
            self.seconds[facts["hospital"]] += facts["seconds"]
            return
        self.sent[facts["asked"]] += facts["bytes asked"] + np.array(facts["bytes answered"], np.int64)
        self.log(what, **facts)

    def end(self, digest: str) -> None:
        """Write the last entry: what the model's digest is, and what all of it took."""
        self.log("ended", sha256=digest, seconds=round(time.perf_counter() - self._began, 3), sent=self.sent.tolist(),
                 worked=[round(s, 3) for s in self.seconds.tolist()])
