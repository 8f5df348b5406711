"""The plans that ship: everything they name is there, with the hyper-parameters they give it."""

import pytest

from suite.audit.plan import Plan, read_toml
from suite.base import registry


@pytest.mark.parametrize("preset", [name for name in registry.names("presets") if name.startswith("imaging")])
def test_everything_that_a_preset_names_is_there(preset):
    plan = Plan.check(read_toml(registry.load("presets", preset)), preset)
    for kind in ("models", "attacks", "defenses", "detectors"):
        for item in getattr(plan, kind):
            made = registry.make(kind, item.source, item.params)
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in item.params.items()}
            assert {k: getattr(made, k) for k in given} == given
    assert set(plan.data) <= set(registry.names("datasets"))
    assert {"noise"} <= {a.name for a in plan.attacks}, "every attack is compared with the control"
