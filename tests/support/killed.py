"""Runs one small audit again and again, each time killed (SIGKILL) at another moment, and goes on with it each time.

A script of its own, since it forks: `python -m tests.support.killed FOLDER` prints one JSON object a line.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from suite.audit import runner as audit_module
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base.errors import InputError
from suite.results import metrics
from suite.results.run import Run
from tabular.data import breast_cancer

PLAN = Plan(data="breast-cancer", models=["logistic-regression"], attacks=["noise", "fgsm"], rows=10,
            eps=0.1, budgets=[0.1])
moments = 0


def main(folder: Path) -> None:
    metrics.bootstrap.__defaults__ = (0, None, 10)  # intervals are not the point here
    audit = Audit(PLAN, breast_cancer(), "why")
    audit.run(folder / "warm")  # imports once what every child would import again
    total = report(folder / "whole", child(audit, folder / "whole"))
    for moment in range(1, total + 1):
        run = folder / f"killed-{moment}"
        killed = child(audit, run, moment)
        done = sorted(f.stem for f in (run / "cells").glob("*.json"))
        if run.joinpath("measurements.jsonl").exists():  # killed while it appended a row
            with run.joinpath("measurements.jsonl").open("a") as f:
                f.write('{"schema_version": 1, "ce')
        again = child(audit, run)
        report(run, again, moment=moment, killed=killed, done=done)
    full = folder / "full"
    limited = child(audit, full, limit=4000)
    report(full, child(audit, full), limited=limited)


def child(audit: Audit, run: Path, kill_at: int = 0, limit: int = 0) -> dict:
    """Run the audit in a child process; which cells it started, how it ended, and how many moments there were."""
    log = run.with_suffix(".log")
    log.write_text("")
    if not (pid := os.fork()):
        carry_out(audit, run, kill_at, limit, log)
    _, status = os.waitpid(pid, 0)
    lines = log.read_text().splitlines()
    return {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "started": [line[6:] for line in lines if line.startswith("start ")],
            "moments": len([line for line in lines if line == "moment"]),
            "error": "".join(line[6:] for line in lines if line.startswith("error "))}


def carry_out(audit: Audit, run: Path, kill_at: int, limit: int, log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)

    def moment(then):
        """A call before which the process may die."""
        def called(*args, **kwargs):
            global moments
            moments += 1
            os.write(handle, b"moment\n")
            if moments == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return then(*args, **kwargs)
        return called

    os.fsync, Path.replace, Path.rename = moment(lambda _: None), moment(Path.replace), moment(Path.rename)
    audit_module.measure = moment(audit_module.measure)
    Run.finish = moment(Run.finish)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        audit.run(run, moment(lambda cell, *_: os.write(handle, f"start {cell.key}\n".encode())))
    except InputError as e:
        os.write(handle, f"error {type(e).__name__}: {e}\n".encode())
    except BaseException as e:
        os.write(handle, f"error UNEXPECTED {type(e).__name__}: {e}\n".encode())
    os._exit(0)


def report(run: Path, ended: dict, **more: object) -> int:
    """Print how a run ended and what it left."""
    print(json.dumps({"rows": [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()],
                      "hidden": sorted(str(f.relative_to(run)) for f in run.rglob(".*") if f.name != ".lock"),
                      "ended": ended, **more}))
    return ended["moments"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
