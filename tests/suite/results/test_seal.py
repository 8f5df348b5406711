"""The seal of a run: whatever is done to a file of it is named, and nothing that was changed is used."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from suite.audit.gate import check
from suite.base.errors import InputError
from suite.report.write import write_report
from suite.results.run import Run
from suite.results.seal import Seal, keep, read_kept
from suite.shadows import shadowing as shadows
from tests.support.run import FGSM, FIT, RMIA, WORST, carry_out, make_audit, timeless, written

REQUIRED = ["accuracy >= 0.1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(plan, the folder of its run, and the run's rows)."""
    folder = tmp_path_factory.mktemp("sealed")
    run = carry_out(plan := written(folder), folder / "run")
    return plan, run.folder, run.rows()


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the run, to be changed."""
    shutil.copytree(whole[1], tmp_path / "r")
    return tmp_path / "r"


def found(folder, head=None):
    checked = Run.open(folder).verify(head)
    return {"changed": checked.changed, "missing": checked.missing, "extra": checked.extra}


def edit(file, old, new):
    text = file.read_text()
    assert re.search(old, text)
    file.write_text(re.sub(old, new, text, count=1))


def flip(file, at=-20):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_run_is_as_it_was_written_and_names_every_file(whole):
    _, folder, _ = whole
    checked = Run.open(folder).verify()
    assert checked.whole and Run.open(folder).verify(checked.head).whole
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    assert {*Run.open(folder).seal.files()} == there - {".lock", "seal.jsonl", "measurements.jsonl"}
    assert f"models/{FIT}/weights.safetensors" in there and [name for name in there if name.startswith("shadows/")]


@pytest.mark.parametrize("name", [f"cells/{FIT}.json", f"cells/{FGSM}.npz", f"models/{FIT}/weights.safetensors",
                                  f"models/{FIT}/model.json", "shadows/*.npy", "manifest.json", "report.html",
                                  "measurements.jsonl"])
def test_a_changed_byte_in_any_file_is_named(copy, name):
    file, = copy.glob(name)
    flip(file)
    assert found(copy) == {"changed": (file.relative_to(copy).as_posix(),), "missing": (), "extra": ()}


def test_missing_and_extra_files_are_named(copy):
    (copy / f"models/{FIT}/weights.safetensors").unlink()
    (copy / "cells" / "forged.json").write_text("[]")
    (copy / ".notes.txt").write_text("mine")
    (copy / "elsewhere").symlink_to("/etc")
    assert found(copy) == {"changed": (), "missing": (f"models/{FIT}/weights.safetensors",),
                           "extra": (".notes.txt", "cells/forged.json", "elsewhere")}


def test_the_head_shows_that_the_list_was_written_anew_or_cut(copy):
    head = Run.open(copy).seal.head
    lines = (copy / "seal.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "seal.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(InputError, match="no line has the head's hash"):
        found(copy, head)
    (copy / "seal.jsonl").write_bytes(b"".join(lines))
    with Seal.of(copy).adding("forged", files={}):
        pass
    with pytest.raises(InputError, match="was added after the head's hash"):
        found(copy, head)
    (copy / "seal.jsonl").write_bytes(b"".join([lines[0].replace(b"began", b"begun"), *lines[1:]]))
    for use in (found, lambda r: check(Run.open(r), REQUIRED), lambda r: write_report(Run.open(r))):
        with pytest.raises(InputError, match="line 1 was changed"):
            use(copy)


def test_a_report_that_is_written_again_leaves_the_head(copy):
    head = Run.open(copy).seal.head
    (copy / "report.html").write_text("forged")
    write_report(Run.open(copy))
    assert found(copy, head) == {"changed": (), "missing": (), "extra": ()}


class TestForged:
    """Files that say something else: no figure of them is believed."""

    @pytest.fixture(params=["value", "cell", "manifest", "weights", "link", "npz"])
    def forged(self, copy, request):
        cells = copy / "cells"
        if request.param == "value":
            edit(cells / f"{FIT}.json", r'("metric": "accuracy",\s+"value": )[\d.]+', r"\g<1>0.999")
        if request.param == "cell":
            shutil.copy(cells / f"{FIT}.json", cells / "better.json")
        if request.param == "manifest":
            edit(copy / "manifest.json", r'"logistic-regression--none--worst-case"', '"logistic-regression--none--fit"')
        if request.param == "weights":
            flip(copy / f"models/{FIT}/weights.safetensors")
        if request.param == "link":
            (cells / f"{FIT}.json").rename(copy.parent / "outside.json")
            (cells / f"{FIT}.json").symlink_to(copy.parent / "outside.json")
        if request.param == "npz":
            np.savez(cells / f"{FIT}.npz", pred=np.ones(40, int))
        return copy

    def test_gate_and_report_refuse_with_the_next_step(self, forged):
        for use in (lambda run: check(run, REQUIRED), write_report):
            with pytest.raises(InputError, match=r"is not as the run wrote it.*medsec verify.*computes changed cells"):
                use(Run.open(forged))

    def test_an_audit_computes_it_again(self, whole, forged):
        plan, _, rows = whole
        if "manifest.json" in found(forged)["changed"]:
            with pytest.raises(InputError, match=r"manifest.json is not as the run wrote it; .*--out"):
                carry_out(plan, forged)
            return
        again = carry_out(plan, forged)
        assert timeless(again.rows()) == timeless(rows) and again.verify().whole
        assert check(again, REQUIRED)[0].met


class TestDamaged:
    """Files that cannot be read: their cells are unfinished ones."""

    @pytest.fixture(params=["json", "npz", "empty"])
    def damaged(self, copy, request):
        file = copy / "cells" / (f"{FGSM}.npz" if request.param == "npz" else f"{FGSM}.json")
        file.write_bytes(b"" if request.param == "empty" else file.read_bytes()[:150])
        return copy

    def test_the_report_lists_it_and_the_gate_refuses(self, damaged):
        run = Run.open(damaged)
        assert run.missing() == [FGSM] and not [r for r in run.rows() if r.cell == FGSM]
        page = write_report(run).read_text()
        assert "Cells without a result: 1 of 5" in page and f"<li>{FGSM}</li>" in page
        with pytest.raises(InputError, match=rf"not complete, 1 cell is missing or cannot be read \({FGSM}\)"):
            check(run, REQUIRED)

    def test_an_audit_computes_that_cell_again_and_no_other(self, whole, damaged):
        plan, _, rows = whole
        started = []
        again = carry_out(plan, damaged, started=lambda cell, *_: started.append(cell.key))
        assert started == [FGSM] and timeless(again.rows()) == timeless(rows) and again.verify().whole


def test_shadow_answers_with_a_flipped_bit_are_not_used(whole, copy, monkeypatch):
    plan, _, rows = whole
    file, = copy.glob("shadows/*.npy")
    assert read_kept(file).shape[0] == 4
    flip(file)
    assert read_kept(file) is None
    (copy / f"cells/{RMIA}.json").unlink()  # so that the answers are asked for
    trained = []
    real = shadows.trained
    monkeypatch.setattr(shadows, "trained", lambda *args: (trained.append(1) or m for m in real(*args)))
    again = carry_out(plan, copy)
    assert len(trained) == 4 and timeless(again.rows()) == timeless(rows) and again.verify().whole


def test_arrays_kept_outside_of_a_run_are_read_where_they_can_be(tmp_path):
    file = tmp_path / "shelf" / "a.npy"
    assert read_kept(file) is None
    keep(file, np.arange(3.0))
    assert read_kept(file).tolist() == [0, 1, 2]
    file.write_bytes(file.read_bytes()[:50])
    assert read_kept(file) is None


def test_an_older_version_of_kept_answers_is_good_after_a_kill(copy):
    """Sealed first, written after: a process may have been killed between the two."""
    file, = copy.glob("shadows/*.npy")
    before = file.read_bytes()
    keep(file, np.zeros((6, 3)))
    file.write_bytes(before)
    assert read_kept(file).shape[0] == 4


def test_a_line_that_a_killed_process_left_half_written_is_removed(whole, copy):
    seal = copy / "seal.jsonl"
    entries = Run.open(copy).seal.entries
    with seal.open("ab") as f:
        f.write(b'{"cell":"logistic')
    assert Run.open(copy).seal.entries == entries and Run.open(copy).verify().whole
    carry_out(whole[0], copy)
    assert Run.open(copy).verify().whole
    Seal.of(copy).append("next")
    assert [json.loads(line)["n"] for line in seal.read_text().splitlines()] == [*range(1, entries + 2)]


def test_several_writers_take_turns(tmp_path):
    one, two = Seal(tmp_path), Seal(tmp_path)
    for k in range(3):
        one.append("a", files={f"shadows/a{k}": "1"})
        two.append("b", files={f"shadows/b{k}": "2"})
    assert Seal(tmp_path).entries == 6 and one.read_on() is None
    assert one.files() == two.files() | {} and len(one.files()) == 6


def test_failed_cells_are_carried_out_again_when_asked(whole, tmp_path, monkeypatch):
    plan, _, rows = whole

    def fails(*_):
        raise RuntimeError(f"out of luck in {tmp_path / 'deep' / 'x.py'}")

    with monkeypatch.context() as patch:
        patch.setattr("suite.attacks.gradient.FGSM.__call__", fails)
        first = carry_out(plan, tmp_path / "r")
    assert first.failed() == [FGSM]
    error, = (r.error for r in first.rows() if r.error)
    assert "out of luck in x.py" in error and str(tmp_path) not in error
    started = []
    same = carry_out(plan, tmp_path / "r", started=lambda cell, *_: started.append(cell.key))
    assert not started and same.failed() == [FGSM]
    again = carry_out(plan, tmp_path / "r", started=lambda cell, *_: started.append(cell.key), retry_errors=True)
    assert started == [FGSM, WORST] and again.failed() == [] and again.verify().whole
    assert timeless(again.rows()) == timeless(rows)


class TestLinks:
    def test_a_lock_that_is_a_link_is_refused_and_its_target_left_alone(self, whole, copy):
        precious = copy.parent / "thesis.tex"
        precious.write_text("years of work")
        (copy / ".lock").unlink()
        (copy / ".lock").symlink_to(precious)
        with pytest.raises(InputError, match=r"\.lock: it is a symbolic link"):
            carry_out(whole[0], copy)
        assert precious.read_text() == "years of work"

    @pytest.mark.parametrize("name", ["cells", "models", "shadows", "logs", "checkpoints", "measurements.jsonl",
                                      "seal.jsonl", "manifest.json", "report.html"])
    def test_nothing_in_a_run_folder_leads_out_of_it(self, whole, copy, name):
        target = copy.parent / "outside"
        if (copy / name).exists():
            (copy / name).rename(target)
        else:
            target.mkdir()
        (copy / name).symlink_to(target)
        for use in (lambda: carry_out(whole[0], copy), lambda: Run.open(copy)):
            with pytest.raises(InputError, match=rf"{name} is a symbolic link"):
                use()

    def test_a_link_to_a_run_folder_is_that_run(self, whole, copy):
        (copy.parent / "link").symlink_to(copy)
        assert carry_out(whole[0], copy.parent / "link").verify().whole


def test_only_leftovers_of_our_own_are_removed(whole, copy):
    (copy / ".notes.txt").write_text("mine")
    (copy / "cells" / ".keep.me").write_text("mine")
    (copy / "cells" / ".x.json.a1b2.medsec-part").write_text("half")
    (copy / "models" / ".m.a1b2.medsec-part").mkdir()
    (copy / "shadows" / ".s.a1b2.medsec-part").write_text("half")
    run = carry_out(whole[0], copy)
    assert (copy / ".notes.txt").read_text() == "mine"
    assert not list(copy.rglob("*.medsec-part"))
    assert ".notes.txt" in run.verify().extra


def test_files_are_for_their_owner_only(whole):
    _, folder, _ = whole
    assert {f.stat().st_mode & 0o777 for f in folder.rglob("*") if f.is_file()} == {0o600}
    assert {f.stat().st_mode & 0o777 for f in (folder, *folder.rglob("*")) if f.is_dir()} == {0o700}


def test_a_run_goes_on_from_another_folder_and_stores_no_path(whole, copy, monkeypatch):
    plan, *_ = whole
    text = "".join(f.read_text(errors="replace") for f in copy.rglob("*") if f.suffix in (".json", ".jsonl", ".html"))
    assert str(plan.parent) not in text and "ward7" not in text and "patients.csv" in text
    monkeypatch.chdir(plan.parent / "ward7")
    relative = plan.read_text().replace(str(plan.parent / "ward7" / "patients.csv"), "./patients.csv")
    (copy.parent / "plan.toml").write_text(relative)
    started = []
    carry_out(copy.parent / "plan.toml", copy, started=lambda cell, *_: started.append(cell.key))
    assert not started
    other = relative.replace("./patients.csv", "other.csv")
    shutil.copy("patients.csv", copy.parent / "other.csv")
    monkeypatch.chdir(copy.parent)
    (copy.parent / "plan.toml").write_text(other)
    with pytest.raises(InputError, match=r"another plan: data"):
        make_audit(Path("plan.toml")).run(copy)


def test_a_recipe_from_a_file_is_known_again_from_another_folder(whole, tmp_path, monkeypatch):
    plan, *_ = whole
    (tmp_path / "mine.py").write_text("from tabular.models import LogisticRegression\n\nMine = LogisticRegression()\n")
    text = plan.read_text().replace("logistic-regression", "{}")
    (tmp_path / "a.toml").write_text(text.replace("{}", f"{tmp_path / 'mine.py'}:Mine"))
    first = carry_out(tmp_path / "a.toml", tmp_path / "r")
    (tmp_path / "r" / "cells" / "mine.py-Mine--none--fgsm.json").unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.toml").write_text(text.replace("{}", "./mine.py:Mine"))
    started = []
    again = carry_out(tmp_path / "b.toml", tmp_path / "r", started=lambda cell, *_: started.append(cell.key))
    assert started == ["mine.py-Mine--none--fgsm"] and not again.failed() and again.verify().whole
    assert {r.model for r in first.rows()} == {"mine.py:Mine"}
    kept = b"".join(f.read_bytes() for f in (tmp_path / "r").rglob("*.json*"))
    assert str(tmp_path).encode() not in kept
