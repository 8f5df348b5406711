"""Plans are checked in full before any compute, and a message names the key."""

import json
import re

import pytest

from suite.audit.plan import Item, Plan, read_toml
from suite.audit.request import default_preset, make_plan, opened
from suite.base import registry
from suite.base.errors import InputError
from tabular.schema import Schema

BASE = {"data": "breast-cancer", "models": ["mlp"]}


def refused(value, message):
    with pytest.raises(InputError, match=message) as caught:
        Plan.check(BASE | value, "plan p.toml")
    assert str(caught.value).startswith("plan p.toml: ")
    return str(caught.value)


@pytest.mark.parametrize(("value", "message"), [
    ({"eps": 0}, "eps: must be a finite number above 0 and at most 1"),
    ({"eps": -0.1}, "eps: must be a finite number"),
    ({"eps": 1.5}, "eps: must be a finite number"),
    ({"eps": float("nan")}, "eps: Input should be a finite number"),
    ({"eps": "much"}, "eps: Input should be a valid number"),
    ({"budgets": []}, "budgets: "),
    ({"budgets": [0.1, 0]}, "budgets: budgets must be greater than 0 and at most 1"),
    ({"budgets": [0.1, float("nan")]}, r"budgets.1: Input should be a finite number"),
    ({"budgets": [0.1, float("inf")]}, r"budgets.1: Input should be a finite number"),
    ({"seed": -1}, "seed: "),
    ({"rows": 1}, "rows: "),
    ({"train_rows": 1}, "train_rows: "),
    ({"attacks": [{"name": "strong", "use": "pgd"}]}, "'strong': only models and defenses can be given another name"),
    ({"defenses": [{"name": "rows, ε 8", "use": "dp-sgd"}]}, "name 'rows, ε 8': cannot be typed in a list of names"),
    ({"defenses": [{"name": "--all", "use": "dp-sgd"}]}, "name '--all': cannot be typed in a list of names"),
    ({"device": "tpu"}, "device: PyTorch knows no device 'tpu'; use auto, cpu, or a device such as"),
    ({"models": []}, "models: "),
    ({"data": []}, "data: "),
    ({"modles": ["mlp"]}, "modles: no such key; did you mean 'models'"),
    ({"table": {"targett": "x"}}, r"table.targett: no such key; did you mean 'target'"),
    ({"attacks": [{"steps": 3}]}, r"attacks.0.name: Field required"),
    ({"attacks": [{"name": "pgd", "rows": 1}]}, r"attacks.0.rows: "),
    ({"attacks": [7]}, "attacks.0: "),
    ({"attacks": "pgd"}, "attacks: "),
    ({"models": ["mlp", {"name": "mlp", "hidden": [8]}]}, "models: 'mlp' is there twice"),
    ({"defenses": ["trades", "trades"]}, "defenses: 'trades' is there twice"),
    ({"attacks": [{"name": "pgd", "models": ["xgboost"]}]}, "'pgd' is for model 'xgboost', which the plan does not"),
    ({"attacks": [{"name": "pgd", "defenses": ["tardes"]}]}, "'pgd' is for defense 'tardes', which the plan does not"),
])
def test_what_is_wrong_is_named(value, message):
    refused(value, message)


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match="x: models: Field required"):
        Plan.check({"data": "pima"}, "x")


def test_an_item_is_a_name_or_a_table_whose_other_keys_are_parameters():
    assert Item.model_validate("pgd") == Item(name="pgd")
    found = Item.model_validate({"name": "pgd", "steps": 3, "rows": 10, "models": ["mlp"]})
    assert found == Item(name="pgd", params={"steps": 3}, rows=10, models=("mlp",))


@pytest.mark.parametrize(("name", "slug"), [("pgd", "pgd"), ("a/b/net.py:Net", "net.py-Net"), ("m x.json", "m-x.json"),
                                            ("..", "x")])
def test_a_slug_is_fit_for_a_file_name(name, slug):
    assert Item(name=name).slug == slug


