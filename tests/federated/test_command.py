"""`medsec federate`: what is typed becomes a plan, and a whole run at its smallest."""

import os
import re
import sys

import pytest

pytest.importorskip("flwr")

from federated.command import changed, check_federates, dealt, joined_by, preset_for
from suite.audit.plan import Plan
from suite.base.errors import InputError
from suite.cli import app as cli
from suite.cli import terminal
from suite.results import metrics


def medsec(monkeypatch, capsys, *args):
    """(exit code, stdout, stderr) of a command line."""
    monkeypatch.setattr(sys, "argv", ["medsec", *args])
    monkeypatch.setattr(terminal.console, "_file", None)
    with pytest.raises(SystemExit) as e:
        cli.main()
    said = capsys.readouterr()
    return e.value.code or 0, said.out, said.err


AS_THEY_ARE, TEN = {"name": "by-subgroup", "column": "site"}, {"name": "dirichlet", "sites": 10, "alpha": 1.0}


@pytest.mark.parametrize("own, said, plan", [
    (AS_THEY_ARE, (None, None, None, None, False), AS_THEY_ARE),
    (AS_THEY_ARE, (None, None, None, None, True), {"name": "dirichlet", "sites": 5, "alpha": 0.5}),
    (None, (None, None, None, None, False), None),
    (TEN, (None, None, None, None, True), TEN),
    (TEN, (None, None, 4, None, True), TEN | {"sites": 4}),
    (TEN, (None, None, None, 0.0, True), TEN | {"alpha": 0.0}),
    ("by-subgroup", (None, None, 8, 0.1, False), {"name": "dirichlet", "sites": 8, "alpha": 0.1}),
    (TEN, (None, "site", None, None, True), {"name": "by-subgroup", "column": "site"}),
    (TEN, ("iid", None, 3, None, False), {"name": "iid", "sites": 3}),
    (AS_THEY_ARE, ("feature-shift", None, None, None, False), {"name": "feature-shift", "sites": 5}),
    (AS_THEY_ARE, ("by-subgroup", None, None, None, False), AS_THEY_ARE),
], ids=["nothing said", "other data", "no way at all", "other images", "fewer", "zero is said", "dirichlet", "column",
        "iid", "scanners", "by subgroup"])
def test_how_rows_are_dealt(own, said, plan):
    assert dealt(own, *said) == plan


@pytest.mark.parametrize("said, why", [
    (("by-subgroup", None, 3, None, False), "by-subgroup takes hospitals as they are"),
    (("iid", "site", None, None, False), "--column is for --partition by-subgroup"),
    (("iid", None, 3, 0.5, False), "iid has none"),
], ids=["how many", "column", "alpha"])
def test_what_means_nothing_is_refused(said, why):
    with pytest.raises(InputError, match=why):
        dealt(None, *said)


PLAN = {"defenses": [{"name": "mean", "use": "federated", "rounds": 9},
                     {"name": "low", "use": "federated", "epsilon": 1.0},
                     {"name": "krum", "use": "federated", "rule": {"name": "krum", "bad": 0}}, "dp-sgd"],
        "attacks": [{"name": "hostile-alie", "hospitals": 2, "defenses": ["mean", "low"]},
                    {"name": "rmia", "defenses": ["none", "dp-sgd"]}, "hostile-broken"]}


def test_rules_take_over_how_the_plan_trains_and_what_is_held_against_it():
    made = joined_by(PLAN, ["krum", "trimmed-mean", "median"], None)
    assert made["defenses"] == [
        PLAN["defenses"][2],
        {"name": "trimmed-mean", "use": "federated", "rule": {"name": "trimmed-mean", "bad": 2}, "rounds": 9},
        {"name": "median", "use": "federated", "rule": "median", "rounds": 9}]
    assert made["attacks"] == [PLAN["attacks"][0] | {"defenses": ["krum", "trimmed-mean", "median"]},
                               *PLAN["attacks"][1:]]
    assert [d["rule"]["bad"] for d in joined_by(PLAN, ["trimmed-mean", "krum"], 1)["defenses"]] == [1, 1]


