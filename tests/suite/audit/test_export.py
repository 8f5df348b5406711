"""Shared copies: what must not leave the house is not in them, and report and gate still work."""

import json
import shutil

import pytest

from suite.audit.export import export_shared
from suite.audit.gate import check
from suite.base.errors import InputError
from suite.report.write import write_report
from suite.results.run import Run
from tests.support.run import FIT, WORST, carry_out, timeless, written


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    return carry_out(written(folder), folder / "run")


def everything(folder):
    return b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file())


def test_a_copy_holds_rows_and_nothing_for_each_patient(run, tmp_path):
    copy = export_shared(run, tmp_path / "copy")
    files = {f.relative_to(copy.folder).as_posix() for f in copy.folder.rglob("*") if f.is_file()}
    assert files == {"manifest.json", "seal.jsonl", "measurements.jsonl", "report.html",
                     *(f"cells/{key}.json" for key in run.manifest["cells"])}
    assert str(run.folder.parent).encode() not in everything(copy.folder)
    assert timeless(copy.rows()) == [r for r in timeless(run.rows()) if not r["subgroup"] or r["people"] >= 10]
    assert all(r.people >= 10 for r in run.rows() if r.subgroup), "else a copy would leave them out"
    said = copy.manifest["shared"]
    assert said["head"] == run.seal.head and "models" in said["left_out"]
    assert {f.stat().st_mode & 0o077 for f in copy.folder.rglob("*")} == {0}


def test_report_gate_and_seal_of_a_copy_work(run, tmp_path):
    copy = export_shared(run, tmp_path / "copy")
    assert copy.verify().whole
    for mine, theirs in zip(check(copy, ["accuracy >= 0.1", "robust_accuracy >= 0.99"]),
                            check(run, ["accuracy >= 0.1", "robust_accuracy >= 0.99"]), strict=True):
        assert mine == theirs
    page = write_report(copy).read_text()
    assert "Shared copy" in page and run.seal.head in page and "Treat this report" not in page
    assert "row in the source" not in page
    file = copy.folder / "cells" / f"{WORST}.json"
    file.write_text(file.read_text().replace('"value": 0.', '"value": 0.9'))
    with pytest.raises(InputError, match="is not as the run wrote it"):
        check(copy, ["robust_accuracy >= 0"])


def test_models_come_along_when_asked_and_are_sealed(run, tmp_path):
    copy = export_shared(run, tmp_path / "copy", models=True)
    name = f"models/{FIT}/weights.safetensors"
    assert (copy.folder / name).read_bytes() == (run.folder / name).read_bytes()
    assert copy.seal.state(name) == "whole" and copy.verify().whole
    assert "models" not in copy.manifest["shared"]["left_out"]


def test_smaller_subgroups_than_asked_for_are_left_out(run, tmp_path):
    assert {r.subgroup for r in run.rows() if r.subgroup.startswith("sex=")} == {"sex=F", "sex=M"}  # few are X
    copy = export_shared(run, tmp_path / "copy", smallest_group=1000)
    assert not [r for r in copy.rows() if r.subgroup] and copy.manifest["shared"]["smallest_group"] == 1000


def test_a_copy_is_not_continued_nor_copied_nor_put_upon_something(run, tmp_path):
    copy = export_shared(run, tmp_path / "copy")
    with pytest.raises(InputError, match="is a shared copy, which can be read but not continued"):
        carry_out(run.folder.parent / "plan.toml", copy.folder)
    with pytest.raises(InputError, match="is a shared copy already"):
        export_shared(copy, tmp_path / "again")
    with pytest.raises(InputError, match="lies in the run's own folder"):
        export_shared(run, run.folder / "copy")
    with pytest.raises(InputError, match="exists and is not a run folder"):
        export_shared(run, run.folder.parent)


def test_a_run_that_was_changed_is_not_copied(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "r")
    file = tmp_path / "r" / "cells" / f"{FIT}.json"
    rows = json.loads(file.read_text())
    rows[0]["value"] = 0.99
    file.write_text(json.dumps(rows))
    with pytest.raises(InputError, match="is not as the run wrote it"):
        export_shared(Run.open(tmp_path / "r"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_report_of_a_run_says_what_to_do_before_it_is_shared(run):
    page = write_report(run).read_text()
    footer = page[page.index('id="share"'):]
    assert "Before you share" in footer and "medsec export RUN --share DEST" in footer
    assert "Subgroups of fewer than 10 people are not shown" in footer
    assert "1 group of sex" in page[page.index("Of fewer than 10 people, and withheld:"):][:120]


def test_a_gate_about_every_group_says_that_some_were_not_judged(run):
    verdict, other = check(run, ["accuracy in every sex >= 0", "accuracy >= 0"])
    assert verdict.text.endswith("; groups of fewer than 10 people were not judged") and "judged" not in other.text
