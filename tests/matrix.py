"""The tests under other instruction sets, numbers of threads and load: rounding and speed must not decide a result.

    python tests/matrix.py [--only NAME]... [PATH or test id ...]     (or: make test-matrix TESTS="...")

Runs pytest once for each setting and prints one line for each: passed or failed, and the ids that failed. Exit status 1
if any did. Everything else on the command line that starts with "-" goes to pytest (`-n 2`, `-k NAME`).

The variables only lower what a library would choose for this processor; one that does not know a variable ignores it.
OPENBLAS_CORETYPE reaches NumPy, SciPy and scikit-learn; ATEN_CPU_CAPABILITY PyTorch's own loops; MKL_CBWR its matrix
products (`COMPATIBLE` is SSE2 without fused multiply-add); ONEDNN_MAX_CPU_ISA its convolutions.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
INSTRUCTIONS = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")
BUSY = 4
"""Processes that do nothing but compute beside the tests."""


class Setting(NamedTuple):
    """Environment of one run, its threads, and the processes that compute beside it."""

    environment: dict[str, str]
    threads: int = 1
    busy: int = 0


SETTINGS = {
    "native": Setting({}),
    "threads-2": Setting({}, threads=2),
    "busy": Setting({}, busy=BUSY),
    "openblas-haswell": Setting({"OPENBLAS_CORETYPE": "Haswell"}),
    "openblas-nehalem": Setting({"OPENBLAS_CORETYPE": "Nehalem"}),
    "aten-avx2": Setting({"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}),
    "aten-default": Setting({"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}),
    "onednn-sse41": Setting({"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    # the oldest processor that all four can be asked to be: no AVX, no fused multiply-add
    "oldest": Setting({"OPENBLAS_CORETYPE": "Prescott", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE",
                       "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "oldest-threads-2": Setting({"OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default",
                                 "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}, threads=2),
}


def environment(setting: Setting) -> dict[str, str]:
    """The variables of a run: this process's own, without what it says about instruction sets and threads."""
    kept = {k: v for k, v in os.environ.items() if k not in (*THREADS, *INSTRUCTIONS)}
    return kept | dict.fromkeys(THREADS, str(setting.threads)) | setting.environment


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute until the block ends."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**6))"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(name: str, arguments: list[str]) -> bool:
    """Run the tests under one setting and print its line; whether all passed."""
    setting, began = SETTINGS[name], time.monotonic()
    with busy(setting.busy):
        done = subprocess.run([sys.executable, "-m", "pytest", "--no-header", "--tb=no", "-rfE", *arguments],
                              cwd=ROOT, env=environment(setting), capture_output=True, text=True)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    counted = re.search(r"^.*\b\d+ (?:passed|failed|skipped|errors?)\b.*$", done.stdout, re.MULTILINE)
    said = counted[0].strip("= ") if counted else (done.stdout + done.stderr).strip()[-500:]
    print(f"{name:18} {'passed' if done.returncode == 0 else 'FAILED'}  {time.monotonic() - began:5.0f} s  {said}"
          + "".join(f"\n    {test}" for test in failed), flush=True)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SETTINGS, metavar="NAME",
                        help=f"a setting to run, may be repeated: {', '.join(SETTINGS)}")
    args, arguments = parser.parse_known_args()
    passed = [run(name, arguments) for name in args.only or SETTINGS]  # all of them, also after a failure
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
