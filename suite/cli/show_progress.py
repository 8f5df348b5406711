"""What a run shows while it computes: a bar on a terminal, a plain line from time to time elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from suite.audit.forecast import Forecast
from suite.audit.layout import Cell
from suite.base.text import one_line, plain
from suite.results.run import Run

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Watch:
    """Follows an audit: which cells are done, which are at work, and how long the rest will take.

    Args:
        forecast: Of the audit.
        run: Its folder.
        cells: All of its cells.
    """

    def __init__(self, forecast: Forecast, run: Run, cells: list[Cell]) -> None:
        self.forecast, self.run = forecast, run
        self._unfinished = {cell.key: cell for cell in cells}
        self._begun: dict[str, float] = {}
        self.total, self.now, self._step = len(cells), "starting", ""
        self._lock = threading.Lock()

    def started(self, cell: Cell) -> None:
        """A cell starts; what has finished meanwhile is taken note of."""
        with self._lock:
            self._begun[cell.key], self.now, self._step = time.monotonic(), cell.title, ""
            for key in [key for key in self._unfinished if self.run.done(key)]:
                self.forecast.finished(key, self.run.seconds(key))
                del self._unfinished[key]
                self._begun.pop(key, None)

    def step(self, what: str, done: int, total: int) -> None:
        """Something inside the cell at work has come so far."""
        self._step = f" · {what} {done}/{total}"

    @property
    def done(self) -> int:
        return self.total - len(self._unfinished)

    @property
    def title(self) -> str:
        """The cell that started last, and how far it is."""
        return self.now + self._step

    @property
    def left(self) -> str:
        """The time left, in words."""
        with self._lock:
            if not self.forecast.sure:
                return "time left not known yet"
            now = time.monotonic()
            return f"about {duration(self.forecast.left({k: now - t for k, t in self._begun.items()}))} left"


def duration(seconds: float) -> str:
    """As "40 s", "7 min" or "1 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds, -1), 10):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def shown(watch: Watch, console: Console, every: float = EVERY) -> Iterator[None]:
    """Show what `watch` knows while the block runs."""
    with _bar(watch, console) if console.is_terminal else _lines(watch, console, every):
        yield


@contextmanager
def _bar(watch: Watch, console: Console) -> Iterator[None]:
    now = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (SpinnerColumn(), now, BarColumn(10), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task("starting", total=watch.total, left="")

        def draw() -> None:
            progress.update(task, completed=watch.done, description=plain(one_line(watch.title)), left=watch.left)

        with _repeatedly(draw, 0.5):
            yield


@contextmanager
def _lines(watch: Watch, console: Console, every: float) -> Iterator[None]:
    began = time.monotonic()

    def say() -> None:
        gone = time.monotonic() - began
        console.print(f"{int(gone // 60):3d}:{int(gone % 60):02d}  {watch.done} of {watch.total} cells, {watch.left}; "
                      f"now {one_line(watch.title)}", markup=False, soft_wrap=True)

    with _repeatedly(say, every):
        yield


@contextmanager
def _repeatedly(do: Callable[[], None], every: float) -> Iterator[None]:
    """Call `do` in a thread of its own every so many seconds, until the block ends."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every):
            do()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
