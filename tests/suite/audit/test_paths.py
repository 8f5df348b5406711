"""Names of folders stay on the machine, whatever an error says."""

from pathlib import Path

import pytest

from suite.audit.paths import folders_of, short_names, without_any_folder, without_folders
from suite.audit.plan import Plan


@pytest.mark.parametrize(("text", "left"), [
    ("/home/anna/x.csv: no such file", "x.csv: no such file"),
    ("cannot open ~/ward7/x.csv", "cannot open x.csv"),
    ("../ward7/x.csv, ./a/y.csv", "x.csv, y.csv"),
    ("file:///home/anna/x.csv is locked", "x.csv is locked"),
    ("see file:/home/anna/x.csv", "see x.csv"),
    ("file://server/share/x.csv", "x.csv"),
    ("[Errno 2] No such file: '/home/anna maria/ward 7/x.csv'", "[Errno 2] No such file: 'x.csv'"),
    ('"/srv/ward 7/a b.csv"', '"a b.csv"'),
    ("loss 3/4 and https://example.org/a/b stay", "loss 3/4 and https://example.org/a/b stay"),
])
def test_no_folder_of_a_path_is_left(text, left):
    assert without_any_folder(text) == left


def test_known_folders_may_have_spaces_in_their_names(monkeypatch, tmp_path):
    home = tmp_path / "anna maria"
    (home / "ward 7").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    assert without_any_folder(f"{home}/ward 7/x.csv and {home}/y.csv: no such file") == "x.csv and y.csv: no such file"
    assert without_any_folder(f"file://{home}/ward 7/x.csv") == "x.csv"
    monkeypatch.chdir(home / "ward 7")
    assert without_any_folder(f"in {Path.cwd()} and {Path.cwd()}/deep er/z.csv") == "in  and z.csv"
    away = Path("/srv/data of ward 7")
    assert without_any_folder(f"{away}/x.csv", [away]) == "x.csv"
    assert without_any_folder(f"{away}2/x.csv", [away]) != f"{away}2/x.csv"


def test_the_folders_of_a_plans_files_are_known(tmp_path):
    folder = tmp_path / "ward 7"
    folder.mkdir()
    (folder / "patients.csv").touch()
    plan = Plan.check({"data": str(folder / "patients.csv"), "models": ["mlp"]}, "test")
    assert folder in folders_of(plan)
    said = f"{folder}/other.csv beside {folder}/patients.csv"
    assert without_any_folder(without_folders(said, short_names(plan)), folders_of(plan)) == (
        "other.csv beside patients.csv")
