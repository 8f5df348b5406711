"""What the run says nothing about: threats that no attack was tried for, and models whose training set is unknown."""

from __future__ import annotations

from suite.base import registry, threats
from suite.report import known
from suite.report.findings import Finding
from suite.report.rows import CONTROL, WORST, Rows
from suite.report.rules.command import command
from suite.report.rules.strength import on_federations, topic_of
from suite.report.show import join

AT_ONCE = 3
"""Attacks that one command names, at most."""


def untested(rows: Rows) -> list[Finding]:
    """Threats of the catalog that none ran for of the attacks that suit a model, model by model; models with the same
    gap are named together."""
    failed = {r.cell for r in rows.errors}
    used = set(rows.deployed)  # what ran on a defended model alone says nothing of the one that is put to use
    ran = {(r.model, key) for r in rows.all if r.cell not in failed and (r.model, r.defense) in used
           for key in _tests(r.attack)}
    suited = {model: found for model in rows.models if (found := rows.suited(model))}
    out = []
    for key, threat in threats.CATALOG.items():
        able = {model: [name for name in registry.names("attacks") if name in suited[model] and key in _tests(name)]
                for model in suited}
        able = {model: names for model, names in able.items() if names}
        left = [model for model in able if (model, key) not in ran]
        attacks: dict[str, list[str]] = {}
        for model in left:
            for name in able[model]:
                attacks.setdefault(name, []).append(model)
        if rows.manifest.get("plan", {}).get("hospitals"):  # where hospitals train together, attacks on that come first
            attacks = {k: v for k, v in attacks.items() if on_federations(known.found(k))} or attacks
        if not attacks:
            continue
        chosen = _cover(attacks)
        models = list(dict.fromkeys(model for name in chosen for model in attacks[name]))
        later = {*attacks} & {*rows.manifest.get("plan", {}).get("later", ())}
        staged = f" --full adds {join(sorted(later))} to this run." if later else ""
        out.append(Finding("not tested", "all" if len(left) == len(able) else join(left),
                           f"{threat.title}: no attack of this kind ran. {threat.meaning}{staged}",
                           "coverage", command=command(rows, chosen, models), threat=threat.title))
    return out


def _tests(name: str) -> tuple[str, ...]:
    """The threats that an attack is a test of: none for the random control and for an audit of a privacy budget."""
    attack = None if name in ("", WORST, CONTROL) else known.found(name)
    if attack is None or not (topic_of(attack) or "property" in attack.info.threats):
        return ()
    return attack.info.threats


def _cover(attacks: dict[str, list[str]]) -> list[str]:
    """Few attacks, strong ones first, that between them suit as many models as possible."""
    left, chosen = {m for models in attacks.values() for m in models}, []
    order = sorted(attacks, key=lambda name: not known.found(name).info.strong)
    while left and len(chosen) < AT_ONCE:
        best = max(order, key=lambda name: (known.found(name).info.strong and bool(left & {*attacks[name]}),
                                            len(left & {*attacks[name]})))
        chosen.append(best)
        left -= {*attacks[best]}
    return chosen


def unknown_training(rows: Rows) -> list[Finding]:
    """Fitted models of which nobody said what they have learned from."""
    return [Finding("not tested", model, "Membership inference and generalisation: the training set of this fitted "
                    "model is unknown, so that training patients and others cannot be compared. Name its split with "
                    "--split COLUMN, or give --train FILE and --test FILE.", "membership",
                    threat="Membership inference and generalisation")
            for model in rows.models if not rows.training_known(model)]