def test_a_rule_that_needs_more_than_a_name_is_for_plans():
    with pytest.raises(InputError, match="--rules nnm: needs bad, then, which only a plan can say"):
        joined_by(PLAN, ["nnm"], None)


@pytest.mark.parametrize("models, defenses, why", [
    (["mlp"], ["dp-sgd"], "the plan has no federation"),
    (["xgboost"], [{"name": "mean", "use": "federated"}], "no federation of the plan can train xgboost"),
    (["mlp"], [{"name": "bagging", "use": "federated-trees"}], "no federation of the plan can train mlp"),
], ids=["none", "trees", "network"])
def test_no_federation_is_no_plan(models, defenses, why):
    with pytest.raises(InputError, match=why):
        check_federates(Plan(data="pima", models=models, defenses=defenses))


def test_images_and_patients_are_read_as_an_audit_reads_them(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(terminal, "run_audit", lambda plan, *_: seen.append(plan) or (_ for _ in ()).throw(SystemExit))
    (tmp_path / "scans").mkdir()
    for command in ("audit", "federate"):
        monkeypatch.setattr(sys, "argv", ["medsec", command, "--data", str(tmp_path / "scans"), "--group", "case",
                                          "--positive", "sick", "--size", "32", "--modality", "xray"])
        with pytest.raises(SystemExit):
            cli.main()
    assert seen[0].images == seen[1].images and seen[0].images.patient == "case" and seen[0].table == seen[1].table


def test_a_models_file_is_opened_in_a_process_of_its_own_first(monkeypatch, capsys, tmp_path):
    file, seen = tmp_path / "own.py", tmp_path / "pids"
    file.write_text(f"import os\n\nwith open({str(seen)!r}, 'a') as out:\n    print(os.getpid(), file=out)\n\n\n"
                    "class Own:\n    def predict_proba(self, x):\n        os._exit(0)\n\n\nown = Own()\n")
    code, _, error = medsec(monkeypatch, capsys, "federate", "--data", "pima-synthetic", "--model", f"mlp,{file}:own",
                            "--quick", "--time-limit", "60", "--out", str(tmp_path / "run"))
    assert code == 2 and "ended its process (exit code 0)" in error, error
    assert str(os.getpid()) not in seen.read_text().split(), "its code was run in this process"


def test_images_have_a_preset_of_their_own():
    assert preset_for(None) == preset_for(["pima"]) == "federation"
    assert preset_for(["pneumoniamnist"]) == "federation-images"


def test_rounds_and_hostile_hospitals_reach_all_that_have_them():
    plan = Plan(data="pima", models=["mlp"], attacks=["hostile-alie", "hostile-backdoor", "rmia"],
                defenses=[{"name": "a", "use": "federated", "rounds": 9}, "label-smoothing", "federated-trees"])
    made = changed(plan, 4, 2)
    assert [a.params for a in made.attacks] == [{"hospitals": 2}, {"hospitals": 2}, {}]
    assert [d.params for d in made.defenses] == [{"rounds": 4}, {}, {"rounds": 4}]
    assert changed(plan, None, None) == plan


def test_a_federation_from_the_command_line_and_back(monkeypatch, capsys, tmp_path):
    for bootstrap in (metrics.bootstrap, metrics.weighted):
        monkeypatch.setattr(bootstrap, "__defaults__", (0, None, 20))
    out = tmp_path / "run"
    code, said, _ = medsec(monkeypatch, capsys, "federate", "--data", "pima-synthetic", "--hospitals", "6", "--quick",
                           "--rules", "mean,krum", "--attacks", "hostile-broken,hostile-sign-flip", "--hostile", "2",
                           "--model", "logistic-regression", "--rounds", "2", "--out", str(out), "--jobs", "1")
    assert code == 2  # krum with 2 of 6 bad needs one hospital more
    code, said, _ = medsec(monkeypatch, capsys, "federate", "--data", "pima-synthetic", "--hospitals", "7", "--quick",
                           "--rules", "mean,krum", "--attacks", "hostile-broken,hostile-sign-flip", "--hostile", "2",
                           "--model", "logistic-regression", "--rounds", "2", "--out", str(out), "--jobs", "1")
    assert code == 0
    flat = " ".join(said.split())
    assert "mean can be asked to withstand 0 hostile of 7 hospitals, and meets 2" in flat and "krum can" not in flat
    page = (out / "report.html").read_text()
    assert "balanced accuracy under hostile hospitals" in page and "hospital-7" in page

    head = re.search(r"logs' head\s+([0-9a-f]{64})", said)[1]
    code, said, _ = medsec(monkeypatch, capsys, "federate", "--verify", str(out), "--head", head)
    assert code == 0 and "none changed; 2 models as logged" in " ".join(said.split())
    code, _, error = medsec(monkeypatch, capsys, "federate", "--verify", str(out), "--head", "0" * 64)
    assert code == 2 and error.count("\n") == 1 and "head is" in error

    code, said, _ = medsec(monkeypatch, capsys, "export", str(out), "--share", str(tmp_path / "copy"))
    assert code == 0 and not (tmp_path / "copy" / "logs").exists()
    wanted = ["--require", "/mean: federated_accuracy in every hospital >= 0", "--require", "/krum: accuracy >= 0"]
    code, said, _ = medsec(monkeypatch, capsys, "gate", str(tmp_path / "copy"), *wanted)
    assert code == 0 and said.count("PASS") == 2
    page = (tmp_path / "copy" / "report.html").read_text()
    assert "Shared copy" in page and "balanced accuracy under hostile hospitals" in page

    log = next((out / "logs").glob("*mean--fit.jsonl"))
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))  # a tail cut off at an entry shows only against the head, and in the seal
    code, said, _ = medsec(monkeypatch, capsys, "federate", "--verify", str(out))
    flat = " ".join(said.split())
    assert code == 0 and "none changed before their ends" in flat and "end unproven without --head" in flat
    assert medsec(monkeypatch, capsys, "federate", "--verify", str(out), "--head", head)[0] == 2
    code, said, _ = medsec(monkeypatch, capsys, "verify", str(out))
    assert code == 1 and f"changed logs/{log.name}" in " ".join(said.split())


