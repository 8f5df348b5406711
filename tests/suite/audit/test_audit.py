"""Audits: which cells there are, in which order, and that errors are rows and never a PASS."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from suite.audit import gate
from suite.audit import runner as audit_module
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base.errors import InputError
from suite.report.write import write_report
from suite.results import metrics
from tabular.data import breast_cancer

FAST_MLP = {"name": "mlp", "epochs": 5, "hidden": [8]}


@pytest.fixture(scope="module")
def data():
    return breast_cancer()


@pytest.fixture(scope="module")
def declared(data):
    """The same data as from a source with a split of its own."""
    return replace(data, declared=("train", "val", "test"))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(metrics.bootstrap, "__defaults__", (0, None, 20))


def plan(**fields):
    return Plan.check({"data": "breast-cancer", "models": ["logistic-regression"], "rows": 20, "eps": 0.1,
                       "budgets": [0.05, 0.1]} | fields, "test")


def keys(audit):
    return [cell.key for cell in audit.cells]


class TestCells:
    def test_learns_from_as_many_rows_as_the_plan_wants(self, data):
        few, other, all_of_them = (Audit(plan(train_rows=n, seed=s), data, "").data.train
                                   for n, s in ((50, 0), (50, 1), (10**6, 0)))
        assert len(few) == 50 and set(few.rows) < set(data.train.rows) and set(few.rows) != set(other.rows)
        assert all_of_them is data.train
        with pytest.raises(InputError, match=r"train_rows 2: no row of class '.*' is among them; take more"):
            for seed in range(20):
                Audit(plan(train_rows=2, seed=seed), data, "")

    def test_models_and_defenses_go_by_the_names_that_the_plan_gives_them(self, data):
        audit = Audit(plan(models=[{"name": "small", "use": "mlp", "hidden": [4]}],
                           defenses=[{"name": "soft", "use": "label-smoothing", "share": 0.3}]), data, "")
        assert keys(audit)[:2] == ["small--none--fit", "small--soft--fit"]
        assert audit.models["small"].hidden == (4,) and audit.defenses["soft"].share == 0.3

    def test_says_what_cannot_be_done_with_a_model_that_came_fitted(self, data, declared, tmp_path):
        own = tmp_path / "own.py"
        own.write_text("class Always:\n    def predict(self, x):\n        return [0] * len(x)\n\n\nalways = Always()\n")
        audit = Audit(plan(models=[f"{own}:always"], attacks=["lira", "membership-loss", "membership-noise"]),
                      declared, "")
        assert [c.attack.name for c in audit.cells if c.attack] == ["membership-noise"]
        patients, trained, labels = audit.limits
        assert trained.endswith("already trained, and nobody can train it again: attacks that would are out")
        assert "the training split are taken for those it was trained on" in patients
        assert "tells no probabilities" in labels and "membership-label-only" in labels
        assert Audit(plan(attacks=["lira"]), data, "").limits == []
        assert audit.training_known == {f"{own}:always": True}

    def test_of_whom_a_fitted_model_was_trained_on_nothing_is_told_where_nobody_knows(self, data, declared, tmp_path):
        import skops.io

        name = str(tmp_path / "lr.skops")
        skops.io.dump(LogisticRegression(max_iter=5000).fit(data.train.x, data.train.y), name)
        both = plan(models=[name, "logistic-regression"], attacks=["noise", "membership-loss"])
        audit = Audit(both, data, "")
        assert audit.training_known == {name: False, "logistic-regression": True}
        assert [c.model.name for c in audit.cells if c.attack and c.attack.name == "membership-loss"] == [
            "logistic-regression"]
        run = audit.run(tmp_path / "r")
        assert run.manifest["training_known"] == {"lr.skops": False, "logistic-regression": True}
        assert [r.model for r in rows_of(run, metric="train_accuracy")] == ["logistic-regression"]
        limit, = (said for said in run.manifest["limits"] if "not known which patients" in said)
        assert "Membership and generalization are not tested" in limit and "--split COLUMN" in limit
        page = write_report(run).read_text()
        assert "it is not known which patients it was trained on" in page and f"{name}: right on" not in page
        assert Audit(both, declared, "").training_known == {name: True, "logistic-regression": True}
        with pytest.raises(InputError, match=r"none of the attacks .*--split COLUMN, or --train FILE"):
            Audit(plan(models=[name], attacks=["membership-loss"]), data, "")

    def test_each_stands_after_those_it_needs(self, data):
        audit = Audit(plan(models=["logistic-regression", "random-forest"],
                           attacks=["noise", "pgd", "label-flip-random", "membership-loss"],
                           defenses=["plausibility-guard", "confident-learning"]), data, "")
        assert keys(audit) == [
            "logistic-regression--none--fit", "logistic-regression--none--noise", "logistic-regression--none--pgd",
            "logistic-regression--none--label-flip-random", "logistic-regression--none--membership-loss",
            "logistic-regression--none--worst-case",
            # in front of a model: no poisoning
            "logistic-regression--plausibility-guard--fit", "logistic-regression--plausibility-guard--noise",
            "logistic-regression--plausibility-guard--pgd", "logistic-regression--plausibility-guard--membership-loss",
            "logistic-regression--plausibility-guard--worst-case",
            # made against poisoning: nothing else
            "logistic-regression--confident-learning--fit",
            "logistic-regression--confident-learning--label-flip-random",
            # trees: no gradients
            "random-forest--none--fit", "random-forest--none--noise", "random-forest--none--label-flip-random",
            "random-forest--none--membership-loss", "random-forest--none--worst-case",
            "random-forest--plausibility-guard--fit", "random-forest--plausibility-guard--noise",
            "random-forest--plausibility-guard--membership-loss", "random-forest--plausibility-guard--worst-case",
            "random-forest--confident-learning--fit", "random-forest--confident-learning--label-flip-random",
            # at the end, what needs all others
            "logistic-regression--compare", "random-forest--compare"]

    def test_a_defense_of_networks_is_not_tried_on_trees(self, data):
        audit = Audit(plan(models=["random-forest", "mlp"], defenses=["trades"]), data, "")
        assert keys(audit) == ["random-forest--none--fit", "mlp--none--fit", "mlp--trades--fit", "mlp--compare"]

    def test_what_is_for_images_meets_no_table_and_is_told(self, data):
        audit = Audit(plan(models=["mlp"], attacks=["pgd", "square", "bias-field"], defenses=["jpeg", "dp-sgd"],
                           detectors=["mahalanobis", "feature-squeezing"]), data, "")
        assert not any(word in key for key in keys(audit) for word in ("square", "bias", "jpeg", "squeezing"))
        assert "mlp--dp-sgd--pgd" in keys(audit) and "mlp--none--detect-mahalanobis" in keys(audit)
        assert audit.idle == ["square", "bias-field", "jpeg", "feature-squeezing"]

    def test_noise_in_front_and_a_surrogate_are_for_networks(self, data):
        audit = Audit(plan(models=["random-forest"], attacks=["noise", "transfer"], defenses=["gaussian-noise",
                           "dp-sgd"]), data, "")
        assert keys(audit) == ["random-forest--none--fit", "random-forest--none--noise",
                               "random-forest--none--worst-case"]
        assert audit.idle == ["transfer", "gaussian-noise", "dp-sgd"]
        named = Audit(plan(models=["random-forest"], attacks=[{"name": "transfer", "surrogate": "mlp"}]), data, "")
        assert "random-forest--none--transfer" in keys(named)

    def test_a_fitted_network_lends_no_recipe_to_a_surrogate_and_takes_no_training(self, data, tmp_path):
        own = tmp_path / "own.py"
        own.write_text("import torch\nNET = torch.nn.Linear(30, 2)")
        audit = Audit(plan(models=[f"{own}:NET"], attacks=["pgd", "transfer"], defenses=["dp-sgd", "gaussian-noise"]),
                      data, "")
        assert audit.idle == ["transfer", "dp-sgd"]
        assert any("gaussian-noise--pgd" in key for key in keys(audit))

    def test_the_plan_may_say_for_what_an_attack_is(self, data):
        audit = Audit(plan(models=["logistic-regression", "random-forest"], defenses=["plausibility-guard"], attacks=[
            {"name": "noise", "models": ["random-forest"], "defenses": ["none"]}]), data, "")
        assert [k for k in keys(audit) if "noise" in k] == ["random-forest--none--noise"]

    def test_the_same_attack_twice_is_two_cells(self, data):
        audit = Audit(plan(attacks=[{"name": "noise", "draws": 1}, {"name": "noise", "draws": 2}]), data, "")
        assert keys(audit)[1:3] == ["logistic-regression--none--noise", "logistic-regression--none--noise-2"]

    def test_without_an_attack_in_linf_there_is_no_worst_case_there(self, data):
        audit = Audit(plan(models=["mlp"], attacks=["deepfool"], detectors=["mahalanobis"]), data, "")
        assert keys(audit) == ["mlp--none--fit", "mlp--none--deepfool", "mlp--none--detect-mahalanobis"]

    def test_titles_are_for_people(self, data):
        audit = Audit(plan(attacks=["noise"], defenses=["plausibility-guard"]), data, "")
        assert [c.title for c in audit.cells][1:5] == [
            "noise on logistic-regression", "worst case on logistic-regression",
            "train logistic-regression behind plausibility-guard",
            "noise on logistic-regression behind plausibility-guard"]


class TestRefusals:
    @pytest.mark.parametrize(("fields", "message"), [
        ({"attacks": ["pdg"]}, "unknown attack 'pdg'; did you mean 'pgd'"),
        ({"models": ["xgbost"]}, "unknown model 'xgbost'; did you mean 'xgboost'"),
        ({"defenses": ["trade"]}, "unknown defense 'trade'; did you mean 'trades'"),
        ({"attacks": [{"name": "pgd", "restart": 1}]}, "'pgd' has no parameter 'restart'; did you mean 'restarts'"),
        ({"attacks": [{"name": "pgd", "eps": 0.3}]}, "'pgd': eps: every attack is measured at the budgets of the plan"),
        ({"models": ["random-forest"], "attacks": ["pgd"]}, "pgd needs gradients"),
        ({"attacks": ["square"]}, "square is for images"),
        ({"models": ["none.pkl"]}, "model none.pkl: no such file"),
    ])
    def test_before_any_compute(self, data, fields, message):
        with pytest.raises(InputError, match=message):
            Audit(plan(**fields), data, "")

    @pytest.mark.parametrize(("kind", "text", "message"), [
        ("attacks", "X = 5", "is not a dataclass"),
        ("attacks", "from tabular.models import MLP as X", "is not an attack"),
        ("defenses", "from tabular.models import MLP as X", "is not a defense"),
        ("models", "from suite.attacks.gradient import PGD as X", "neither a recipe nor something with predict_proba"),
        ("attacks", "from dataclasses import dataclass, replace\nfrom suite.attacks.noise import RandomNoise\n"
                    "@dataclass(frozen=True)\nclass X(RandomNoise):\n"
                    "    info = replace(RandomNoise.info, threats=('spying',))", "unknown threat 'spying'"),
    ])
    def test_what_is_no_attack_no_defense_no_model(self, data, tmp_path, kind, text, message):
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(InputError, match=message):
            Audit(plan(**{kind: [f"{tmp_path}/own.py:X"]}), data, "")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run with several kinds of attack on two models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.bootstrap, "__defaults__", (0, None, 20))
        audit = Audit(plan(models=["logistic-regression", FAST_MLP], attacks=[
            "noise", "fgsm", "pgd", {"name": "deepfool", "rows": 10}, "label-flip-random", "backdoor",
            "membership-loss"], defenses=["plausibility-guard"]), data, "why")
        heard = []
        run = audit.run(tmp_path_factory.mktemp("run") / "r", lambda *said: heard.append(said))
    return audit, run, heard


def rows_of(run, **wanted):
    return [r for r in run.rows() if all(getattr(r, k) == v for k, v in wanted.items())]


class TestRun:
    def test_every_cell_left_rows_and_none_failed(self, finished):
        audit, run, heard = finished
        assert [r.error for r in run.rows() if r.error] == []
        assert list(dict.fromkeys(r.cell for r in run.rows())) == keys(audit)
        assert [(c.key, i, n) for c, i, n in heard] == [(k, i, len(keys(audit))) for i, k in enumerate(keys(audit))]
        assert all(len(rows_of(run, cell=k, metric="cell_seconds")) == 1 for k in keys(audit))

    def test_rows_say_what_ran(self, finished):
        _, run, _ = finished
        row = rows_of(run, cell="mlp--plausibility-guard--pgd", metric="robust_accuracy", subgroup="")[0]
        assert (row.model, row.defense, row.attack, row.knowledge) == ("mlp", "plausibility-guard", "pgd", "white-box")
        assert row.attack_params["steps"] == 40 and row.attack_params["eps"] == 0.05
        assert row.defense_params["fpr"] > 0  # defaults are written, too
        assert "AML.T0015" in row.threat_ids and row.versions["torch"] and row.queries > 0 and row.seconds > 0

    def test_the_worst_case_is_at_most_the_least_of_the_attacks(self, finished):
        _, run, _ = finished
        for model in ("logistic-regression", "mlp"):
            for defense in ("none", "plausibility-guard"):
                for eps in (0.05, 0.1):
                    found = {r.attack: r.value for r in rows_of(run, model=model, defense=defense, subgroup="",
                                                                metric="robust_accuracy")
                             if r.attack_params["eps"] == eps and (r.n == 20 or r.attack == "worst-case")}
                    assert len(found) == 4
                    assert found["worst-case"] <= min(found.values()) + 1e-9

    def test_attacks_weaken_and_never_help(self, finished):
        _, run, _ = finished
        for attack in ("noise", "fgsm", "pgd", "deepfool", "worst-case"):
            small, large = (next(r.value for r in rows_of(run, model="mlp", defense="none", attack=attack, subgroup="",
                                                          metric="robust_accuracy") if r.attack_params["eps"] == eps)
                            for eps in (0.05, 0.1))
            assert large <= small
        noise, pgd = (rows_of(run, cell=f"logistic-regression--none--{a}", metric="robust_accuracy", subgroup="")[-1]
                      for a in ("noise", "pgd"))
        assert pgd.value < noise.value

    def test_the_same_seed_gives_the_same_rows(self, finished, data, tmp_path):
        audit, run, _ = finished
        again = Audit(audit.plan, data, "why").run(tmp_path / "again")

        def told(run):
            return [r.model_dump(exclude={"seconds"}) for r in run.rows() if r.metric != "cell_seconds"]

        assert json.dumps(told(again)) == json.dumps(told(run))

    def test_the_manifest_says_what_the_report_needs(self, finished):
        audit, run, _ = finished
        said = run.manifest
        assert said["cells"] == keys(audit) and said["why"] == "why" and said["classes"] == ["benign", "malignant"]
        assert said["splits"] == {"train": 343, "val": 113, "test": 113} and said["data"]["sha256"]

    def test_a_finished_run_is_not_run_again(self, finished):
        audit, run, _ = finished
        before = run.measurements_file.read_text()
        audit.run(run.folder, lambda *_: pytest.fail("a cell ran twice"))
        assert run.measurements_file.read_text() == before

    def test_a_gate_can_be_asked(self, finished):
        _, run, _ = finished
        assert gate.check(run, ["robust_accuracy >= 0"], lenient=True)[0].met
        assert not gate.check(run, ["accuracy >= 1"])[0].met


class TestErrors:
    def test_one_attack_that_fails_is_a_row_and_leaves_the_others(self, data, tmp_path, monkeypatch):
        real = audit_module.measure

        def broken(attack, *rest):
            if type(attack).__name__ == "PGD":
                real(attack, *rest)  # rows of a cell that fails later are no results
                raise ConnectionError("the attacker's\nserver is down")
            return real(attack, *rest)

        monkeypatch.setattr(audit_module, "measure", broken)
        run = Audit(plan(attacks=["pgd", "noise", "fgsm"]), data, "").run(tmp_path / "r")
        bad = rows_of(run, cell="logistic-regression--none--pgd")
        assert [r.metric for r in bad] == ["error", "cell_seconds"] and bad[0].value is None
        assert bad[0].error.startswith("ConnectionError: the attacker's") and "test_audit.py:" in bad[0].error
        assert rows_of(run, attack="fgsm", metric="robust_accuracy")
        assert rows_of(run, attack="worst-case", metric="robust_accuracy")
        with pytest.raises(InputError, match="failed: ConnectionError"):
            gate.check(run, ["robust_accuracy >= 0"])

    def test_when_all_attacks_fail_there_is_no_robust_accuracy(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr(audit_module, "measure", lambda *_: 1 / 0)
        run = Audit(plan(attacks=["pgd", "noise"]), data, "").run(tmp_path / "r")
        assert not rows_of(run, metric="robust_accuracy")
        assert len([r for r in run.rows() if r.error]) == 3

    def test_a_model_that_cannot_be_trained_fails_all_its_cells_and_no_others(self, data, tmp_path):
        run = Audit(plan(models=[{"name": "mlp", "lr": 1000, "hidden": [64] * 12, "epochs": 2}, "logistic-regression"],
                         attacks=["noise"]), data, "").run(tmp_path / "r")
        failed = {r.cell: r.error for r in run.rows() if r.error}
        assert failed.keys() == {"mlp--none--fit", "mlp--none--noise", "mlp--none--worst-case"}
        assert "training diverged" in failed["mlp--none--fit"]
        assert "training failed, so there is no mlp" in failed["mlp--none--noise"]

    def test_a_full_disk_stops_the_run_which_then_goes_on(self, data, tmp_path, monkeypatch):
        audit = Audit(plan(attacks=["noise", "fgsm"]), data, "")
        whole = audit.run(tmp_path / "whole")
        calls, real = [], audit_module.Run.finish

        def full(_):
            calls.append(1)
            if len(calls) > 7:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="no space left on the disk; what was finished is kept"):
            audit.run(tmp_path / "r")
        monkeypatch.undo()
        assert audit_module.Run.finish is real
        again = audit.run(tmp_path / "r")
        assert [(r.cell, r.metric, r.n) for r in again.rows()] == [(r.cell, r.metric, r.n) for r in whole.rows()]
        assert not [r for r in again.rows() if r.error]


class TestUsersOwn:
    def test_a_fitted_model_is_attacked_and_guarded_and_never_trained(self, data, declared, tmp_path):
        import skops.io

        skops.io.dump(LogisticRegression(max_iter=5000).fit(data.train.x, data.train.y), tmp_path / "lr.skops")
        name = str(tmp_path / "lr.skops")
        audit = Audit(plan(models=[name], defenses=["plausibility-guard", "confident-learning"],
                           attacks=["noise", "pgd", "label-flip-random", "membership-loss"]), declared, "")
        assert keys(audit) == [
            "lr.skops--none--fit", "lr.skops--none--noise", "lr.skops--none--membership-loss",
            "lr.skops--none--worst-case", "lr.skops--plausibility-guard--fit", "lr.skops--plausibility-guard--noise",
            "lr.skops--plausibility-guard--membership-loss", "lr.skops--plausibility-guard--worst-case",
            "lr.skops--compare"]
        run = audit.run(tmp_path / "r")
        assert not [r.error for r in run.rows() if r.error] and not (tmp_path / "r" / "models").exists()
        assert rows_of(run, cell="lr.skops--none--fit", metric="accuracy", subgroup="")[0].value > 0.9
        assert run.manifest["files"].keys() == {"lr.skops"}

    def test_a_network_that_detaches_is_asked_only(self, data, tmp_path):
        (tmp_path / "cut.py").write_text(
            "import torch\nfrom torch import nn\n\n\nclass Cut(nn.Module):\n    def __init__(self):\n"
            "        super().__init__()\n        self.layer = nn.Linear(30, 2)\n\n    def forward(self, x):\n"
            "        with torch.no_grad():\n            return self.layer(x / 100)\n\n\nMODEL = Cut()\n")
        name = f"{tmp_path}/cut.py:MODEL"
        audit = Audit(plan(models=[name], attacks=["fgsm", "noise"], defenses=["gaussian-noise"]), data, "")
        assert any(key.endswith("--noise") for key in keys(audit))
        assert not any(key.endswith("--fgsm") for key in keys(audit))
        with pytest.raises(InputError, match=r"fgsm needs gradients \(those that only ask are .*hopskipjump, nes, "):
            Audit(plan(models=[name], attacks=["fgsm"]), data, "")

    def test_models_of_images_are_refused_on_a_table(self, data):
        with pytest.raises(InputError, match=r"model 'simple-cnn' is for images, and the inputs of .* are tables"):
            Audit(plan(models=["simple-cnn"]), data, "")

    def test_labels_of_images_are_files_of_the_user_too(self, data, tmp_path):
        labels = tmp_path / "labels.csv"
        labels.write_text("file,label\n")
        audit = Audit(plan(models=["mlp"], images={"labels": str(labels)}), data, "")
        assert audit.manifest()["files"].keys() == {"labels.csv"}

    def test_a_run_does_not_go_on_with_another_model_file(self, data, tmp_path):
        import skops.io

        name = tmp_path / "m.skops"
        for depth in (1, 3):
            skops.io.dump(DecisionTreeClassifier(max_depth=depth).fit(data.train.x, data.train.y), name)
            audit = Audit(plan(models=[str(name)], attacks=["noise"]), data, "")
            if depth == 1:
                audit.run(tmp_path / "r")
        with pytest.raises(InputError, match=r"holds a run of another plan: .*m.skops is"):
            audit.run(tmp_path / "r")

    def test_a_recipe_and_an_attack_from_a_file(self, data, tmp_path):
        (tmp_path / "own.py").write_text(
            "from dataclasses import dataclass\nfrom suite.attacks.gradient import PGD\n"
            "from tabular.models import MLP\n\n\n@dataclass(frozen=True)\nclass Net(MLP):\n    epochs: int = 3\n\n\n"
            "SHORT = PGD(steps=2)\n")
        run = Audit(plan(models=[f"{tmp_path}/own.py:Net"], attacks=[f"{tmp_path}/own.py:SHORT"]), data,
                    "").run(tmp_path / "r")
        assert not [r.error for r in run.rows() if r.error]
        row = rows_of(run, metric="robust_accuracy", cell="own.py-Net--none--own.py-SHORT")[0]
        assert row.attack_params["steps"] == 2 and np.isfinite(row.value)
