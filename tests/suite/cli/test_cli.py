"""The command line: answers at once, and every bad input is one line on stderr, exit code 2, and nothing on disk."""
# ruff: noqa: F811 - fixtures are imported from _cli

import json
import subprocess
import sys
from pathlib import Path

import pytest

from suite.cli import terminal
from tests.support.cli import QUICK, SCHEMA, here, medsec, patients, refused, tiny, write  # noqa: F401 - fixtures


class TestStart:
    def test_help_loads_nothing_heavy(self):
        code = ("import sys; sys.argv = ['medsec', '--help']\nfrom suite.cli.app import main\n"
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
