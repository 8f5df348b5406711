"""The command line on a user's table: its split, its disease, and names that are no plain text."""

import sys
from pathlib import Path

import numpy as np
import pytest

from suite.cli import app as cli
from suite.cli import terminal


@pytest.fixture
def medsec(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.console, "_width", 200)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["medsec", *map(str, args)])
        monkeypatch.setattr(terminal.console, "_file", None)
        with pytest.raises(SystemExit) as e:
            cli.main()
        said = capsys.readouterr()
        return e.value.code or 0, said.out, said.err

    return run


def write(name="t.csv", labels=("no", "yes"), column="Sugar", patient=None):
    """40 patients; `patient` numbers them."""
    rng = np.random.default_rng(0)
    patient = patient or list(range(40))
    lines = [f"{i + rng.integers(3)},{i * 2.5},{patient[i]},{labels[i % 2]},{('train', 'test')[i % 8 in (3, 4)]}"
             for i in range(40)]
    Path(name).write_text("\n".join([f"Age,{column},patient,Sick,part", *lines]) + "\n")
    return name


@pytest.mark.parametrize(("args", "message"), [
    (["--data", "t.csv", "--test", "t.csv"], "--train FILE and --test FILE go together"),
    (["--train", "t.csv"], "--train FILE and --test FILE go together"),
    (["--data", "t.csv", "--train", "t.csv", "--test", "t.csv"], "--data and --train name the same thing"),
    (["--data", "t.csv", "--split", "Age"], "column 'Age' line 2: '2' is none of train, val and test"),
    (["--data", "t.csv", "--split", "prat"], "no column 'prat'; did you mean 'part'"),
    (["--data", "breast-cancer", "--split", "part"], "'split' means nothing"),
    (["--data", "ab.csv"], "are 'alpha' and 'beta', and neither name says which is the disease; give --positive alpha"),
    (["--data", "x\udcff.csv"], r"'x\udcff.csv': is not UTF-8; rename"),
    (["--data", "esc.csv"], r"the name of column 2, 'Sug\x1b[2Jar', holds control characters"),
])
def test_what_is_refused_in_one_line(medsec, args, message):
    write()
    write("x\udcff.csv")
    write("esc.csv", column="Sug\x1b[2Jar")
    write("ab.csv", labels=("alpha", "beta"))
    for command in (["audit", "--quick"], ["federate", "--quick"]):
        code, _, err = medsec(*command, "--target", "Sick", "--out", "out", *args)
        assert code == 2 and err.count("\n") == 1 and message in err and "\x1b" not in err, err
        assert not Path("out").exists()


def test_a_table_with_its_own_split_is_described(medsec):
    code, out, _ = medsec("data", "show", write(column="[bold]Sugar[/]"), "--target", "Sick", "--split", "part",
                          "--group", "patient")
    assert code == 0 and "30 to train" not in out and "24 to train, 6 to validate, 10 to test" in out
    assert "[bold]Sugar[/]" in out  # as it is written, and no markup
    assert "“yes” is the disease and “no” is not (recognized by the name “no”" in out
    assert "every value of column 'patient' is unique: it does not look like a patient id" in out


def test_what_casts_doubt_on_the_data_is_said_on_the_screen_and_in_the_report(medsec):
    code, out, _ = medsec("audit", "--data", write(), "--target", "Sick", "--group", "patient", "--drop", "part",
                          "--model", "logistic-regression", "--attacks", "noise", "--quick", "--jobs", 1,
                          "--out", "out")
    assert code == 0 and "it does not look like a patient id" in out
    assert "it does not look like a patient id" in Path("out/report.html").read_text()
