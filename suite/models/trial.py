"""A first look at a user's own model in a process of its own, which it may crash, block or fill without harm.

This keeps an audit from being stopped by a broken model. It is no prison: code of a file that somebody else wrote can
still do whatever the user can, as it can when it is opened.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from suite.base import registry
from suite.base.errors import InputError

FILES = (".json", ".ubj", ".skops", ".pkl", ".pickle", ".joblib")
ROWS = 64
"""Rows on which a model is tried."""
AGAIN = 4
"""Further queries, each about two rows."""
MEMORY_SHARE = 0.8
"""Of the machine's free memory, what the trial may take."""


def foreign(source: str) -> bool:
    """Whether a model of a plan is a file of the user's."""
    return registry.is_file(source) or Path(source).suffix in FILES


def try_model(source: str, x: np.ndarray, allow_pickle: bool = False, time_limit: float = 120.0,
              memory: int | None = None) -> None:
    """Open a fitted model that is a file of the user's, and ask it about some rows, in a limited process.

    Args:
        source: As named in a plan.
        x: (n, ...) float32 inputs, of which the first `ROWS` are used.
        allow_pickle: Whether a pickle may be opened.
        time_limit: Seconds that it may take.
        memory: Bytes that it may take; a share of what is free when left out.

    Raises:
        InputError: It cannot be opened or fails on these rows; or it ended or crashed the process, took too long or too
            much memory, or changed the working directory.
    """
    with tempfile.TemporaryDirectory(prefix="medsec-trial-") as folder:
        np.save(Path(folder) / "x.npy", np.ascontiguousarray(x[:ROWS], np.float32))
        asked = {"source": source, "x": str(Path(folder) / "x.npy"), "out": str(Path(folder) / "out.json"),
                 "allow_pickle": allow_pickle, "seconds": time_limit, "memory": memory or _free_memory()}
        # sys.path as it is here, so that a user's file finds the modules that it imports
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        child = subprocess.Popen([sys.executable, "-P", "-m", "suite.models.trial", json.dumps(asked)], env=environment,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 start_new_session=True)
        try:
            code: int | None = child.wait(time_limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
        _conclude(source, code, Path(folder) / "out.json", time_limit)


def _conclude(source: str, code: int | None, out: Path, time_limit: float) -> None:
    """`InputError` where a trial did not end well.

    Args:
        source: The model.
        code: How its process ended; None where it had to be ended.
        out: What it wrote, if it came so far.
        time_limit: Seconds that it had.
    """
    fix = "the audit was not started"
    if code is None or code == -signal.SIGXCPU:
        raise InputError(f"model {source}: did not open and answer {ROWS} rows within {time_limit:g} s; {fix}. "
                         "--time-limit SECONDS allows more")
    said: dict[str, Any] = {}
    if out.is_file():
        said = json.loads(out.read_text(encoding="utf-8"))
    if error := said.get("error"):
        raise InputError(error)
    if code == -signal.SIGKILL:
        raise InputError(f"model {source}: was ended by the system when it was opened or queried, probably for want of "
                         f"memory; {fix}")
    if code < 0:
        raise InputError(f"model {source}: crashed its process ({signal.Signals(-code).name}) when it was opened or "
                         f"queried; {fix}. The file is damaged or unsafe")
    if not said.get("done"):
        raise InputError(f"model {source}: ended its process (exit code {code}) when it was opened or queried; {fix}. "
                         "Remove sys.exit or os._exit from its code")


def _end(child: subprocess.Popen) -> None:
    """End a trial with what it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.wait()


def _free_memory() -> int | None:
    """Bytes that the trial may take, where the system says what is free."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    free = next((line for line in file.read_text().splitlines() if line.startswith("MemAvailable")), "")
    return int(int(free.split()[1]) * 1024 * MEMORY_SHARE) if free else None


def _limit(seconds: float, memory: int | None) -> None:
    """Limits of this process: no core dump, no more memory or time on processors than it was given."""
    import resource

    cores = os.cpu_count() or 1
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, int(seconds * cores) + 1),
                       # of private memory, as libraries and GPUs reserve far more addresses than they use
                       (resource.RLIMIT_DATA, memory)):
        if most is not None:
            _, hard = resource.getrlimit(what)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (most, most))


def _trial(asked: dict[str, Any]) -> str:
    """Open a model and ask it; what is wrong with it, "" for nothing."""
    source, home = asked["source"], Path.cwd()
    x = np.load(asked["x"], allow_pickle=False)
    if registry.is_file(source):
        model = registry.load("models", source)
    else:
        from suite.models.artifacts import read_estimator

        model = read_estimator(Path(source), asked["allow_pickle"])
    try:
        if not isinstance(model, type):
            # as often as it is asked before the audit hands it over to another process
            for rows in (x, *[x[:2]] * AGAIN):
                _ask(model, rows)
    except MemoryError:
        raise
    except Exception:  # the audit asks again, and knows better what to say
        pass
    return "" if Path.cwd() == home else (
        f"model {source}: changes the working directory (os.chdir), by which all relative paths would mean others; use "
        "Path(__file__).parent in its code")


def _ask(model: Any, x: np.ndarray) -> None:
    for ask in ("predict_proba", "predict"):
        if hasattr(model, ask):
            getattr(model, ask)(x)
            return
    if hasattr(model, "forward"):
        import torch

        with torch.no_grad():
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            model.eval()(torch.from_numpy(x).to(device))


def main() -> None:
    """The process of the trial; writes what it found."""
    asked = json.loads(sys.argv[1])
    _limit(asked["seconds"], asked["memory"])
    try:
        wrong = _trial(asked)
    except InputError as e:
        wrong = str(e)
    except MemoryError:
        wrong = f"model {asked['source']}: takes more memory than is free"
    Path(asked["out"]).write_text(json.dumps({"done": True, "error": wrong}), encoding="utf-8")


if __name__ == "__main__":
    main()
