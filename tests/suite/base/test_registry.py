"""Names become things; wrong names and parameters are named, with the nearest right one."""

import dataclasses
import sys

import pytest

from suite.attacks.gradient import PGD
from suite.base import registry, threats
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.attack import Attack
from suite.core.data import Dataset
from suite.core.defense import Defense
from suite.core.detector import Detector
from suite.core.recipe import Recipe

THINGS = [(kind, name) for kind in ("models", "attacks", "defenses", "detectors") for name in registry.names(kind)]
BASES = {"models": Recipe, "attacks": Attack, "defenses": Defense, "detectors": Detector}


@pytest.mark.parametrize(("kind", "name"), THINGS)
def test_everything_registered_loads_and_says_what_it_is(kind, name):
    found = registry.load(kind, name)
    info = found.info
    assert isinstance(info, Info) and info.title and info.paper and info.cost
    assert isinstance(registry.make(kind, name), BASES[kind])
    assert all(key in threats.CATALOG for key in info.threats)
    if kind == "attacks":
        assert info.threats and info.knowledge
        assert dataclasses.fields(found) is not None and found.__dataclass_params__.frozen


def test_every_threat_has_an_id_in_each_catalog():
    for threat in threats.CATALOG.values():
        assert threat.atlas and threat.nist and threat.owasp and threat.meaning.endswith(".")
    assert threats.ids(("evasion", "transfer")).count("AML.T0015") == 1


@pytest.mark.parametrize(("kind", "name", "near"), [("attacks", "pdg", "pgd"), ("attacks", "hopskip", "hopskipjump"),
                                                    ("models", "randomforest", "random-forest"),
                                                    ("defenses", "adversarial-trainig", "adversarial-training"),
                                                    ("datasets", "pimaa", "pima"), ("presets", "tabluar", "tabular")])
def test_an_unknown_name_suggests_the_nearest(kind, name, near):
    with pytest.raises(InputError, match=rf"unknown {kind[:-1]} '{name}'; did you mean '{near}'\?"):
        registry.load(kind, name)


def test_a_name_like_none_other_points_to_the_list():
    with pytest.raises(InputError, match=r"unknown attack 'qqqqq' \(`medsec list attacks` shows all\)"):
        registry.load("attacks", "qqqqq")


@pytest.mark.parametrize(("params", "message"), [
    ({"stpes": 3}, "'pgd' has no parameter 'stpes'; did you mean 'steps'"),
    ({"zzz": 3}, "'pgd' has no parameter 'zzz' .it has: eps, .*restarts"),
    ({"steps": "many"}, "'pgd': steps: Input should be a valid integer"),
    ({"steps": 2.5}, "'pgd': steps: "),
    ({"norm": "l7"}, "'pgd': norm: Input should be 'linf' or 'l2'")])
def test_a_wrong_parameter_is_named(params, message):
    with pytest.raises(InputError, match=message):
        registry.make("attacks", "pgd", params)


def test_what_a_class_itself_refuses_is_one_clean_line():
    with pytest.raises(InputError, match=r"^defense 'jpeg': Jpeg: quality must lie between 1 and 100, got 101$"):
        registry.make("defenses", "jpeg", {"quality": 101})


def test_parameters_replace_defaults():
    assert registry.make("attacks", "pgd", {"steps": 3}) == PGD(steps=3)
    assert registry.make("models", "mlp", {"hidden": [4, 2]}).hidden == (4, 2)


def test_a_users_file_is_read_and_an_instance_is_a_variant(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from suite.attacks.gradient import PGD\nLONG = PGD(steps=400)\nclass Own(PGD):\n    pass\n"
                    "FIVE = 5\n")
    assert registry.make("attacks", f"{file}:LONG") == PGD(steps=400)
    assert registry.make("attacks", f"{file}:LONG", {"restarts": 2}) == PGD(steps=400, restarts=2)
    assert isinstance(registry.make("attacks", f"{file}:Own"), PGD)
    with pytest.raises(InputError, match="is not a dataclass"):
        registry.make("attacks", f"{file}:FIVE")


def test_two_files_of_one_name_stay_apart(tmp_path):
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text("class Own:\n    pass\n")
        found.append(registry.load("models", f"{tmp_path / folder / 'own.py'}:Own"))
    assert [sys.modules[own.__module__].Own for own in found] == found, "as a pickle of one of them looks it up"


def test_a_users_file_that_is_wrong_is_named(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import not_there\n")
    with pytest.raises(InputError, match=r"broken.py fails on import: ModuleNotFoundError: .* 'not_there'"):
        registry.load("attacks", f"{broken}:X")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(InputError, match=r"empty.py defines no X"):
        registry.load("attacks", f"{empty}:X")
    with pytest.raises(InputError, match=r"no file .*none.py"):
        registry.load("attacks", f"{tmp_path}/none.py:X")


@pytest.mark.parametrize("name", ["breast-cancer", "pima-synthetic"])
def test_a_dataset_that_needs_no_file_opens(name):
    assert isinstance(registry.load("datasets", name)(), Dataset)


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path):
    """Types of fields are looked up in the module of their class, by its name."""
    made = []
    for word in ("one", "two"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "mine.py").write_text(
            "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import Literal\n\n"
            f"Word = Literal[{word!r}]\n\n\n@dataclass(frozen=True)\nclass Mine:\n    word: Word = {word!r}\n")
        made.append(registry.load("attacks", f"{tmp_path / word / 'mine.py'}:Mine"))
    assert made[0].__module__ != made[1].__module__
    for number, word in enumerate(("one", "two")):
        assert registry.make("attacks", f"{tmp_path / word / 'mine.py'}:Mine", {"word": word}) == made[number](word)
