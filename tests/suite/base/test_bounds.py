"""No plan may name a number that makes no sense: each numeric field of everything registered has its bounds."""

import dataclasses
import math
import types
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import pytest

from suite.base import registry
from suite.base.bounds import Unbounded
from suite.base.errors import InputError

KINDS = ("models", "attacks", "defenses", "detectors", "partitions", "aggregations")
NEEDED = {"sites": 3, "alpha": 0.5, "bad": 1, "size": 2, "clip": 1.0, "noise": 1.0}
ZERO = {"target", "source", "seed", "rivals", "bad", "degree", "bend", "kappa", "overshoot", "decay",
        "momentum", "average", "dropout", "weight_decay", "smoothing", "tv", "prior", "normalisation", "std", "along",
        "a", "shift", "cross_ratio", "share", "tolerance", "fall", "beta", "decimals", "rounds", "proximal",
        "personal", "ridge", "gain", "noise", "blur", "options"}
"""Names of fields for which 0 has a meaning; not in every class."""


def _numeric(hint):
    """The type of the numbers that a field holds, or None."""
    if get_origin(hint) is Annotated:
        inside = get_args(hint)[0]
        return hint if inside in (int, float) else _numeric(inside)
    if get_origin(hint) in (Union, types.UnionType, tuple, dict):
        return next((n for n in map(_numeric, get_args(hint)) if n is not None), None)
    return hint if hint in (int, float) else None


def _fields():
    for kind in KINDS:
        for name in registry.names(kind):
            found = registry.load(kind, name)
            cls = found if isinstance(found, type) else type(found)
            hints = get_type_hints(cls, include_extras=True)
            required = {f.name: NEEDED.get(f.name) for f in dataclasses.fields(cls)
                        if f.init and f.default is f.default_factory is dataclasses.MISSING}
            if "then" in required:
                required["then"] = registry.make("aggregations", "mean")
            if "strategy" in required:
                required["strategy"] = found.strategy
            for field in dataclasses.fields(cls):
                if field.init and (number := _numeric(hints[field.name])) is not None:
                    yield pytest.param(kind, name, field.name, number, hints[field.name], required,
                                       id=f"{kind[:-1]}-{name}-{field.name}")


def _value(hint, value):
    """A value of a field, in the container that the field has."""
    text = str(hint)
    return [value] if "tuple[" in text else {"eta": value} if "dict[" in text else value


def _refused(kind, name, field, hint, required, value):
    with pytest.raises(InputError) as e:
        registry.make(kind, name, required | {field: _value(hint, value)})
    assert f"'{name}'" in str(e.value) and field in str(e.value), e.value
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("kind", "name", "field", "number", "hint", "required"), list(_fields()))
def test_a_value_out_of_bounds_is_refused_and_names_item_and_field(kind, name, field, number, hint, required):
    assert isinstance(registry.make(kind, name, required), object)
    for value in (-1, math.nan, -math.inf, "3", True):
        _refused(kind, name, field, hint, required, value)
    if field not in ZERO:
        _refused(kind, name, field, hint, required, 0)
    if number != Unbounded:
        for value in (math.inf, 2**31 if get_args(number)[0] is int else 1e30):
            _refused(kind, name, field, hint, required, value)


def test_the_sweep_finds_the_fields_and_most_of_them_refuse_zero():
    swept = [p.values for p in _fields()]
    assert len(swept) > 300
    assert sum(field in ZERO for _, _, field, *_ in swept) < len(swept) / 3
    assert {field for _, _, field, *_ in swept} >= ZERO - {"options"}


@pytest.mark.parametrize(("kind", "name", "params"), [
    ("attacks", "pgd", {"steps": 0}), ("attacks", "noise", {"draws": 0}), ("models", "mlp", {"epochs": -5}),
    ("models", "mlp", {"lr": math.nan}), ("models", "mlp", {"hidden": [-4]}), ("models", "mlp", {"epochs": 10**9}),
    ("attacks", "few-pixels", {"generations": 0}), ("attacks", "wanet", {"strength": 0.0}),
    ("models", "simple-cnn", {"widths": []}), ("defenses", "trades", {"grid": []}),
    ("defenses", "trades", {"grid": [0.1, math.nan]})])
def test_what_passed_the_check_of_a_plan_before(kind, name, params):
    with pytest.raises(InputError, match=f"'{name}': {next(iter(params))}"):
        registry.make(kind, name, params)


@pytest.mark.parametrize("params", [{"angles": 1, "shifts": 1}, {"angles": 1, "shift": 0.0}])
def test_a_grid_that_moves_no_image_is_no_attack(params):
    with pytest.raises(InputError, match=r"'rotation-translation': RotationTranslation: angles: .* leave every image"):
        registry.make("attacks", "rotation-translation", params)
    registry.make("attacks", "rotation-translation", params | {"draws": 3})
    registry.make("attacks", "rotation-translation", params | {"angles": 2})


def test_the_message_says_what_was_given():
    with pytest.raises(InputError, match=r"^attack 'pgd': steps: Input should be greater than or equal to 1, got 0$"):
        registry.make("attacks", "pgd", {"steps": 0})
