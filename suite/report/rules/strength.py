"""Which attacks are strong enough that their failure says something about a model, and which of them did not run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from suite.base import registry
from suite.core.attack import (
    Attack,
    AttributeAttack,
    EvasionAttack,
    ExtractionAttack,
    InversionAttack,
    MembershipAttack,
    PoisoningAttack,
    PrivacyAudit,
    ReconstructionAttack,
)
from suite.report import known
from suite.report.rows import Rows
from suite.results.measurement import Measurement

FAMILIES: tuple[tuple[type[Attack], str], ...] = (
    (EvasionAttack, "evasion"), (MembershipAttack, "membership"), (AttributeAttack, "attribute"),
    (InversionAttack, "inversion"), (ReconstructionAttack, "reconstruction"), (ExtractionAttack, "extraction"))
FEDERATED = {"backdoor": "backdoor", "poisoning": "hostile hospitals", "membership": "curious server",
             "reconstruction": "rebuilt patients"}
"""Threat of an attack that is of none of the kinds above, as attacks on federations are -> topic of its findings."""


def topic_of(attack: Any) -> str:
    """The topic of the findings about an attack (a class, or an instance); empty for an audit of a privacy budget and
    for an attack that no finding is about."""
    kind = attack if isinstance(attack, type) else type(attack)
    if issubclass(kind, PrivacyAudit) or isinstance(getattr(kind, "trials", None), str):
        return ""
    if issubclass(kind, PoisoningAttack):
        return "backdoor" if "backdoor" in attack.info.threats else "poisoning"
    own = next((topic for family, topic in FAMILIES if issubclass(kind, family)), None)
    if own == "evasion" and getattr(attack, "unit", ""):
        return "natural changes"
    return own or next((topic for threat, topic in FEDERATED.items() if threat in attack.info.threats), "")


def on_federations(attack: Any) -> bool:
    """Whether an attack (a class, or an instance) can only be used on federations: it is of no other kind."""
    kind = attack if isinstance(attack, type) else type(attack)
    return not issubclass(kind, (PoisoningAttack, PrivacyAudit, *(family for family, _ in FAMILIES)))


def strong_attacks(rows: Rows, topic: str, model: str, norm: str = "") -> list[str]:
    """Names of the registered attacks whose failure would say something about a model.

    Where some of them read the model (gradients, trees, class means), only these: an attack by queries alone is strong
    only against a model that offers nothing else. Where shadow models had to be of another recipe than the model, no
    attack by these is strong: one with its own may find more.

    Args:
        rows: Of the run.
        topic: Of the findings.
        model: Its name.
        norm: Only attacks whose budget is meant in this norm, unless told otherwise; empty for any.
    """
    suited = rows.suited(model)
    borrowed = any(_borrowed(row) for row in rows.all if row.model == model)
    found = {name: attack for name in registry.names("attacks") if suited is None or name in suited
             if (attack := known.found(name)) is not None and attack.info.strong and topic_of(attack) == topic
             and (not norm or known.default_norm(attack) == norm) and not (borrowed and attack.surrogates)}
    return [name for name, attack in found.items() if attack.needs] or list(found)


def is_strong(row: Measurement) -> bool:
    """Whether the attack of a row is strong with the effort that it made there."""
    info = known.about(row.attack)
    if info is None or not info.strong or _borrowed(row):
        return False
    if info.strong_from is None:
        return True
    name, least = info.strong_from
    # hostile hospitals carry the poisoning that they do
    carried = [p[name] for p in row.attack_params.values() if isinstance(p, dict) and name in p]
    effort = row.attack_params.get(name, carried[0] if carried else getattr(known.found(row.attack), name, least))
    return not isinstance(effort, int | float) or effort >= least


def _borrowed(row: Measurement) -> bool:
    """Whether the shadow models of an attack are of another recipe than the model."""
    return "shadow_recipe" in row.attack_params


def missing_strong(rows: Rows, topic: str, model: str, ran: Iterable[Measurement],
                   norm: str = "") -> list[str] | None:
    """Names of the strong attacks of which none ran on a model.

    Args:
        rows: Of the run.
        topic: Of the findings.
        model: Its name.
        ran: Rows of the attacks of that topic that ran on it.
        norm: Where budgets have one: an attack in another norm does not count.

    Returns:
        None where one of them ran; an empty list where there is none for such a model.
    """
    wanted = strong_attacks(rows, topic, model, norm)
    reading = any(known.found(name).needs for name in wanted)

    def counts(row: Measurement) -> bool:
        attack = known.found(row.attack)
        return (attack is not None and topic_of(attack) == topic and is_strong(row)
                and (not norm or known.norm(row) == norm) and bool(attack.needs or not reading))

    return None if any(map(counts, ran)) else wanted
