"""All findings of a run: each topic turns the rows it understands into findings, or into checks of the audit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from suite.report.findings import LEVELS, TOPICS, Check, Finding
from suite.report.rows import Rows
from suite.report.rules.coverage import unknown_training, untested
from suite.report.rules.epsilon import audited, epsilon
from suite.report.rules.federation import curious, hostile, losing, planting, rebuilding
from suite.report.rules.patients import single_patients
from suite.report.rules.privacy import attribute, extraction, inversion, membership, reconstruction
from suite.report.rules.robustness import evasion, masking, natural, subgroups
from suite.report.rules.training import backdoor, collapse, defenses, errors, performance, poisoning
from suite.report.rules.trust import detection, epsilon_audits, library_attacks, masking_checks
from suite.results.measurement import Measurement

JUDGES = (errors, collapse, masking, evasion, natural, subgroups, performance, poisoning, backdoor,
          membership, single_patients, attribute, inversion, reconstruction, extraction, defenses, epsilon, audited,
          hostile, planting, losing, curious, rebuilding, unknown_training, untested)
"""Functions `Rows -> list[Finding]`."""
CHECKS = (masking_checks, detection, library_attacks, epsilon_audits)
"""Functions `Rows -> list[Check]`."""


def findings(rows: list[Measurement], manifest: dict[str, Any]) -> list[Finding]:
    """All findings of a run, errors first, then worst first.

    Args:
        rows: `Run.rows()`.
        manifest: `Run.manifest`; its plan gives the main budget, "suited" the attacks that each model can meet, and
            "training_known" whether the training set of each model is known.
    """
    table, order = Rows(rows, manifest), list(LEVELS)
    found = [finding for judge in JUDGES for finding in judge(table)]
    found = [replace(f, text=_unbroken(_complete(f))) for f in found]
    return sorted(found, key=lambda f: (f.level != "error", order.index(f.level), TOPICS.index(f.topic),
                                        f.defense != "none", -f.weight))


def checks(rows: list[Measurement], manifest: dict[str, Any]) -> list[Check]:
    """What a reader must know to trust the audit; arguments as of `findings`."""
    table = Rows(rows, manifest)
    return [replace(c, text=_unbroken(c.text)) for check in CHECKS for c in check(table)]


def _unbroken(text: str) -> str:
    return text.replace("n = ", "n\u00a0=\u00a0")


def _complete(finding: Finding) -> str:
    return finding.text if finding.defense == "none" else f"Behind {finding.defense}. {finding.text}"