def test_the_main_budget_is_one_of_the_budgets_which_rise():
    assert Plan.check(BASE | {"eps": 0.07, "budgets": [0.2, 0.1, 0.1]}, "x").budgets == (0.07, 0.1, 0.2)


def test_less_than_one_changed_feature_is_no_budget():
    with pytest.raises(InputError, match=r"x: norms: l0 counts what is changed, .* start at 1, got 0\.5"):
        Plan.check(BASE | {"norms": {"l0": {"eps": 3, "budgets": [0.5, 3]}}}, "x")


@pytest.mark.parametrize(("section", "key"), [
    ({"norms": {"l2": {"eps": float("inf")}}}, "norms.l2.eps"), ({"norms": {"l2": {"eps": float("nan")}}}, "norms.l2"),
    ({"norms": {"l0": {"eps": 3, "budgets": [1, float("inf")]}}}, "norms.l0.budgets"),
    ({"images": {"window": [float("nan"), 100.0]}}, "images.window.0"),
    ({"images": {"window": [40.0, float("inf")]}}, "images.window.1"),
    ({"images": {"window": [40.0, 0.0]}}, "images.window"), ({"images": {"slices": 10**6}}, "images.slices"),
    ({"eps": float("nan")}, "eps"), ({"budgets": [float("inf")]}, "budgets"), ({"time_limit": float("nan")}, "time")])
def test_no_number_of_a_plan_is_infinite_or_none(section, key):
    with pytest.raises(InputError, match=f"^x: {re.escape(key)}"):
        Plan.check(BASE | section, "x")


def test_no_defense_is_always_there_and_need_not_be_named():
    assert [d.name for d in Plan.check(BASE | {"defenses": ["none", "trades"]}, "x").defenses] == ["trades"]


def test_a_plan_survives_its_own_dump():
    plan = Plan.check(BASE | {"attacks": ["pgd", {"name": "noise", "draws": 3, "rows": 5}], "eps": 0.1}, "x")
    assert Plan.check(json.loads(json.dumps(plan.dump())), "x") == plan


def test_quick_is_a_smaller_plan_of_the_same_kind():
    attacks = ["pgd", {"name": "zoo", "rows": 32}, {"name": "simba", "rows": 5}]
    plan = Plan.check(BASE | {"attacks": attacks}, "x").quick()
    assert plan.rows == 40 and plan.budgets == (plan.eps,)
    assert [a.rows for a in plan.attacks] == [None, 10, 5]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("preset", registry.names("presets"))
def test_every_preset_has_a_strong_membership_attack_by_shadow_models_in_its_first_stage(preset, quick):
    """Offline, too, wherever a model may come fitted: a federation is trained here, so that its recipe is known."""
    from suite.report.rules.strength import is_strong
    from tests.support.rows import row

    attacks = {a.name: a for a in make_plan(preset, {}, quick=quick).attacks}
    for name in ("rmia",) if "federation" in preset else ("rmia", "rmia-offline"):
        run = row("x", 0.5, attack=name).model_copy(update={"attack_params": attacks[name].params})
        assert attacks[name].rows is None and is_strong(run)
        assert attacks[name].defenses is None or "none" in attacks[name].defenses


@pytest.mark.parametrize("preset", [name for name in registry.names("presets") if "federation" not in name])
def test_both_attacks_by_shadow_models_of_a_preset_share_these(preset):
    made = [registry.make("attacks", a.name, a.params) for a in make_plan(preset, {}).attacks
            if a.name in ("rmia", "rmia-offline")]
    assert len({attack.shadows for attack in made}) == 1


def test_a_first_look_scores_as_many_patients_by_shadow_models_as_an_audit(tmp_path):
    from suite.audit.request import open_data
    from suite.audit.runner import Audit

    flags = {"data": ["pima-synthetic"], "models": ["logistic-regression"], "attacks": ["rmia", "membership-loss"]}
    plan = make_plan("tabular", flags, quick=True)
    few = tuple(a.model_copy(update={"params": {"shadows": 4}} if a.name == "rmia" else {}) for a in plan.attacks)
    run = Audit(plan.model_copy(update={"attacks": few}), *open_data(plan)).run(tmp_path / "r")
    n = {r.attack: r.n for r in run.rows() if r.metric == "membership_auroc" and not r.subgroup}
    assert n == {"rmia": 308, "membership-loss": 80}


