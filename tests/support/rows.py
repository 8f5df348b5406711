"""Hand-made measurement rows and manifests for tests of what is computed from them."""

from suite.report.findings import Finding
from suite.report.rules.every import checks, findings
from suite.results.measurement import Measurement

VERSIONS = {"python": "3.11", "medsec": "0"}


def row(metric, value, low=None, high=None, n=100, model="m", defense="none", attack="", subgroup="", **fields):
    """One row; `eps` and other attack parameters go into `attack_params`."""
    known = ("eps", "rate", "budget", "column", "norm", "confidence", "unit", "neighbors", "public_rows",
             "public_rows_from")
    params = {k: fields.pop(k) for k in known if k in fields}
    return Measurement(cell=f"{model}--{defense}--{attack or 'fit'}", dataset="d", data_sha256="ab", synthetic=False,
                       model=model, defense=defense, attack=attack, attack_params=params, subgroup=subgroup,
                       metric=metric, value=value, ci_low=low, ci_high=high, n=n, device="cpu", seed=0,
                       versions=VERSIONS, **fields)


def manifest(**changes):
    """A manifest with a main budget of 0.05."""
    base = {"plan": {"title": "An audit", "eps": 0.05, "budgets": [0.01, 0.05], "seed": 3, "models": [{"name": "m"}],
                     "defenses": []},
            "data": {"name": "d", "sha256": "ab"}, "why": "d: because it was asked for",
            "provenance": {"name": "d", "source": "somewhere", "licence": "CC0", "sha256": "ab", "rows": 300,
                           "synthetic": False, "note": ""},
            "card": {"rows": "300"}, "classes": ["well", "ill"], "features": ["a", "b"],
            "splits": {"train": 150, "val": 50, "test": 100}, "budget": {"a": "± 10 mg/dL"}, "versions": VERSIONS,
            "device": "CPU, 2 threads", "created": "2026-01-01 00:00", "cells": []}
    return base | changes


def clean(model="m", defense="none", balanced=(0.7, 0.6, 0.8), accuracy=(0.75, 0.66, 0.82), collapsed=0.0):
    """The rows of a fit cell that findings look at."""
    at = {"model": model, "defense": defense}
    return [row("accuracy", *accuracy, **at), row("balanced_accuracy", *balanced, **at),
            row("sensitivity", 0.9, 0.85, 0.95, 40, **at), row("collapsed", collapsed, **at)]


def evasion(flipped, kept, model="m", defense="none", attack="pgd", n=100, noise=(0.02, 0.0, 0.08)):
    """Rows of one attack, the control and the worst case; `flipped` and `kept` are (value, low, high)."""
    at = {"model": model, "defense": defense, "eps": 0.05}
    out = []
    for name, rows, success, robust in (("noise", 100, noise, (0.74, 0.65, 0.81)), (attack, n, flipped, kept),
                                        ("worst-case", 100, flipped, kept)):
        out += [row("robust_accuracy", *robust, n=rows, attack=name, **at),
                row("attack_success_rate", *success, n=rows * 3 // 4, attack=name, **at)]
    return out


def found(rows, topic, model="m", defense="none", made=None) -> list[Finding]:
    """The findings about one model on one topic."""
    return [f for f in findings(rows, made or manifest()) if (f.topic, f.model, f.defense) == (topic, model, defense)]


def only(rows, topic, **where) -> Finding:
    """The one finding about a model on a topic."""
    (one,) = found(rows, topic, **where)
    return one


def about(rows, section):
    """The checks of the audit itself that lead to a section; none of them is a finding."""
    return [c.text for c in checks(rows, manifest()) if c.section == section]
