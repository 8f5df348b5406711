"""Judging rows: each topic turns the rows it understands into findings."""

from suite.report.judge.detection import detection
from suite.report.judge.epsilon import audited, epsilon
from suite.report.judge.federation import curious, hostile, losing, planting, rebuilding
from suite.report.judge.privacy import attribute, extraction, inversion, membership, reconstruction
from suite.report.judge.robustness import claims, evasion, masking, natural, subgroups
from suite.report.judge.training import backdoor, collapse, defenses, errors, performance, poisoning

JUDGES = (errors, collapse, masking, evasion, natural, claims, detection, subgroups, performance, poisoning, backdoor,
          membership, attribute, inversion, reconstruction, extraction, defenses, epsilon, audited,
          hostile, planting, losing, curious, rebuilding)
"""Functions `Rows -> list[Finding]`."""

__all__ = ["JUDGES"]