def test_quick_leaves_out_defenses_that_were_not_asked_for(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('data = "x"\nmodels = ["mlp"]\ndefenses = ["trades"]\n'
                    'attacks = ["pgd", { name = "zoo", defenses = ["trades"] }]')
    plan = make_plan(str(file), {}, quick=True)
    assert not plan.defenses and [a.name for a in plan.attacks] == ["pgd"]
    assert [d.name for d in make_plan(str(file), {"defenses": ["trades"]}, quick=True).defenses] == ["trades"]


@pytest.mark.parametrize(("text", "message"), [
    (None, "p.toml: no such file"), ("data = [", "p.toml: .*end of document"), ("data = 'x'\ndata = = 1", "line 2")])
def test_a_file_that_is_no_toml_is_named(tmp_path, text, message):
    file = tmp_path / "p.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_toml(file)


def test_a_folder_is_no_plan(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        read_toml(tmp_path)


TOML = """
title = "T"
data = "breast-cancer"
models = [{ name = "mlp", hidden = [4] }, "xgboost", "random-forest"]
eps = 0.1
attacks = [
    "noise", { name = "pgd", steps = 7 },
    { name = "label-flip-random", rate = 0.1 }, { name = "label-flip-random", rate = 0.3 },
    { name = "hopskipjump", rows = 8, defenses = ["none", "distillation"] },
    { name = "surrogate-forest", models = ["xgboost", "random-forest"] },
    { name = "membership-loss", defenses = ["distillation"] },
]
defenses = [{ name = "distillation", models = ["mlp"] }, "plausibility-guard"]
"""


@pytest.fixture
def toml(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(TOML)
    return str(file)


def named(items):
    return [item.name for item in items]


def test_flags_override_the_plan(toml):
    plan = make_plan(toml, {"eps": 0.2, "seed": 5, "data": ["pima"], "device": None})
    assert (plan.eps, plan.seed, plan.data, plan.title, plan.device) == (
        0.2, 5, ("pima",), "Security audit: pima", "auto")
    assert make_plan(toml, {"seed": 5}).title == "T"


def test_named_models_keep_their_parameters_and_restrictions_shrink_with_them(toml):
    plan = make_plan(toml, {"models": ["mlp"]})
    assert plan.models[0].params == {"hidden": [4]}
    assert "surrogate-forest" not in named(plan.attacks) and "pgd" in named(plan.attacks)
    assert make_plan(toml, {"models": ["xgboost"]}).attacks[5].models == ("xgboost",)
    assert named(make_plan(toml, {"models": ["xgboost"]}).defenses) == ["plausibility-guard"]


def test_named_attacks_keep_their_parameters_all_of_them(toml):
    plan = make_plan(toml, {"attacks": ["pgd", "label-flip-random", "fgsm"]})
    assert [(a.name, a.params) for a in plan.attacks] == [
        ("pgd", {"steps": 7}), ("label-flip-random", {"rate": 0.1}), ("label-flip-random", {"rate": 0.3}), ("fgsm", {})]


def test_named_defenses_shrink_the_restrictions_of_attacks(toml):
    plan = make_plan(toml, {"defenses": []})
    assert plan.defenses == () and "membership-loss" not in named(plan.attacks)
    assert plan.attacks[4].defenses == ("none",)


def test_what_is_asked_for_by_name_is_not_dropped_silently(toml):
    plan = make_plan(toml, {"models": ["mlp"], "defenses": [], "attacks": ["surrogate-forest", "membership-loss"]})
    assert named(plan.attacks) == ["surrogate-forest", "membership-loss"]
    assert plan.attacks[0].models is None and plan.attacks[1].defenses is None


def test_a_wrong_flag_is_the_command_lines_and_a_wrong_key_the_files(toml, tmp_path):
    with pytest.raises(InputError, match=r"^command line: eps: must be a finite number"):
        make_plan(toml, {"eps": 0.0})
    bad = tmp_path / "bad.toml"
    bad.write_text(TOML.replace("eps = 0.1", "eps = 7"))
    with pytest.raises(InputError, match=r"bad.toml: eps: "):
        make_plan(str(bad), {"seed": 3})


@pytest.mark.parametrize("wrong", ['attacks = "pgd"', "attacks = 5", 'models = "mlp"', "table = 3"])
def test_flags_do_not_hide_that_the_file_is_wrong(tmp_path, wrong):
    file = tmp_path / "bad.toml"
    file.write_text(f'data = "pima"\n{wrong}\n' + ("" if wrong.startswith("models") else 'models = ["mlp"]'))
    for flags in ({"models": ["xgboost"]}, {"defenses": []}, {"table": {"target": "x"}}, {}):
        if not wrong.startswith(("models" if "models" in flags else "-", "table" if "table" in flags else "-")):
            with pytest.raises(InputError, match=r"bad\.toml: (attacks|models|table): "):
                make_plan(str(file), flags)


def test_every_preset_is_a_plan_whose_names_are_known():
    for preset in registry.names("presets"):
        plan = make_plan(preset, {})
        for kind in ("models", "attacks", "defenses"):
            for item in getattr(plan, kind):
                assert item.source in registry.names(kind)
        assert set(plan.data) <= set(registry.names("datasets"))


@pytest.mark.parametrize(("data", "message"), [
    ("csv", "give the file itself"), ("x.parquet", r"no reader for .parquet files"), ("x.csv", "--target COLUMN"),
    ("folder", "give the folder itself"), ("pimaa", "did you mean 'pima'"),
    ("scnas", "unknown dataset 'scnas'.*; there is no such file or folder either$"),
    ("own.py:rows", "no file own.py$")])
def test_data_that_cannot_be_opened_is_named(data, message):
    with pytest.raises(InputError, match=message):
        opened(data, Plan.check(BASE, "x"))


def test_a_users_dataset_must_be_one(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def rows():\n    return [1, 2]\n")
    with pytest.raises(InputError, match="returns list, not a Dataset"):
        opened(f"{file}:rows", Plan.check(BASE, "x"))


@pytest.mark.parametrize(("scale", "hint"), [
    (255, "row 0 is no possible .* go from 0 to 255, .* from 0 to 1; divide by 255"),
    (-1, "go from -1 to -?0, .* from 0 to 1$")])
def test_a_users_images_are_within_their_bounds(tmp_path, scale, hint):
    file = tmp_path / "own.py"
    file.write_text(f"""
import numpy as np
from suite.core.data import Dataset, Provenance, Split
from suite.core.space import Space

def images():
    x = np.linspace(0, 1, 60, dtype=np.float32).reshape(5, 1, 3, 4)
    good = Split(x, np.array([0, 1, 0, 1, 0]), Space(0, 1), ("a", "b"), np.arange(5))
    bad = Split(x * {scale}, good.y, good.space, good.classes, good.rows)
    return Dataset("own", good, good, bad, Provenance("own", "me", "mine", "", 15, False))
""")
    with pytest.raises(InputError, match=hint):
        opened(f"{file}:images", Plan.check(BASE, "x"))


def test_options_for_images_are_refused_where_there_are_none():
    with pytest.raises(InputError, match="data breast-cancer: is no image set, so that 'size' means nothing"):
        opened("breast-cancer", Plan.check(BASE | {"images": {"size": 32, "positive": "x"}}, "x"))
    assert opened("breast-cancer", Plan.check(BASE | {"images": {"positive": "x"}}, "x")).name == "breast-cancer"


@pytest.mark.parametrize(("wrong", "message"), [
    ({"sise": 32}, "images.sise: no such key; did you mean 'size'?"), ({"size": 4}, "images.size: "),
    ({"channels": 2}, "images.channels: "), ({"window": [40, 0]}, "the width is above 0"), ({"slices": 0}, "slices")])
def test_a_section_on_images_is_checked(wrong, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Plan.check(BASE | {"images": wrong}, "x")


def test_flags_on_images_are_added_to_the_plans(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('data = "pima"\nmodels = ["mlp"]\n[images]\nsize = 64\nchannels = 1\n')
    assert make_plan(str(file), {"images": {"size": 32}}).images.said == {"size": 32, "channels": 1}


def test_images_are_audited_as_images_unasked(tmp_path):
    (tmp_path / "scans").mkdir()
    assert [default_preset(data) for data in (None, ["pima"], ["x.csv"], ["nobody"], ["chest-phantom"], ["x.npz"],
                                              [str(tmp_path / "scans")])] == ["tabular"] * 4 + ["imaging"] * 3


def test_detectors_are_kept_where_their_models_are_and_can_be_replaced(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('data = "x"\nmodels = ["mlp", "random-forest"]\ndefenses = ["trades"]\n'
                    'detectors = ["lid", { name = "neighbors", models = ["random-forest"], k = 3 }, '
                    '{ name = "mahalanobis", defenses = ["trades"] }]')
    assert [d.name for d in make_plan(str(file), {}).detectors] == ["lid", "neighbors", "mahalanobis"]
    assert [d.name for d in make_plan(str(file), {"models": ["mlp"]}, quick=True).detectors] == ["lid"]
    asked = make_plan(str(file), {"models": ["mlp"], "detectors": ["neighbors"]}).detectors
    assert [(d.name, d.params, d.models) for d in asked] == [("neighbors", {"k": 3}, None)]
    assert make_plan(str(file), {"detectors": []}).detectors == ()


def test_a_plan_cannot_allow_pickles(tmp_path):
    from suite.audit.request import make_plan

    file = tmp_path / "p.toml"
    for value in ("true", "false"):
        file.write_text(f'data = "pima"\nmodels = ["mlp"]\nallow_pickle = {value}\n')
        with pytest.raises(InputError, match=r"'allow_pickle' cannot be set in a plan.* pass --allow-pickle"):
            make_plan(str(file), {})
    file.write_text('data = "pima"\nmodels = ["mlp"]\n')
    assert make_plan(str(file), {"allow_pickle": True}).allow_pickle


@pytest.mark.parametrize(("line", "message", "flags"), [
    ("pictures = true", r"'pictures' cannot be set in a plan.* pass --pictures if", {"pictures": True}),
    ('pictures = "yes"', "'pictures' cannot be set in a plan", {"pictures": False}),
    ("smallest_group = 3", r"'smallest_group' = 3 cannot .* whole numbers of at least 10;.* --smallest-group N",
     {"smallest_group": 3}),
    ('smallest_group = "3"', "'smallest_group' = '3' cannot be set in a plan", {"smallest_group": 9}),
    ("smallest_group = 3.0", "'smallest_group' = 3.0 cannot be set in a plan", {"smallest_group": 9}),
    ("smallest_group = -1", "'smallest_group' = -1 cannot be set in a plan", {"smallest_group": 9})])
def test_a_plan_does_not_decide_what_is_kept_of_patients(tmp_path, line, message, flags):
    file = tmp_path / "p.toml"
    file.write_text(f'data = "pima"\nmodels = ["mlp"]\n{line}\n')
    with pytest.raises(InputError, match=message):
        make_plan(str(file), {})
    file.write_text('data = "pima"\nmodels = ["mlp"]\npictures = false\nsmallest_group = 12\n')
    assert make_plan(str(file), {}).smallest_group == 12
    made = make_plan(str(file), flags)
    assert {key: getattr(made, key) for key in flags} == flags


@pytest.mark.parametrize("load", [read_toml, Schema.load])
def test_toml_that_is_nested_too_deeply_is_one_line(tmp_path, load):
    file = tmp_path / "deep.toml"
    file.write_text("x = " + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(InputError, match=r"deep\.toml: is nested too deeply"):
        load(file)
