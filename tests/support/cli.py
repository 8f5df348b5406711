"""The command line as tests call it, and small tables to call it with."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from suite.cli import app as cli
from suite.cli import terminal
from suite.results import metrics

QUICK = ["--model", "logistic-regression", "--attacks", "noise", "--defenses", "none", "--quick", "--jobs", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every command runs in an empty folder, 80 columns wide, with few resamples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.console, "_width", 80)
    monkeypatch.setattr(metrics.bootstrap, "__defaults__", (0, None, 20))


@pytest.fixture
def medsec(monkeypatch, capsys):
    """Run a command; its exit code and what it printed."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["medsec", *map(str, args)])
        monkeypatch.setattr(terminal.console, "_file", None)
        with pytest.raises(SystemExit) as e:
            cli.main()
        said = capsys.readouterr()
        return e.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def refused(medsec, tmp_path):
    """Run a command that must fail: exit code 2, one line that matches, and no file more than before."""

    def run(message, *args):
        before = sorted(tmp_path.rglob("*"))
        code, _, err = medsec(*args)
        assert code == 2, err
        assert err.count("\n") == 1 and err.startswith("medsec: ") and "Traceback" not in err
        assert message in err
        assert sorted(tmp_path.rglob("*")) == before, "something was written"

    return run


def patients(n=120, **columns):
    rng = np.random.default_rng(0)
    ill = rng.random(n) < 0.4
    made = {"Age": rng.integers(20, 80, n), "Sugar": (100 + 30 * ill + 15 * rng.normal(size=n)).round(),
            "Weight": (70 + 10 * rng.normal(size=n)).round(1), "Sick": np.where(ill, "yes", "no")}
    return {name: list(map(str, values)) for name, values in (made | columns).items()}


def write(table, name="tiny.csv", header=None):
    with Path(name).open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(header or table)
        out.writerows(zip(*table.values(), strict=True))
    return name


@pytest.fixture
def tiny():
    return write(patients())


SCHEMA = """
[columns.Age]
min = 18
max = 100
integer = true
change = "never"
[columns.Sugar]
min = {low}
max = 400
[columns.Weight]
min = 20
max = 200
"""
