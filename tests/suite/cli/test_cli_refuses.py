"""Bad tables and bad words on the command line: one line with the next step, before any compute."""
# ruff: noqa: F811 - fixtures are imported from _cli

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import QUICK, SCHEMA, here, medsec, patients, refused, tiny, write  # noqa: F401 - fixtures


def audit(*args):
    return ["audit", *QUICK, "--out", "out", *args]


def on(file, *args):
    return audit("--data", file, "--target", "Sick", *args)


class TestBadTables:
    """What can be wrong with a file of patients."""

    def test_it_is_missing(self, refused):
        refused("nope.csv: no such file", *on("nope.csv"))

    @pytest.mark.parametrize(("content", "message"), [
        (b"", "the file is empty"), (b"\x89PNG\r\n\x00\xff", "not a CSV file"),
        (b"just words\nand more\n", "one column"),
        (b"a;b;Sick\n1;2;yes\n", "not by semicolons"), (b"a,b,Sick\n1,2\n", "line 2: 2 cells"),
        (b"a,b,Sick\n", "a header, but no rows")])
    def test_it_is_no_csv(self, refused, content, message):
        Path("bad.csv").write_bytes(content)
        refused(message, *on("bad.csv"))

    def test_a_column_is_missing(self, refused, tiny):
        refused("tiny.csv: no column 'Sik'; did you mean 'Sick'?", "audit", "--data", tiny, "--target", "Sik", *QUICK)
        refused("no column 'Patient'", *on(tiny, "--group", "Patient"))
        refused("no column 'Wait'; did you mean 'Weight'?", *on(tiny, "--drop", "Wait"))

    def test_a_column_is_there_twice(self, refused):
        refused("bad.csv: column 'Sugar' appears twice",
                *on(write(patients(), "bad.csv", ["Age", "Sugar", "Sugar", "Sick"])))

    def test_text_stands_where_numbers_are_due(self, refused):
        table = patients()
        table["Sugar"][6] = "high"
        refused("column 'Sugar' line 8: 'high' is not a number", *on(write(table)))

    def test_a_value_is_missing_where_none_may_be(self, refused):
        table = patients()
        table["Weight"][3] = "NaN"
        Path("s.toml").write_text(SCHEMA.format(low=40))
        refused("column 'Weight' line 5: is empty", *on(write(table), "--schema", "s.toml"))

    def test_a_label_is_missing(self, refused):
        table = patients()
        table["Sick"][0] = ""
        refused("target column 'Sick' line 2 is empty", *on(write(table)))

    def test_a_class_has_one_row(self, refused):
        refused("class 'maybe' has 1 row", *on(write(patients(Sick=["maybe"] + ["yes", "no"] * 59 + ["no"]))))

    def test_there_is_one_class_only(self, refused):
        refused("target column 'Sick' has one class only: 'no'", *on(write(patients(Sick=["no"] * 120))))

    def test_the_target_is_a_measurement(self, refused, tiny):
        refused("target column 'Weight' is continuous", *audit("--data", tiny, "--target", "Weight"))

    def test_a_value_is_outside_the_schema(self, refused):
        table = patients()
        table["Sugar"][0] = "39"
        Path("s.toml").write_text(SCHEMA.format(low=40))
        refused("column 'Sugar' line 2: '39' is outside the schema's range 40 to 400",
                *on(write(table), "--schema", "s.toml"))

    @pytest.mark.parametrize(("text", "message"), [
        (SCHEMA.format(low=500), "min 500 is not below max 400"),
        (SCHEMA.format(low=40).replace("Weight", "Wait"), "did you mean 'Weight'?"),
        (SCHEMA.format(low=40) + "[columns.Sick]\nmin = 0\nmax = 1\n", "the target column 'Sick' must not be in the"),
        (SCHEMA.format(low=40).replace("integer = true", "whole = true"), "columns.Age.whole"),
        ("[columns", "not TOML")])
    def test_the_schema_is_wrong_or_contradicts_the_file(self, refused, tiny, text, message):
        Path("s.toml").write_text(text)
        refused(message, *on(tiny, "--schema", "s.toml"))

    def test_the_schema_is_missing(self, refused, tiny):
        refused("schema none.toml: no such file", *on(tiny, "--schema", "none.toml"))

    def test_the_target_is_not_said(self, refused, tiny):
        refused("say which column to predict with --target COLUMN", *audit("--data", tiny))

    def test_the_positive_class_is_none(self, refused, tiny):
        refused("'ja' is not one of two classes of 'Sick'", *on(tiny, "--positive", "ja"))

    def test_a_known_file_is_damaged(self, refused, tmp_path, monkeypatch):
        (tmp_path / "d" / "tabular").mkdir(parents=True)
        (tmp_path / "d" / "tabular" / "pima_diabetes.csv").write_text("Glucose,Outcome\n1,0\n")
        monkeypatch.setenv("MEDSEC_DATA", str(tmp_path / "d"))
        refused("pima_diabetes.csv: wrong checksum", *audit("--data", "pima"))
        refused("pima_diabetes.csv: wrong checksum", *audit())  # and no other data in its place


