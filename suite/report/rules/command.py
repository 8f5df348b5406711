"""The command that carries out what a run left out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from suite.report.rows import Rows

TABLE = {"target": "target", "positive": "positive", "schema_file": "schema", "drop": "drop", "group": "group",
         "split": "split", "test": "test"}
IMAGES = {"labels": "labels", "size": "size", "channels": "channels", "modality": "modality", "finding": "finding",
          "positive": "positive", "patient": "group"}
"""Key of a plan's section -> flag of the command line."""


def command(rows: Rows, attacks: Sequence[str], models: Sequence[str]) -> str:
    """A command that runs these attacks on these models of a run, on the same data, without a defense.

    Args:
        rows: Of the run; its manifest has the plan.
        attacks: Registered names.
        models: Names in the plan.
    """
    plan = rows.manifest.get("plan", {})
    verb = "federate" if plan.get("hospitals") else "audit"
    own = {item["name"]: item.get("use") or item["name"] for item in plan.get("models", [])}
    # where several data sets are named, the first that is available is taken, as it was in this run
    said = {"data": ",".join(plan.get("data", [])) or "DATA",
            "model": ",".join(dict.fromkeys(own.get(name, name) for name in models)), "attacks": ",".join(attacks)}
    said |= {} if verb == "federate" else {"defenses": "none"}
    for section, flags in (("table", TABLE), ("images", IMAGES)):
        for key, flag in flags.items():
            if value := (plan.get(section) or {}).get(key):
                said.setdefault(flag, ",".join(value) if isinstance(value, list) else str(value))
    parts = [part for flag, value in said.items() for part in (f"--{flag}", shlex.quote(value))]
    return " ".join(["medsec", verb, *parts, "--out", f"runs/{attacks[0]}"])
