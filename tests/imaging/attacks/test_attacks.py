"""What all image attacks have in common."""

import pytest

from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.core.attack import EvasionAttack
from tests.support.models import patients

ALL = {name: registry.load("attacks", name) for name in registry.names("attacks")}
EVASION = {name: a for name, a in ALL.items() if isinstance(a, type) and issubclass(a, EvasionAttack)}
IMAGING = [name for name, attack in EVASION.items() if attack.__module__.startswith("imaging")]


@pytest.mark.parametrize("name", IMAGING)
def test_refuses_a_table_before_asking_anything(name):
    classifier, x, y = patients()
    with pytest.raises(NotApplicable, match="is for images, and the inputs of this model are tables"):
        registry.load("attacks", name)()(classifier, x, y)
    assert classifier.queries == 0


@pytest.mark.parametrize(("name", "key", "value"), [
    ("warp", "eps", -1.0), ("warp", "points", 2), ("warp", "steps", 0), ("rotation-translation", "eps", 9999.0),
    ("rotation-translation", "shift", -3.0), ("rotation-translation", "angles", 0), ("speckle", "draws", 0),
    ("simba", "steps", -5), ("autoattack", "steps", 0), ("bias-field", "degree", -1), ("few-pixels", "eps", 0.5),
    ("black-box-universal", "steps", -3), ("black-box-universal", "own", 0), ("universal", "passes", 0)])
def test_a_parameter_out_of_range_is_named(name, key, value):
    assert registry.make("attacks", name)
    with pytest.raises(InputError, match=f"attack '{name}': .*{key}.* "):
        registry.make("attacks", name, {key: value})