class TestBadWords:
    """What can be wrong with the rest of a command."""

    BREAST = ("--data", "breast-cancer", "--quick", "--out", "out")

    @pytest.mark.parametrize(("args", "message"), [
        (["--model", "random-forrest"], "unknown model 'random-forrest'; did you mean 'random-forest'?"),
        (["--attacks", "pgd,hopskpjump"], "unknown attack 'hopskpjump'; did you mean 'hopskipjump'?"),
        (["--attacks", "noise", "--defenses", "trade"], "unknown defense 'trade'; did you mean 'trades'?"),
        (["--eps", "0"], "command line: eps: must be a finite number above 0 and at most 1"),
        (["--eps", "nan"], "command line: eps: Input should be a finite number"),
        (["--eps", "lots"], "Invalid value for '--eps'"),
        (["--seed", "-1"], "command line: seed: "),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
        (["--device", "tpu"], "command line: device: PyTorch knows no device 'tpu'; use auto, cpu, or a device"),
        (["--device", "cuda:99"], "device cuda:99: no such device is available here; use --device cpu or auto"),
        (["--model", ""], "command line: models: "),
        (["--model", "mlp,mlp"], "command line: models: 'mlp' is there twice"),
        (["--model", "none.json"], "model none.json: no such file"),
        (["--model", "none.py:Net"], "model 'none.py:Net': no file none.py"),
        (["--bogus"], "No such option"),
        (["tabluar"], "unknown preset 'tabluar'; did you mean 'tabular'?"),
        (["none.toml"], "plan none.toml: no such file"),
        (["--data", "x.parquet"], "no reader for .parquet files"),
        (["--data", "csv"], "give the file itself"),
        (["--data", "none.npz"], "none.npz: no such file or directory"),
        (["--data", "breast-cancer", "--size", "64"], "data breast-cancer: is no image set, so that 'size' means"),
        (["--size", "3"], "command line: images.size: Input should be greater than or equal to 8"),
        (["--channels", "2"], "command line: images.channels: Input should be 1 or 3"),
        (["--modality", "pet"], "command line: images.modality: Input should be 'xray', 'ct', 'mri'"),
    ])
    def test_words(self, refused, args, message):
        refused(message, "audit", *self.BREAST, *args)

    def test_a_pickle(self, refused):
        Path("m.pkl").write_bytes(pickle.dumps([1]))
        refused("a pickle can run any code", *audit("--data", "breast-cancer", "--model", "m.pkl"))
        refused("list has neither predict_proba nor predict", *audit(
            "--data", "breast-cancer", "--model", "m.pkl", "--allow-pickle"))

    def test_a_plan_with_a_wrong_key(self, refused):
        Path("p.toml").write_text('data = "pima"\nmodels = ["mlp"]\nbudget = 3\n')
        refused("p.toml: budget: no such key; did you mean 'budgets'?", "audit", "p.toml")

    def test_a_folder_of_another_plan_or_of_something_else(self, medsec, refused):
        assert medsec(*audit("--data", "breast-cancer"))[0] == 0
        refused("out holds a run of another plan: seed is 0 there and 7 here", *audit("--data", "breast-cancer"),
                "--seed", "7")
        refused("out holds a run of another plan: ", *audit("--data", "pima-synthetic"))
        Path("docs").mkdir()
        Path("docs/a.txt").write_text("x")
        refused("docs exists and is not a run folder", *audit("--data", "breast-cancer"), "--out", "docs")

    @pytest.mark.parametrize("verb", [["report", "x"], ["gate", "x", "--require", "accuracy >= 0"]])
    def test_no_run(self, refused, verb):
        refused("x is not a run folder: it has no manifest.json", *verb)

    def test_a_place_that_cannot_be_written(self, refused):
        Path("file").write_text("")
        refused("cannot write file/r/seal.jsonl", *audit("--data", "breast-cancer"), "--out", "file/r")

    def test_a_real_process_ends_the_same_way(self):
        done = subprocess.run([sys.executable, "-m", "suite.cli", "audit", "--data", "nope.csv", "--target", "y"],
                              capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "medsec: nope.csv: no such file or directory\n"
