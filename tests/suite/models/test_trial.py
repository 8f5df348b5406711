"""A model that breaks its process is found in a process of its own: one line, before any compute."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from suite.base.errors import InputError
from suite.cli import app as cli
from suite.models import trial
from suite.results.run import Run

X = np.zeros((4, 3), np.float32)
KINDS = {
    "fine": ("return np.full((len(x), 2), 0.5)", None),
    "exit": ("sys.exit(3)", r"ended its process \(exit code 3\).*Remove sys.exit"),
    "os_exit": ("os._exit(0)", r"ended its process \(exit code 0\)"),
    "crash": ("os.kill(os.getpid(), 11)", r"crashed its process \(SIGSEGV\)"),
    "second": ("self.asked = vars(self).get('asked', 0) + 1\n        if self.asked > 2: os._exit(0)\n"
               "        return np.full((len(x), 2), 0.5)", r"ended its process \(exit code 0\)"),
    "chdir": ("os.chdir('/'); return np.full((len(x), 2), 0.5)", r"changes the working directory \(os.chdir\)"),
    "memory": ("np.ones(2**33)", "takes more memory than is free"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_does_to_its_process_is_one_line(tmp_path, kind):
    does, message = KINDS[kind]
    file = tmp_path / "own.py"
    file.write_text(f"import os\nimport sys\nimport numpy as np\n\n\nclass Own:\n    def predict_proba(self, x):\n"
                    f"        {does}\n\n\nown = Own()\n")
    home = Path.cwd()
    if message is None:
        trial.try_model(f"{file}:own", X)
    else:
        with pytest.raises(InputError, match=message) as e:
            trial.try_model(f"{file}:own", X, memory=2**32)
        assert "\n" not in str(e.value) and str(file) in str(e.value)
    assert Path.cwd() == home


def test_a_model_that_never_answers_is_ended_with_what_it_started(tmp_path):
    file, pid = tmp_path / "own.py", tmp_path / "pid"
    file.write_text("import os\nimport pathlib\nimport subprocess\nimport time\n"
                    "child = subprocess.Popen(['sleep', '600'])\n"
                    f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
                    "time.sleep(600)\n")
    limit = 4
    while True:  # a busy machine may take longer to start Python: then the same with more time
        with pytest.raises(InputError, match=rf"did not open and answer 64 rows within {limit} s.*--time-limit"):
            trial.try_model(f"{file}:own", X, time_limit=limit)
        if pid.is_file():
            break
        limit *= 2
        assert limit < 100, "the model never started"
    for _ in range(300):
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{pid.read_text()}/stat").read_text().split()[2] == "Z":  # ended, and nobody asked for its code
            break
        time.sleep(0.1)
    else:
        os.kill(int(pid.read_text()), signal.SIGKILL)
        pytest.fail("what the model started goes on")


def test_an_audit_tries_a_fitted_model_before_anything_else(tmp_path, monkeypatch, capsys):
    file = tmp_path / "own.py"
    file.write_text("import os\n\n\nclass Own:\n    def predict_proba(self, x):\n        os._exit(0)\n\n\n"
                    "own = Own()\n")
    monkeypatch.setattr(sys, "argv", ["medsec", "audit", "--data", "breast-cancer", "--model", f"{file}:own",
                                      "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2 and "ended its process (exit code 0)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_model_that_ends_the_process_after_its_trial_costs_one_cell(tmp_path, monkeypatch, capsys, jobs):
    """With more rows than a trial has it calls `os._exit(0)`: so often that with one job at a time a cell is lost."""
    file, run = tmp_path / "own.py", tmp_path / "run"
    file.write_text(
        "import os\nimport numpy as np\nfrom pathlib import Path\n\n\n"
        "class Own:\n    def predict_proba(self, x):\n"
        f"        folder = Path({str(tmp_path)!r})\n"
        f"        if len(x) > 64 and (n := len([*folder.glob('exit-*')])) < {jobs}:\n"
        "            (folder / f'exit-{n}').touch()\n            os._exit(0)\n"
        "        return np.full((len(x), 2), 0.5)\n\n\nown = Own()\n")
    monkeypatch.setattr(sys, "argv", ["medsec", "audit", "--data", "breast-cancer", "--model", f"{file}:own",
                                      "--attacks", "noise", "--quick", "--jobs", str(jobs), "--out", str(run)])
    with pytest.raises(SystemExit) as e:
        cli.main()
    said = " ".join(capsys.readouterr().out.split())
    assert e.value.code == 3 and "1 of 3 cells failed" in said
    found = Run.open(run)
    error, = (row for row in found.rows() if row.error)
    assert (error.cell, error.error) == (
        "own.py-own--none--fit", "own.py:own ended its process (exit code 0): remove os._exit from its code")
    assert not found.missing() and found.verify().whole
    assert any(row.metric == "robust_accuracy" for row in found.rows()), "the run went on"
