"""The privacy audit from the command line to the report: the preset's own plan, with everything that takes long cut."""

import pytest

from tests import _audit

SMALL = {"shadows": 4, "max_iter": 2, "draws": 2, "epochs": 3, "trees": 10, "init_size": 5, "canaries": 20,
         "learner": "dt"}
"""Of every hyper-parameter that says how long something takes, so much."""
MODELS = ["logistic-regression", "random-forest", "xgboost", "mlp", "decision-tree", "naive-bayes"]


def cut(kind, item):
    """An item of the plan, cut down."""
    return _audit.cut(kind, item, SMALL)


@pytest.fixture(scope="module")
def preset():
    return _audit.preset("privacy")


@pytest.fixture(scope="module")
def audited(preset, tmp_path_factory):
    """The run of `medsec audit` on synthetic patients."""
    folder = tmp_path_factory.mktemp("audit")
    plan = preset | {"data": ["pima-synthetic"], "rows": 20, "models": [cut("models", m) for m in MODELS]}
    plan |= {kind: [cut(kind, item) for item in preset[kind]] for kind in ("attacks", "defenses")}
    return _audit.audit(plan, folder)


def test_no_cell_of_the_preset_fails(audited, preset):
    assert set(MODELS) < set(preset["models"])
    rows = audited.rows()
    assert [(r.cell, r.error) for r in rows if r.metric == "error"] == []
    assert {r.attack for r in rows} >= {cut("attacks", item)["name"] for item in preset["attacks"]}
    assert {r.cell for r in rows} == set(audited.manifest["cells"])


def test_shadow_models_of_a_target_are_trained_once_for_all_attacks(audited):
    """Six targets without defense; DP-SGD, and six behind each of two ways of telling less."""
    assert len(list((audited.folder / "shadows").glob("*.npy"))) == 6 + 1 + 12


def test_a_defense_is_compared_under_the_same_attack(audited):
    gains = [r for r in audited.rows() if r.metric == "gain[membership_auroc]" and r.attack == "rmia"]
    assert {(r.model, r.defense) for r in gains} >= {(m, d) for m in MODELS
                                                     for d in ("rounded-answers", "label-answers")}
    assert all(r.attack_params["shadows"] == 4 for r in gains)


def test_the_report_shows_what_was_found(audited):
    page = (audited.folder / "report.html").read_text(encoding="utf-8")
    for said in ("Was this person among the training patients?", "ROC on logarithmic axes", "members against members",
                 "one-run-audit", "equation-solving", "SYNTHETIC",
                 "Can one patient be rebuilt", "another model says so"):
        assert said in page
