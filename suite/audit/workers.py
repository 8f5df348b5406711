"""Carrying out the cells of an audit in several processes. Results do not depend on how many."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import Any, Protocol

import torch

from suite.base.devices import cores
from suite.base.errors import InputError
from suite.base.progress import listening
from suite.results.run import Run

Chain = list[str]
"""Keys of cells that are carried out in this order by one process."""
Message = tuple[str, Any, Any]



class Work(Protocol):
    """What the cells belong to: a `suite.audit.runner.Audit`."""

    def cell(self, key: str) -> Any:
        """A cell."""

    def carry_out(self, cell: Any, run: Run) -> None:
        """Do what it stands for, and finish it."""

    def give_up(self, cell: Any, run: Run, why: str) -> None:
        """Finish it with an error."""


_audit: Work | None = None
_messages: Any = None


def carry_out(audit: Work, again: Callable[[], Work], chains: list[Chain], after: list[set[int]], run: Run, jobs: int,
              heard: Callable[[Message], None]) -> None:
    """Carry out chains of cells, `jobs` at a time.

    Args:
        audit: What the cells belong to.
        again: Makes the same once more, in each process.
        chains: What to do.
        after: Of each chain, those that must be finished before it starts.
        run: Where results go.
        jobs: Number of processes.
        heard: Told `(cell key, None, None)` when a cell starts, and what happens inside it as
            `suite.base.progress.Listener` is told.

    Whatever ends this early, Ctrl-C among it, ends the processes at once: what they were at is not finished, and is
    carried out when the run goes on. A process that a file of the user's has ended costs the cell that it was at, which
    gets an error row; to know which one that is, the rest is carried out by one process at a time.

    Raises:
        InputError: What stopped one of the processes: a full disk, or the system for want of memory.
    """
    waiting, finished = set(range(len(chains))), set()
    while waiting:
        lost, how = _in_pool(again, chains, after, run, jobs, heard, waiting, finished)
        cut = {n: next((key for key in chains[n] if not run.done(key)), None) for n in lost}
        suspects = [audit.cell(key) for key in cut.values() if key is not None]
        if suspects and not any(cell.foreign for cell in suspects):
            raise InputError("a process was killed, probably for want of memory; run again to go on, with --jobs 1")
        if jobs == 1:
            for cell in suspects:
                audit.give_up(cell, run, f"{', '.join(cell.foreign)} {how}")
        waiting, jobs = waiting | lost, 1


def _in_pool(again: Callable[[], Work], chains: list[Chain], after: list[set[int]], run: Run, jobs: int,
             heard: Callable[[Message], None], waiting: set[int], finished: set[int]) -> tuple[set[int], str]:
    """Carry out the chains that are `waiting`, and move them to `finished`, until all are or a process has ended.

    Returns:
        The chains that were being carried out then, and how the process has ended, in words.
    """
    others, own = set(active_children()), set()
    # read by whatever starts threads in the new processes, which would otherwise each use all cores
    os.environ.setdefault("OMP_NUM_THREADS", str(min(torch.get_num_threads(), max(1, cores() // jobs))))
    # nothing is forked: a process that outlived a killed parent would hold on to the lock of the run folder
    context = get_context("spawn")
    messages = context.Queue()
    pending: dict[Future[None], int] = {}
    with ProcessPoolExecutor(jobs, context, _prepare, (again, messages)) as pool:
        try:
            while waiting or pending:
                ready = sorted(n for n in waiting if after[n] <= finished)
                with _deaf():
                    for number in ready[:jobs - len(pending)]:  # no more, so that each is in a process
                        pending[pool.submit(_work, run, chains[number])] = number
                        waiting.remove(number)
                own |= set(active_children()) - others
                done, _ = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    finished.add(pending.pop(future))
                _pass_on(messages, heard)
        except BrokenProcessPool:
            pass
        except BaseException:
            for process in set(active_children()) - others:
                process.kill()  # they finish a cell whole or not at all, so that nothing is lost
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return set(pending.values()), _ended([process.exitcode for process in own])


def _ended(codes: list[int | None]) -> str:
    """How a process has ended, in words that follow the name of what it ran."""
    code = next((code for code in codes if code is not None), 0)
    if code == -signal.SIGKILL:
        return "was ended by the system, probably for want of memory"
    if code < 0:
        return f"crashed its process ({signal.Signals(-code).name})"
    return f"ended its process (exit code {code}): remove os._exit from its code"


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started inside the block do not hear Ctrl-C, which the terminal sends to them, too: this
    process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_on(messages: Any, heard: Callable[[Message], None]) -> None:
    while True:
        try:
            heard(messages.get_nowait())
        except queue.Empty:
            return


def _prepare(again: Callable[[], Work], messages: Any) -> None:
    """Make this process's own audit; and end with the parent, even if that is killed."""
    global _audit, _messages
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    messages.cancel_join_thread()  # whoever has stopped listening must not keep this process from ending
    _audit, _messages = again(), messages


def _work(run: Run, keys: Chain) -> None:
    with listening(lambda *step: _messages.put(step)):
        for key in keys:
            if not run.done(key):
                _messages.put((key, None, None))
                _audit.carry_out(_audit.cell(key), run)
