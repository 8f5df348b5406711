"""The tests under other instruction sets, numbers of threads and load: rounding and speed must not decide a result.

    python tests/matrix.py [--only NAME]... [PATH or test id ...]     (or: make test-matrix TESTS="...")

Runs pytest once for each setting and prints one line for each: passed or failed, and the ids that failed. Exit status 1
if any did. Everything else on the command line that starts with "-" goes to pytest (`-n 2`, `-k NAME`).

The variables only lower what a library would choose for this processor. OPENBLAS_CORETYPE reaches NumPy, SciPy and
scikit-learn; ATEN_CPU_CAPABILITY PyTorch's own loops; MKL_ENABLE_INSTRUCTIONS its matrix products; ONEDNN_MAX_CPU_ISA
its convolutions. "intel-avx2" also has two threads. MKL takes a path of its own on Intel's processors, where a row may
have another result in another batch: "intel" preloads an answer to the one function that asks for the maker, and needs
a C compiler to build it; without one it is reported as not run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
INSTRUCTIONS = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA",
                "LD_PRELOAD")
INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }"
BUSY = 4
"""Processes that do nothing but compute beside the tests."""


class Setting(NamedTuple):
    """Environment of one run, its threads, the processes that compute beside it, and whether MKL shall see an Intel."""

    environment: dict[str, str]
    threads: int = 1
    busy: int = 0
    intel: bool = False


SETTINGS = {
    "native": Setting({}),
    "threads-2": Setting({}, threads=2),
    "busy": Setting({}, busy=BUSY),
    "intel": Setting({}, intel=True),
    "intel-avx2": Setting({"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2",
                           "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, threads=2, intel=True),
    "openblas-nehalem": Setting({"OPENBLAS_CORETYPE": "Nehalem"}),
    "aten-default": Setting({"ATEN_CPU_CAPABILITY": "default"}),
    "aten-avx2": Setting({"ATEN_CPU_CAPABILITY": "avx2"}),
    "onednn-sse41": Setting({"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    # the oldest processor that all of them can be asked to be: no AVX, no fused multiply-add
    "oldest": Setting({"OPENBLAS_CORETYPE": "Prescott", "ATEN_CPU_CAPABILITY": "default",
                       "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
}


def environment(setting: Setting) -> dict[str, str]:
    """The variables of a run: this process's own, without what it says about instruction sets and threads."""
    kept = {k: v for k, v in os.environ.items() if k not in (*THREADS, *INSTRUCTIONS)}
    return kept | dict.fromkeys(THREADS, str(setting.threads)) | setting.environment


def intel(folder: Path) -> str | None:
    """A library to preload, so that MKL takes the path that it takes on Intel's processors; None without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    source, library = folder / "intel.c", folder / "intel.so"
    source.write_text(INTEL)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


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


def run(name: str, arguments: list[str], preload: str | None) -> bool:
    """Run the tests under one setting and print its line; whether all passed."""
    setting, began = SETTINGS[name], time.monotonic()
    if setting.intel and not preload:
        print(f"{name:18} NOT RUN: needs a C compiler (cc)", flush=True)
        return False
    variables = environment(setting) | ({"LD_PRELOAD": preload} if setting.intel and preload else {})
    with busy(setting.busy):
        done = subprocess.run([sys.executable, "-m", "pytest", "--no-header", "--tb=no", "-rfE", *arguments],
                              cwd=ROOT, env=variables, capture_output=True, text=True)
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
    with tempfile.TemporaryDirectory() as folder:
        library = intel(Path(folder))
        passed = [run(name, arguments, library) for name in args.only or SETTINGS]  # all, also after a failure
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
