"""What the registry says of an attack or detector that a row names; a name it does not know is no error."""

from __future__ import annotations

import dataclasses
from typing import Any

from suite.base import registry
from suite.base.errors import InputError
from suite.base.info import Info
from suite.report.show import Voice
from suite.results.measurement import Measurement

CONTROL = "noise"
"""As `suite.evaluate.worst_case.CONTROL`."""


def about(name: str, kind: registry.Kind = "attacks") -> Info | None:
    """Title, paper, cost and departures; None for a name that is not registered here (any more)."""
    return getattr(found(name, kind), "info", None)


def norm(row: Measurement) -> str:
    """The norm in which the budget of an evasion row is meant."""
    if "norm" in row.attack_params:
        return str(row.attack_params["norm"])
    return default_norm(found(row.attack))


def default_norm(attack: Any) -> str:
    """The norm of an attack (a class, or an instance) with its default hyper-parameters."""
    try:
        return getattr(attack() if isinstance(attack, type) else attack, "norm", "linf")
    except TypeError:
        return "linf"


def trials(row: Measurement) -> str:
    """What an audit of a privacy budget counts: "canaries" or "trainings"."""
    return getattr(found(row.attack), "trials", "canaries")


def budget(row: Measurement, voice: Voice) -> str:
    """The budget of an evasion row with its unit, as "5%", "L2 0.5", "3 pixels" or "largest angle 30 degrees"."""
    eps, kind = row.attack_params.get("eps"), norm(row)
    unit = getattr(found(row.attack), "unit", "")
    if kind == "own" and unit:
        what, _, of = unit.partition(", in ")
        return f"{what} {eps:g} {of}".rstrip()
    return voice.budget(eps, kind)


def label(row: Measurement, voice: Voice) -> str:
    """The attack of an evasion row, with its budget where that is not the main one's kind; the control as such."""
    if row.attack == CONTROL:
        return f"{CONTROL} (control)"
    return row.attack if norm(row) == "linf" else f"{row.attack} ({budget(row, voice)})"


def found(name: str, kind: registry.Kind = "attacks") -> Any:
    """The class or instance of a name; None for a file's, and for a name that is not registered here (any more)."""
    if registry.is_file(name):  # a report runs no code of a file that a run folder names
        return None
    try:
        return registry.load(kind, name)
    except (InputError, ImportError, AttributeError):
        return None


def parameters(attack: str, params: dict[str, Any]) -> str:
    """Hyper-parameters that differ from the defaults, as "steps = 20"; budgets and sweeps are left out."""
    own = found(attack)
    fields = dataclasses.fields(own) if dataclasses.is_dataclass(own) else ()
    defaults = {f.name: _as_stored(getattr(own, f.name, f.default)) for f in fields}
    swept = {"eps", "budget", "column"}
    return ", ".join(f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}" for k, v in params.items()
                     if k not in swept and (k not in defaults or defaults[k] != _as_stored(v)))


def _as_stored(value: Any) -> Any:
    """A hyper-parameter as JSON keeps it, which knows no tuples."""
    return list(value) if isinstance(value, tuple) else value
