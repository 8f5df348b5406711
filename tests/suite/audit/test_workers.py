"""Several processes: what Ctrl-C leaves, and how soon."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from suite.results.run import Run
from tests.support.run import carry_out, written

SLOW = """
import time
from dataclasses import dataclass
from pathlib import Path
from suite.core.attack import EvasionAttack
from suite.base.info import Info

@dataclass(frozen=True)
class Slow(EvasionAttack):
    info = Info("Waits", "none", threats=("evasion-query",), knowledge="score")

    def __call__(self, classifier, x, y, seed=0):
        if not Path({go!r}).exists():
            with Path({log!r}).open("a") as f:
                f.write("waiting\\n")
        while not Path({go!r}).exists():
            time.sleep(0.1)
        return x
"""


def test_ctrl_c_ends_all_processes_and_leaves_a_run_that_goes_on(tmp_path):
    """Two processes wait for a file that never comes, so that only being ended ends them."""
    go, log = tmp_path / "go", tmp_path / "log"
    (tmp_path / "slow.py").write_text(SLOW.format(go=str(go), log=str(log)))
    plan = written(tmp_path)
    text = plan.read_text().replace('["logistic-regression"]', '["logistic-regression", "decision-tree"]')
    plan.write_text(text[:text.index("attacks")] + f'attacks = ["noise", "{tmp_path}/slow.py:Slow"]\n'
                    + text[text.index("rows"):])
    process = subprocess.Popen(
        [sys.executable, "-m", "suite.cli", "audit", str(plan), "--jobs", "2", "--out", str(tmp_path / "r")],
        cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # what a shell starts in the background ignores Ctrl-C, and so does all that comes of it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    waiting = 0
    while process.poll() is None and waiting < 2:
        time.sleep(0.05)
        waiting = len(log.read_text().splitlines()) if log.exists() else 0
    children = [int(pid) for task in Path(f"/proc/{process.pid}/task").iterdir()
                for pid in (task / "children").read_text().split()]
    assert len(children) >= 2
    begun = log.read_text()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and said.startswith("medsec: stopped; run the same command again")
    for _ in range(1000):  # a helper of multiprocessing follows when it sees that the parent is gone
        if not any(map(_alive, children)):
            break
        time.sleep(0.05)
    assert not any(map(_alive, children))
    assert log.read_text() == begun  # no cell has started since
    run = Run.open(tmp_path / "r")
    done = [key for key in run.manifest["cells"] if run.done(key)]
    assert len(done) == 4 and len(run.missing()) == 4 and run.verify().changed in ((), ("measurements.jsonl",))
    go.touch()
    started = []
    again = carry_out(plan, tmp_path / "r", started=lambda cell, *_: started.append(cell.key))
    assert not {*started} & {*done} and not again.missing() and again.verify().whole


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
