"""The command line: answers at once, and every bad input is one line on stderr, exit code 2, and nothing on disk."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from suite import cli, metrics, terminal

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


class TestStart:
    def test_help_loads_nothing_heavy(self):
        code = ("import sys; sys.argv = ['medsec', '--help']\nfrom suite.cli import main\n"
                "try: main()\nexcept SystemExit as e: assert not e.code\n"
                "heavy = {'torch', 'numpy', 'art', 'pandas', 'pydantic', 'sklearn', 'scipy', 'matplotlib', 'pooch'}\n"
                "print('loaded', sorted(heavy & sys.modules.keys()))")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "loaded []", done.stdout + done.stderr
        for verb in ("audit", "list", "report", "gate", "data"):
            assert f"\n  {verb} " in done.stdout

    @pytest.mark.parametrize("args", [[], ["data"], ["-h"], ["audit", "--help"], ["gate", "-h"],
                                      ["data", "show", "-h"]])
    def test_help_is_shown_within_80_columns(self, medsec, args):
        code, out, err = medsec(*args)
        assert (code, err) == (0, "") and out.startswith("Usage: medsec")
        assert max(map(len, out.splitlines())) <= 80


class TestList:
    @pytest.mark.parametrize("kind", ["presets", "datasets", "readers", "partitions", "models", "attacks", "defenses",
                                      "detectors", "aggregations", "threats"])
    def test_json_is_json_and_text_fits(self, medsec, kind):
        code, out, _ = medsec("list", kind, "--json")
        rows = json.loads(out)
        assert code == 0 and rows and all(row["name"] for row in rows)
        if kind == "attacks":
            assert all(row["paper"] and row["knowledge"] and row["cost"] and row["threat ids"] for row in rows)
        code, out, _ = medsec("list", kind)
        assert code == 0 and max(map(len, out.splitlines())) <= 80
        assert all(row["name"] in out for row in rows)

    def test_everything_at_once(self, medsec):
        code, out, _ = medsec("list", "--json")
        assert code == 0 and set(json.loads(out)) == {
            "presets", "datasets", "readers", "partitions", "models", "attacks", "defenses", "detectors",
            "aggregations", "threats"}

    def test_an_unknown_list(self, refused):
        refused("there is no list of 'atacks'; there are: presets, ", "list", "atacks")


class TestData:
    def test_a_dataset_is_described_within_80_columns(self, medsec):
        code, out, _ = medsec("data", "show", "breast-cancer")
        assert code == 0 and "569: 343 to train" in out and "mean radius" in out and "CC BY 4.0" in out
        assert "sha256" in out and "\n\n" not in out

    def test_real_pima_is_described(self, medsec, real_data):
        code, out, _ = medsec("data", "show", "pima")
        assert code == 0 and "768: 460 to train" in out and "± 10 mg/dL" in out and "Insulin 374 (48.7%)" in out

    def test_synthetic_data_says_so_first(self, medsec):
        assert medsec("data", "show", "pima-synthetic")[1].startswith("pima-synthetic  SYNTHETIC\n")

    def test_a_schema_is_written_once_and_then_used(self, medsec, refused, tiny):
        code, out, _ = medsec("data", "show", tiny, "--target", "Sick", "--write-schema", "s.toml")
        assert code == 0 and "wrote s.toml" in out and "[columns.Sugar]" in Path("s.toml").read_text()
        refused("s.toml exists already", "data", "show", tiny, "--target", "Sick", "--write-schema", "s.toml")
        assert medsec("data", "show", tiny, "--target", "Sick", "--schema", "s.toml")[0] == 0

    def test_brackets_in_a_files_name_are_no_markup(self, medsec):
        name = write(patients(), "cohort[red].csv")
        assert "cohort[red]" in medsec("data", "show", name, "--target", "Sick")[1]

    def test_verify_tells_good_from_missing_from_damaged(self, medsec, tmp_path, monkeypatch):
        monkeypatch.setenv("MEDSEC_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("MEDSEC_DATA", raising=False)
        code, out, _ = medsec("data", "verify")
        assert code == 0 and "missing  pima " in out and "ok       breast-cancer" in out
        (tmp_path / "d" / "tabular").mkdir(parents=True)
        (tmp_path / "d" / "tabular" / "pima_diabetes.csv").write_text("Glucose,Outcome\n1,0\n")
        monkeypatch.setenv("MEDSEC_DATA", str(tmp_path / "d"))
        code, out, _ = medsec("data", "verify")
        assert code == 1 and "wrong    pima " in out and "wrong checksum" in out

    def test_real_files_verify(self, medsec, real_data):
        code, out, _ = medsec("data", "verify")
        assert code == 0 and "ok       pima " in out

    def test_fetch_of_what_needs_no_file(self, medsec):
        assert medsec("data", "fetch", "breast-cancer")[:2] == (0, "breast-cancer needs no file\n")

    def test_images_in_three_channels_of_a_kind(self, medsec, refused):
        show = ("data", "show", "chest-phantom", "--size", "16")
        code, out, _ = medsec(*show, "--channels", "3", "--modality", "ct")
        assert code == 0 and "16 x 16 pixels, colour" in out and "modality        ct" in out
        refused("chest-phantom is generated, so that 'finding' means nothing", *show, "--finding", "x")

    def test_an_unknown_dataset(self, refused):
        refused("unknown dataset 'pma'; did you mean 'pima'?", "data", "show", "pma")
        refused("unknown dataset 'pma'; did you mean 'pima'?", "data", "fetch", "pma")


class TestAudit:
    def test_a_table_of_ones_own(self, medsec, tiny, tmp_path):
        code, out, err = medsec("audit", "--data", tiny, "--target", "Sick", "--positive", "yes", *QUICK)
        assert (code, err) == (0, "")
        assert out.splitlines()[0] == "data  tiny.csv: data from the file tiny.csv"
        assert max(map(len, out.splitlines())) <= 80 and "3 cells in " in out
        run = tmp_path / "runs" / "tabular"
        assert (run / "report.html").stat().st_size > 1000
        rows = [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()]
        assert {r["attack"] for r in rows} == {"", "noise", "worst-case"} and not [r for r in rows if r["error"]]

    def test_failed_cells_come_first_and_give_exit_code_3(self, medsec, tiny, tmp_path):
        (tmp_path / "bad.py").write_text(
            "from dataclasses import dataclass\nfrom suite.attacks.noise import RandomNoise\n@dataclass(frozen=True)\n"
            "class Bad(RandomNoise):\n    def __call__(self, *a, **k): raise ValueError('boom')\n")
        args = ["audit", "--data", tiny, "--target", "Sick", "--positive", "yes", *QUICK]
        args[args.index("noise")] = "noise,bad.py:Bad"
        code, out, err = medsec(*args)
        assert (code, err) == (3, "")
        said = " ".join(out.split())
        assert "verdict 1 cell of the plan failed: nothing is known there" in said
        assert "findings, worst first error logistic-regression bad.py:Bad failed" in said
        assert said.endswith("1 of 4 cells failed: nothing is known there; exit code 3")
        assert "3: cells failed" in " ".join(medsec("audit", "--help")[1].split())
        assert medsec(*args)[0] == 3  # nothing was mended by giving the same command again

    def test_gate_and_report_of_a_run(self, medsec, refused, tiny):
        assert medsec("audit", "--data", tiny, "--target", "Sick", *QUICK, "--out", "r")[0] == 0
        code, out, _ = medsec("gate", "r", "--require", "accuracy >= 0", "--require", "recall[yes] <= 1")
        assert code == 0 and out.count("PASS") == 2 and "recall[yes]" in out
        code, out, _ = medsec("gate", "r", "--require", "accuracy >= 0", "--require", "accuracy >= 1")
        assert code == 1 and out.count("PASS") == 1 and out.count("FAIL") == 1
        assert medsec("gate", "r", "--require", "accuracy >= 0.01", "--lenient")[0] == 0
        refused("no row of acuracy; did you mean 'accuracy'?", "gate", "r", "--require", "acuracy >= 0")
        refused("write it like", "gate", "r", "--require", "be good")
        refused("Missing option", "gate", "r")
        Path("r/report.html").unlink()
        assert medsec("report", "r")[:2] == (0, "r/report.html\n") and Path("r/report.html").exists()

    def test_ctrl_c_is_one_line(self, medsec, tiny, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(terminal, "run_audit", stop)
        code, _, err = medsec("audit", "--data", tiny, "--target", "Sick", *QUICK)
        assert code == 130 and "run the same command again to go on" in err and "Traceback" not in err

    def test_a_full_disk_is_one_line_and_the_run_goes_on(self, medsec, tiny, monkeypatch):
        calls = []

        def full(_):
            calls.append(1)
            if len(calls) > 4:
                raise OSError(28, "No space left on device")

        args = ["audit", "--data", tiny, "--target", "Sick", *QUICK, "--out", "r"]
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            code, _, err = medsec(*args)
        assert code == 2 and err.count("\n") == 1 and "no space left on the disk" in err
        assert not [f for f in Path("r").rglob(".*") if f.name != ".lock" and f.is_file()]
        assert medsec(*args)[0] == 0 and Path("r/report.html").exists()


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
