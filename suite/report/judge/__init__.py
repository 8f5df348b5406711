"""Judging rows: each topic turns the rows it understands into findings, or into checks of the audit itself."""

from suite.report.judge.coverage import unknown_training, untested
from suite.report.judge.epsilon import audited, epsilon
from suite.report.judge.federation import curious, hostile, losing, planting, rebuilding
from suite.report.judge.patients import single_patients
from suite.report.judge.privacy import attribute, extraction, inversion, membership, reconstruction
from suite.report.judge.robustness import evasion, masking, natural, subgroups
from suite.report.judge.training import backdoor, collapse, defenses, errors, performance, poisoning
from suite.report.judge.trust import detection, epsilon_audits, library_attacks, masking_checks

JUDGES = (errors, collapse, masking, evasion, natural, subgroups, performance, poisoning, backdoor,
          membership, single_patients, attribute, inversion, reconstruction, extraction, defenses, epsilon, audited,
          hostile, planting, losing, curious, rebuilding, unknown_training, untested)
"""Functions `Rows -> list[Finding]`."""
CHECKS = (masking_checks, detection, library_attacks, epsilon_audits)
"""Functions `Rows -> list[Check]`."""

__all__ = ["CHECKS", "JUDGES"]
