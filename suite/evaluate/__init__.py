"""Measuring: what each kind of attack does to one subject, as rows and arrays."""

from suite.evaluate import epsilon, evasion, extraction, membership, poisoning, privacy  # noqa: F401 - each registers
from suite.evaluate.compare import Outcome, measure_gains
from suite.evaluate.subject import Subject, measure, measure_clean, measure_training

__all__ = ["Outcome", "Subject", "measure", "measure_clean", "measure_gains", "measure_training"]
