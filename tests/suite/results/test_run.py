"""The run folder: whole files or none, and a run that goes on where it was, whenever it was stopped."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from suite.audit.request import make_plan, open_data
from suite.audit.runner import Audit
from suite.base.errors import InputError
from suite.base.files import WriteError, write_atomic, write_json
from suite.results.measurement import Measurement, Sheet
from suite.results.metrics import Estimate
from suite.results.run import Run

MANIFEST = {"plan": {"eps": 0.1, "models": ["mlp"]}, "data": {"sha256": "abc"}, "files": {}, "cells": ["b", "a"]}


def row(cell, value=0.5, **fields):
    return Measurement(cell=cell, dataset="d", data_sha256="s", synthetic=False, model="m", metric="x", value=value,
                       device="cpu", seed=0, **fields)


def files(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*"))


class TestAtomic:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    def test_a_file_is_written_whole_and_for_its_owner_only(self, tmp_path, umask):
        before = os.umask(umask)
        try:
            write_atomic(tmp_path / "a" / "b" / "c.txt", lambda f: f.write(b"hello"))
        finally:
            os.umask(before)
        assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"hello"
        assert files(tmp_path) == ["a", "a/b", "a/b/c.txt"]
        assert [(tmp_path / name).stat().st_mode & 0o777 for name in files(tmp_path)] == [0o700, 0o700, 0o600]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    @pytest.mark.parametrize("where", ["write", "fsync", "replace"])
    def test_a_full_disk_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch, number, where):
        file = tmp_path / "b.txt"
        file.write_text("old")

        def full(*_):
            raise OSError(number, os.strerror(number))

        if where == "fsync":
            monkeypatch.setattr(os, "fsync", full)
        if where == "replace":
            monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(WriteError, match=r"^cannot write .*b.txt: no space left on the disk; .* run again") as e:
            write_atomic(file, full if where == "write" else lambda f: f.write(b"new"))
        assert "\n" not in str(e.value) and isinstance(e.value, InputError)
        monkeypatch.undo()
        assert file.read_text() == "old" and files(tmp_path) == ["b.txt"]

    def test_an_error_of_the_writer_itself_leaves_nothing(self, tmp_path):
        with pytest.raises(KeyError):
            write_atomic(tmp_path / "b.txt", lambda f: {}["x"])
        assert files(tmp_path) == []

    def test_a_folder_that_cannot_be_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"cannot write .*: file exists"):
            write_atomic(tmp_path / "file" / "x", lambda f: None)

    def test_json_has_no_nan(self, tmp_path):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "x.json", {"a": float("nan")})


class TestRows:
    def test_what_is_undefined_is_null_and_comes_back_as_nan(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)
        run.finish("a", [row("a", float("nan"), ci_low=float("inf"), attack_params={"eps": float("inf")})])
        found, = run.rows()
        assert found.value is None and np.isnan(found.estimate.value) and found.attack_params == {"eps": None}
        assert "NaN" not in run.measurements_file.read_text() and "Infinity" not in run.measurements_file.read_text()

    def test_numbers_survive_the_round_trip(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)
        run.finish("a", [row("a", 1 / 3, ci_low=1e-7, ci_high=12345.678, n=7, subgroup="age=<30")])
        first = run.rows()
        run.collect()
        assert run.rows() == first and first[0].value == pytest.approx(1 / 3, rel=1e-5)
        assert [json.loads(line) for line in run.measurements_file.read_text().splitlines()] == [
            r.model_dump(mode="json") for r in first]

    def test_parameters_that_json_does_not_know_are_told_as_text(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)
        run.finish("a", [row("a", attack_params={"shift": np.float32(0.5), "where": Path("x")})])
        assert run.rows()[0].attack_params == {"shift": "0.5", "where": "x"}

    def test_rows_come_in_the_order_of_the_plan(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)
        run.finish("a", [row("a")])
        run.finish("b", [row("b", 1.0), row("b", 2.0)])
        assert [(r.cell, r.value) for r in run.rows()] == [("b", 1.0), ("b", 2.0), ("a", 0.5)]

    def test_a_row_has_every_field_that_was_promised(self):
        promised = ("schema_version cell dataset data_sha256 synthetic model defense defense_params attack "
                    "attack_params knowledge threat_ids subgroup metric value ci_low ci_high n queries seconds device "
                    "seed error versions")
        assert set(promised.split()) <= row("a").model_dump(mode="json").keys()

    def test_a_sheet_adds_what_its_rows_have_in_common(self):
        sheet = Sheet(cell="c", dataset="d", data_sha256="s", synthetic=True, model="m", device="cpu", seed=1)
        sheet.add("x", True, n=3, subgroup="sex=f")
        sheet.extend({"y": Estimate(0.5, 0.1, 0.9, 10)}, attack="pgd")
        a, b = sheet.rows
        assert (a.value, a.n, a.subgroup, a.attack) == (1.0, 3, "sex=f", "")
        assert np.isnan(a.ci_low) and (b.estimate, b.attack, b.synthetic) == (Estimate(0.5, 0.1, 0.9, 10), "pgd", True)

    def test_arrays_come_back(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)
        run.finish("a", [row("a")], {"x": np.arange(5), "inf": np.array([np.inf])})
        assert run.arrays("a")["x"].tolist() == [0, 1, 2, 3, 4] and run.arrays("b") == {}
        assert run.done("a") and not run.done("b")


class TestFolder:
    def test_the_same_plan_goes_on_and_another_is_refused_by_its_key(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)
        run.finish("a", [row("a")])
        assert Run.create(tmp_path / "r", MANIFEST | {"created": "later"}).done("a")
        with pytest.raises(InputError, match=r"another plan: eps is 0.1 there and 0.2 here; .*--out"):
            Run.create(tmp_path / "r", MANIFEST | {"plan": {"eps": 0.2, "models": ["mlp"]}})
        with pytest.raises(InputError, match=r"another data: sha256 is \"abc\" there and \"xyz\" here"):
            Run.create(tmp_path / "r", MANIFEST | {"data": {"sha256": "xyz"}})
        with pytest.raises(InputError, match=r"another plan: m.json is null there and \"123\" here"):
            Run.create(tmp_path / "r", MANIFEST | {"files": {"m.json": "123"}})
        assert json.loads((tmp_path / "r" / "manifest.json").read_text()) == MANIFEST

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("x")
        with pytest.raises(InputError, match="exists and is not a run folder"):
            Run.create(tmp_path, MANIFEST)
        assert files(tmp_path) == ["thesis.tex"]
        with pytest.raises(InputError, match="exists and is not a run folder"):
            Run.create(tmp_path / "thesis.tex", MANIFEST)
        with pytest.raises(InputError, match=r"is not a run folder: it has no manifest.json"):
            Run.open(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[1]", '{"name": "an app"}', "[" * 100_000])
    def test_a_manifest_that_is_damaged_or_of_another_program(self, tmp_path, text):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json"):
            Run.create(tmp_path, MANIFEST)
        with pytest.raises(InputError, match=r"manifest\.json"):
            Run.open(tmp_path).manifest  # noqa: B018

    def test_a_run_killed_in_its_first_breath_can_start(self, tmp_path):
        (tmp_path / ".manifest.json.x7.medsec-part").write_text("{")
        run = Run.create(tmp_path, MANIFEST)
        with run.locked():
            assert files(tmp_path) == [".lock", "manifest.json", "measurements.jsonl", "seal.jsonl"]

    def test_only_one_works_in_a_folder_and_the_other_touches_nothing(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)
        with run.locked():
            (tmp_path / "r" / "cells").mkdir()
            (tmp_path / "r" / "cells" / ".a.json.x7.medsec-part").write_text("half")  # the first one is writing it
            before = files(tmp_path)
            with pytest.raises(InputError, match="another audit is working in"), \
                    Run.create(tmp_path / "r", MANIFEST).locked():
                pass
            assert files(tmp_path) == before
        with run.locked():  # the first one has been killed: now it is a leftover
            assert "r/cells/.a.json.x7.medsec-part" not in files(tmp_path)

    def test_a_model_appears_only_when_it_is_whole(self, tmp_path):
        run = Run.create(tmp_path / "r", MANIFEST)

        def fails():
            with run.model_folder("m") as folder:
                (folder / "w").write_text("half")
                raise KeyError

        with pytest.raises(KeyError):
            fails()
        assert not run.model("m").exists() and files(tmp_path / "r" / "models") == []
        for text in ("first", "second"):
            with run.model_folder("m") as folder:
                (folder / "w").write_text(text)
            assert (run.model("m") / "w").read_text() == text
        assert files(tmp_path / "r" / "models") == ["m", "m/w"]

    def test_a_full_disk_while_appending_loses_nothing(self, tmp_path, monkeypatch):
        run = Run.create(tmp_path / "r", MANIFEST)
        run.collect()
        real = os.open

        def full(path, *args, **kwargs):
            if Path(path).name == "measurements.jsonl":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", full)
        with pytest.raises(WriteError, match=r"measurements.jsonl: no space left on the disk"):
            run.finish("a", [row("a")])
        monkeypatch.undo()
        with run.locked():
            assert run.done("a") and len(run.measurements_file.read_text().splitlines()) == 1


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What `_killed` reports: the undisturbed run, one for each moment at which one was killed, and a full disk."""
    done = subprocess.run([sys.executable, "-m", "tests.support.killed", str(tmp_path_factory.mktemp("runs"))],
                          capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def timeless(rows):
    return [{k: v for k, v in r.items() if k != "seconds" and not (k == "value" and r["metric"] == "cell_seconds")}
            for r in rows]


class TestKilled:
    def test_the_undisturbed_run_did_everything_once(self, killed):
        whole = killed[0]
        assert [k.rpartition("--")[2] for k in whole["ended"]["started"]] == [
            "fit", "noise", "fgsm", "worst-case"]
        assert whole["ended"]["error"] == "" and not [r for r in whole["rows"] if r["error"]]
        assert len(killed) == whole["ended"]["moments"] + 2 > 30

    def test_no_cell_is_lost_and_none_is_computed_twice(self, killed):
        everything = killed[0]["ended"]["started"]
        for run in killed[1:-1]:
            assert run["killed"]["signal"] == 9 and run["ended"]["signal"] == 0 and run["ended"]["error"] == ""
            assert run["ended"]["started"] == [key for key in everything if key not in run["done"]], run["moment"]

    def test_the_measurements_are_those_of_the_undisturbed_run(self, killed):
        for run in killed[1:]:
            assert timeless(run["rows"]) == timeless(killed[0]["rows"])
            assert run["hidden"] == []

    def test_a_real_limit_of_file_size_is_one_line_and_the_run_goes_on_later(self, killed):
        run = killed[-1]
        assert run["limited"]["error"].startswith("WriteError: cannot write ")
        assert "no space left on the disk" in run["limited"]["error"]
        assert run["ended"]["error"] == "" and len(run["ended"]["started"]) <= 4


def test_several_processes_that_are_killed_with_their_parent_leave_a_run_that_goes_on(tmp_path):
    plan = tmp_path / "p.toml"
    plan.write_text('data = "breast-cancer"\nmodels = ["logistic-regression", "random-forest"]\n'
                    'attacks = ["noise", "fgsm"]\nrows = 10\n')
    first = subprocess.Popen([sys.executable, "-m", "suite.cli", "audit", str(plan), "--jobs", "2", "--out",
                              str(tmp_path / "r")], cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL)
    while first.poll() is None and not list(tmp_path.glob("r/cells/*.json")):
        time.sleep(0.01)
    first.kill()  # its workers are not told
    first.wait()
    made = make_plan(str(plan), {})
    audit = Audit(made, *open_data(made))
    done = {f.stem for f in tmp_path.glob("r/cells/*.json")}
    started = []
    again = audit.run(tmp_path / "r", lambda cell, *_: started.append(cell.key))
    assert done and not done & set(started)
    whole = audit.run(tmp_path / "whole")
    assert timeless([r.model_dump() for r in again.rows()]) == timeless([r.model_dump() for r in whole.rows()])