@pytest.mark.parametrize("args, why", [
    (["--head", "ab"], "--head means something with --verify only"),
    (["--rules", "krom", "--data", "pima-synthetic"], "did you mean 'krum'"),
    (["--hospitals", "0", "--data", "pima-synthetic"], "--hospitals must be at least 2, got 0"),
    (["--rounds", "0", "--data", "pima-synthetic"], "rounds"),
    (["--rounds", "0", "--data", "pima-synthetic", "--quick"], "rounds"),
    (["--hostile", "0", "--data", "pima-synthetic"], "--hostile must be at least 1"),
    (["--hostile", "3", "--data", "pima-synthetic", "--rules", "trimmed-mean"], "needs at least 7 sites"),
    (["--hostile", "5", "--data", "pima-synthetic"], "--hostile must be below the number of hospitals, 5, got 5"),
    (["--hospitals", "1", "--data", "pima-synthetic"], "--hospitals must be at least 2, got 1"),
    (["--alpha", "0", "--data", "pima-synthetic"], "alpha"),
    (["--data", "pima-synthetic", "--hospitals", "300"], "cannot give 300 hospitals 10 each"),
    (["--verify", "nowhere"], "nowhere"),
], ids=["head", "rule", "no hospital", "no round", "no round, quickly",
        "nobody hostile", "hostile", "all hostile", "alone", "alpha", "too many", "no run"])
def test_bad_input_is_one_line(monkeypatch, capsys, tmp_path, args, why):
    code, _, error = medsec(monkeypatch, capsys, "federate", *args, "--out", str(tmp_path / "r"))
    assert code == 2 and error.count("\n") == 1 and why in error, error
    assert not (tmp_path / "r").exists()
