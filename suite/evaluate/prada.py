"""Detecting model extraction from the pattern of a client's queries, and what that costs honest clients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import shapiro


@dataclass(frozen=True)
class PRADA:
    """PRADA (Juuti, Szyller, Marchal and Asokan 2019, arXiv 1805.02628).

    Of each query, the distance to the nearest of some earlier queries that got the same label is noted. Distances
    between patients as they come are nearly normal; between inputs that are made up from one another they are not.

    Attributes:
        delta: Alarm when the Shapiro-Wilk statistic of the distances, in [0, 1], falls below it.
        least: A judgement takes more distances than these: the fewer, the lower `delta` must be to spare the honest.
    """

    delta: float = 0.9
    least: int = 100

    def statistic(self, queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Shapiro-Wilk statistic after each query; 1 while there are too few distances.

        Args:
            queries: (n, ...) in units of the space's scale, in the order in which they were asked.
            labels: (n,) int64, as answered.
        """
        flat = queries.reshape(len(queries), -1).astype(np.float64)
        grown: dict[int, _Grown] = {}
        distances: list[float] = []
        found = np.ones(len(flat))
        for i, (x, label) in enumerate(zip(flat, labels.tolist(), strict=True)):
            if label in grown:
                distances.append(grown[label].meet(x))
            else:
                grown[label] = _Grown([x])
            if len(distances) > self.least:
                all_ = np.array(distances)
                kept = all_[np.abs(all_ - all_.mean()) <= 3 * all_.std()]
                # of equal distances the statistic is undefined, and nothing is less like patients
                found[i] = shapiro(kept).statistic if np.ptp(kept) > 1e-9 else 0.0
        return found

    def alarm(self, queries: np.ndarray, labels: np.ndarray) -> int | None:
        """Queries answered until the alarm, this one included; None where there is none. Arguments as `statistic`."""
        alarms = np.flatnonzero(self.statistic(queries, labels) < self.delta)
        return int(alarms[0]) + 1 if len(alarms) else None

    def calibrated(self, streams: Iterable[tuple[np.ndarray, np.ndarray]]) -> PRADA:
        """The same with the greatest `delta` that alarms on none of these honest (queries, labels), as in the paper.

        It is 0, and there is never an alarm, where all of them are too short to be judged.
        """
        lowest = float(min(self.statistic(*stream).min() for stream in streams))
        return replace(self, delta=lowest if lowest < 1 else 0.0)


@dataclass
class _Grown:
    """The growing set of one label: queries that lay farther from it than most of its own do from one another."""

    rows: list[np.ndarray]
    apart: list[float] = field(default_factory=lambda: [0.0])
    threshold: float = 0.0

    def meet(self, x: np.ndarray) -> float:
        """The distance of a query to the set, which it joins if that is far."""
        distance = float(np.linalg.norm(np.stack(self.rows) - x, axis=1).min())
        if distance > self.threshold:
            self.rows.append(x)
            self.apart.append(distance)
            self.threshold = max(self.threshold, float(np.mean(self.apart) - np.std(self.apart)))
        return distance
