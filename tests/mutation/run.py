"""How many realistic faults the tests notice.

    python tests/mutation/run.py [FILTER] [--list] [--seconds 300]

Each mutant of `tests/mutation/mutants.py` whose file or description contains FILTER is put into a copy of the tree, one
at a time, and the tests named with it run there, with a time limit. A mutant is killed when they fail or do not end in
time, and survives when they pass; the goal is a kill rate of 97 %. Before that the same tests run once without any
mutant: where these fail, nothing can be said of the mutant. A mutant whose old text is not in its file exactly once is
stale (`tests/mutation/test_mutants.py` finds those in a second). Exit code 1 where one survives, is stale, or cannot be
told.

Why a list of patches, and neither mutmut nor cosmic-ray: both mutate operators and constants everywhere, which gives
tens of thousands of mutants here. Most of them change nothing that matters (messages, tolerances, equal orders of a
sum), each costs seconds to minutes of training, and neither tool knows which tests are about a line. And the faults
that survived so far are not of that kind: they are mistakes of method, such as an unpaired bootstrap, a step too few in
an accountant, or a check that skips one pair of splits. Those are written down here, with the tests that must notice.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutation.mutants import MUTANTS, Mutant  # noqa: E402 - the root comes first


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("filter", nargs="?", default="")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--seconds", type=float, default=300, help="limit for the tests of one mutant")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.filter in m.file or options.filter in m.fault]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.file}: {mutant.fault}  [{mutant.tests}]")
        return 0
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        baseline = cache(lambda tests: run_tests(tree, tests, options.seconds)[0])
        for mutant in chosen:
            began = time.perf_counter()
            outcome = judge(mutant, tree, baseline, options.seconds)
            outcomes.append(outcome)
            print(f"{outcome:<9} {time.perf_counter() - began:5.0f} s  {mutant.file}: {mutant.fault}", flush=True)
    counts = {kind: outcomes.count(kind) for kind in ("killed", "survived", "stale", "broken")}
    told = counts["killed"] + counts["survived"]
    print(", ".join(f"{count} {kind}" for kind, count in counts.items())
          + (f"; kill rate {counts['killed'] / told:.1%}" if told else ""))
    return 0 if counts["killed"] == len(chosen) else 1


def judge(mutant: Mutant, tree: Path, baseline: cache, seconds: float) -> str:
    """ "killed", "survived", "stale" (it no longer applies) or "broken" (its tests fail without it)."""
    file = tree / mutant.file
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    if before.count(mutant.old) != 1:
        return "stale"
    if not baseline(mutant.tests):
        return "broken"
    try:
        file.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
        return "survived" if run_tests(tree, mutant.tests, seconds)[0] else "killed"
    finally:
        file.write_text(before, encoding="utf-8")


def copy_tree(target: Path) -> None:
    """The files that git tracks, and new ones that it does not ignore."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    # an installed copy's entry points name the modules, which are then found in the tree
    for metadata in ROOT.glob("medsec-*.dist-info"):
        shutil.copytree(metadata, target / metadata.name, dirs_exist_ok=True)


def run_tests(tree: Path, tests: str, seconds: float) -> tuple[bool, str]:
    """Whether tests pass in a tree within a time, and the end of what they print.

    Args:
        tree: Its root.
        tests: Arguments of pytest, separated by spaces; a `-k` expression stands last.
        seconds: The limit.
    """
    paths, _, expression = tests.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths.split(),
               *(["-k", expression] if expression else [])]
    # compiled functions are kept by the path and time of their source, which a mutant may share with the original
    environment = os.environ | {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": tempfile.mkdtemp(dir=tree.parent),
                                "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=seconds,
                              check=False)
    except subprocess.TimeoutExpired:
        return False, "no end in time"
    return done.returncode == 0, done.stdout[-2000:]


if __name__ == "__main__":
    sys.exit(main())
