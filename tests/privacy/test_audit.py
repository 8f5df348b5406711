"""The privacy audit from the command line to the report: the preset's own plan, with everything that takes long cut."""

import pytest

from tests.support import audit as _audit

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


@pytest.fixture(scope="module", params=[("privacy-defenses", "pima-synthetic"), ("imaging-privacy", "chest-phantom")],
                ids=lambda p: p[0])
def compared(request, tmp_path_factory):
    """The run of a preset that compares defenses, cut down, on synthetic patients."""
    name, data = request.param
    wanted = _audit.preset(name)
    small = SMALL | {"shadows": 2, "hidden": [8], "widths": [4], "copies": 1, "canaries": 10}

    def brief(kind, item):
        made = {"name": item} if isinstance(item, str) else item
        known = _audit.cut(kind, made | {"name": made.get("use", made["name"])}, small)
        return known | {k: made[k] for k in ("name", "use") if k in made}

    plan = wanted | {"data": [data], "rows": 20, "train_rows": 60, "budgets": [0.05], "eps": 0.05}
    plan |= {kind: [brief(kind, item) for item in wanted[kind]] for kind in ("models", "attacks", "defenses")}
    return wanted, _audit.audit(plan, tmp_path_factory.mktemp("compared"))


def test_no_cell_of_a_comparison_fails_and_each_defense_has_its_line(compared):
    wanted, run = compared
    rows = run.rows()
    assert [(r.cell, r.error) for r in rows if r.metric == "error"] == []
    names = {d if isinstance(d, str) else d["name"] for d in wanted["defenses"]}
    assert {r.defense for r in rows if r.metric == "membership_auroc" and r.attack == "rmia"} == {"none", *names}
    assert {r.defense for r in rows if r.metric == "gain[membership_auroc]"} == names
    assert run.manifest["splits"]["train"] == 60
    spent = {r.defense: r.value for r in rows if r.metric == "note[epsilon_claimed]"}
    assert spent["dp-sgd-1"] < 1.01 < spent["dp-sgd-3"] < 3.01 < spent["dp-sgd-8"] < 8.01
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "use = dp-sgd" in page and "Utility, robustness and leakage" in page
