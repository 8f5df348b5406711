"""A run folder from somebody else: nothing outside of it is read, written or deleted, and no file of theirs is used."""

import json
import shutil

import numpy as np
import pytest
from xgboost import XGBClassifier

from suite.audit.export import export_shared
from suite.audit.gate import check
from suite.base.errors import InputError
from suite.models import artifacts
from suite.report.write import write_report
from suite.results.measurement import Measurement
from suite.results.run import Run
from suite.results.seal import Seal, is_inside, sha256
from tests.support.run import FIT, NOISE, WORST, carry_out, timeless, written
from tests.support.training import table

OUTSIDE = ["logs/../../../thesis.tex", "shadows/../../../thesis.tex", "../thesis.tex", "/thesis.tex",
           "models/../../thesis.tex", "cells/./x.json", "cells//x.json", "cells/a\\b.json", "cells/x\0.json",
           "thesis.tex", "elsewhere/thesis.tex", "cells", "cells/", "", "cells/..", "cells/\udce9.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(plan, the folder of its run, and the run's rows)."""
    folder = tmp_path_factory.mktemp("received")
    run = carry_out(plan := written(folder), folder / "run")
    return plan, run.folder, run.rows()


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the run, two folders deep, to be changed."""
    shutil.copytree(whole[1], tmp_path / "deep" / "r")
    return tmp_path / "deep" / "r"


def seal_anew(folder, files):
    """Write a list with a valid chain, as a hostile sender can."""
    kept = Run.open(folder).seal.files()
    (folder / "seal.jsonl").rename(folder.parent / "old")  # so that the new one is another file to the system

    class Blind(Seal):
        def learn(self, entry):
            self._hashes.append(entry["hash"])

    Blind(folder).append("finished", files=kept | files)


@pytest.mark.parametrize("name", [name for name in OUTSIDE if name.isprintable()])
def test_a_seal_cannot_name_files_that_are_elsewhere(whole, copy, name):
    precious = [folder / "thesis.tex" for folder in (copy, copy.parent, copy.parent.parent)]
    for file in precious:
        file.write_text("years of work")
    seal_anew(copy, {name: sha256(b"something else")})
    for use in (lambda: carry_out(whole[0], copy), lambda: write_report(Run.open(copy)),
                lambda: check(Run.open(copy), ["accuracy >= 0"])):
        with pytest.raises(InputError, match=r"seal.jsonl: line 1 names .* no file of a run.*use another folder"):
            use()
    assert {file.read_text() for file in precious} == {"years of work"}


def test_which_names_are_those_of_a_run():
    assert not any(map(is_inside, OUTSIDE))
    assert all(map(is_inside, ["manifest.json", "report.html", f"cells/{FIT}.json", f"models/{FIT}/model.json",
                               "shadows/0a.npy", f"checkpoints/{FIT}/0a.safetensors", "cells/a.py-B--none--fit.npz"]))


@pytest.mark.parametrize("where", ["models", "checkpoints"])
def test_a_link_among_the_folders_of_cells_is_removed_and_not_followed(whole, copy, where):
    outside = copy.parent / "outside"
    outside.mkdir()
    names = ["weights.safetensors", "model.json", ".x.medsec-part"]
    for name in names:
        (outside / name).write_text("mine")
    shutil.rmtree(copy / where / FIT, ignore_errors=True)
    (copy / where).mkdir(exist_ok=True)
    (copy / where / FIT).symlink_to(outside)
    again = carry_out(whole[0], copy)
    assert [(outside / name).read_text() for name in names] == ["mine"] * 3
    assert not (copy / where / FIT).is_symlink()
    assert again.verify().whole and timeless(again.rows()) == timeless(whole[2])


def test_a_link_that_is_sealed_as_one_is_not_read(copy):
    file = copy / "cells" / f"{FIT}.json"
    file.rename(copy.parent / "theirs.json")
    file.symlink_to(copy.parent / "theirs.json")
    seal_anew(copy, {f"cells/{FIT}.json": "link"})
    run = Run.open(copy)
    assert run.verify().changed == (f"cells/{FIT}.json",) and FIT in run.missing()


@pytest.mark.parametrize("models", [False, True])
def test_a_row_cannot_name_the_file_into_which_it_is_copied(copy, models):
    file = copy / "cells" / f"{FIT}.json"
    file.write_text(json.dumps([row | {"cell": "../../../pwned"} for row in json.loads(file.read_text())]))
    seal_anew(copy, {f"cells/{FIT}.json": sha256(file.read_bytes())})
    before = {*copy.parent.parent.rglob("*")}
    with pytest.raises(InputError, match=rf"{FIT}.json: holds a row of the cell '../../../pwned'; it was tampered"):
        export_shared(Run.open(copy), copy.parent / "copies" / "one", models)
    assert {*copy.parent.parent.rglob("*")} == before


def test_no_cell_is_written_outside_of_its_folder(tmp_path):
    run = Run.create(tmp_path / "r", {"plan": {}, "data": {}, "cells": []})
    row = Measurement(cell="..", dataset="d", data_sha256="s", synthetic=False, model="m", metric="x", value=0.0,
                      device="cpu", seed=0)
    for key in ("..", ".", "../../pwned", "", "a/b"):
        with pytest.raises(InputError, match="is no key of a cell"):
            run.finish(key, [row])
    assert Run.open(tmp_path / "r").seal.entries == 1


@pytest.mark.parametrize("name", ["estimator.skops", "estimator.json", "weights.safetensors.old", "deep/model.json"])
def test_a_file_beside_a_sealed_model_is_forged(whole, copy, name):
    extra = copy / "models" / FIT / name
    extra.parent.mkdir(exist_ok=True)
    extra.write_text("theirs")
    for use in (lambda run: check(run, ["accuracy >= 0"]), write_report):
        with pytest.raises(InputError, match=rf"models/{FIT}/{name} is not as the run wrote it"):
            use(Run.open(copy))
    again = carry_out(whole[0], copy)
    assert not extra.exists() and again.verify().whole and timeless(again.rows()) == timeless(whole[2])


def test_a_model_without_its_cell_is_one_of_a_killed_process(whole, copy):
    """The report of what is finished can be written, and the model is trained again."""
    for name in (f"cells/{FIT}.json", f"cells/{FIT}.npz"):
        (copy / name).unlink()
    run = Run.open(copy)
    run.seal.append("killed", files=dict.fromkeys([n for n in run.seal.files() if FIT in n], ""))
    assert write_report(run).is_file()
    (copy / "models" / FIT / "weights.safetensors").write_bytes(b"theirs")
    again = carry_out(whole[0], copy)
    assert again.verify().whole and timeless(again.rows()) == timeless(whole[2])


@pytest.mark.parametrize("extra", ["estimator.skops", "weights.safetensors"])
def test_only_the_file_that_the_model_names_is_opened(tmp_path, extra):
    from tabular.models import XGBoost

    train = table()
    model = artifacts.EstimatorClassifier(XGBClassifier(n_estimators=2).fit(train.x, train.y), 2, train.space,
                                          recipe=XGBoost())
    artifacts.save(model, tmp_path, "xgboost")
    (tmp_path / extra).write_bytes(b"theirs")
    loaded = artifacts.load(tmp_path, "xgboost", 2, train.space)
    assert np.array_equal(loaded.predict_proba(train.x), model.predict_proba(train.x))
    about = json.loads((tmp_path / "model.json").read_text())
    for other in ("../evil.skops", None, ["weights.safetensors"]):
        (tmp_path / "model.json").write_text(json.dumps(about | {"file": other}))
        with pytest.raises(InputError, match=r"model.json: cannot be read: it describes no model"):
            artifacts.load(tmp_path, "xgboost", 2, train.space)


def test_a_name_that_is_no_text_is_removed_and_sealed(whole, copy):
    """Python holds its bytes as surrogates, which JSON cannot."""
    name = b"p\xe9.json"
    file = copy / "cells" / name.decode(errors="surrogateescape")
    file.write_text("[]")
    with pytest.raises(InputError, match=r"cells/p\\udce9.json is not as the run wrote it"):
        write_report(Run.open(copy))
    again = carry_out(whole[0], copy)
    assert not file.exists() and again.verify().whole
    last = [json.loads(line) for line in (copy / "seal.jsonl").read_text().splitlines()]
    assert any("cells/p\\udce9.json" in entry.get("found", {}) for entry in last)


def test_files_are_sealed_as_gone_before_they_are_removed(copy, monkeypatch):
    """A process that is killed in between leaves a file that no run has written, not one that is missing."""
    def dies(*_):
        raise KeyboardInterrupt

    run = Run.open(copy)
    monkeypatch.setattr("suite.results.run.remove", dies)
    with pytest.raises(KeyboardInterrupt):
        run.discard(NOISE, "again")
    assert (copy / "cells" / f"{NOISE}.json").exists() and not run.done(NOISE)
    assert f"cells/{NOISE}.json" in run.verify().extra


def test_a_gate_refuses_a_folder_that_was_sealed_anew(copy):
    head = Run.open(copy).seal.head
    assert check(Run.open(copy), ["accuracy >= 0"], head=head)[0].met
    file = copy / "cells" / f"{WORST}.json"
    file.write_text(file.read_text().replace('"value": 0.', '"value": 0.99'))
    seal_anew(copy, {f"cells/{WORST}.json": sha256(file.read_bytes())})
    assert check(Run.open(copy), ["robust_accuracy >= 0.9"], lenient=True)[0].met, "the list alone shows nothing"
    with pytest.raises(InputError, match="no line has the head's hash"):
        check(Run.open(copy), ["robust_accuracy >= 0.9"], head=head)


def test_the_gate_takes_the_head_on_the_command_line(copy, monkeypatch, capsys):
    import sys

    from suite.cli import app as cli

    for head, code in ((Run.open(copy).seal.head, 0), ("0" * 63 + "1", 2)):
        monkeypatch.setattr(sys, "argv", ["medsec", "gate", str(copy), "--require", "accuracy >= 0", "--head", head])
        with pytest.raises(SystemExit) as e:
            cli.main()
        assert e.value.code == code
    assert "no line has the head's hash 000000" in capsys.readouterr().err
