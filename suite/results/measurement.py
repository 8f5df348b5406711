"""The measurement row: a tidy record of one number. Everything shown is computed from these and nothing else."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from suite.results.metrics import Estimate

SCHEMA_VERSION = 1


@cache
def versions() -> dict[str, str]:
    """Versions of what produced a number."""
    packages = {"medsec": "medsec", "torch": "torch", "scikit-learn": "scikit-learn", "xgboost": "xgboost",
                "art": "adversarial-robustness-toolbox", "opacus": "opacus"}
    return {"python": platform.python_version()} | {k: importlib.metadata.version(v) for k, v in packages.items()}


class Measurement(BaseModel):
    """One row of `measurements.jsonl`; docs/reference/rows.md describes each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: int = SCHEMA_VERSION
    cell: str
    dataset: str
    data_sha256: str
    synthetic: bool
    model: str
    defense: str = "none"
    defense_params: dict[str, Any] = Field(default_factory=dict)
    attack: str = ""
    attack_params: dict[str, Any] = Field(default_factory=dict)
    knowledge: str = ""
    threat_ids: list[str] = Field(default_factory=list)
    subgroup: str = ""
    people: int | None = None
    metric: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    queries: float | None = None
    seconds: float | None = None
    device: str
    seed: int
    error: str = ""
    caused_by: str = ""
    versions: dict[str, str] = Field(default_factory=versions)

    @field_serializer("value", "ci_low", "ci_high", "queries", "seconds")
    def _no_nan(self, v: float | None) -> float | None:
        # JSON has no NaN and no infinity
        return None if v is None or not math.isfinite(v) else float(f"{v:.6g}")

    @property
    def estimate(self) -> Estimate:
        """Value, interval and n together; NaN where undefined."""
        nan = float("nan")
        value, low, high = (nan if v is None else v for v in (self.value, self.ci_low, self.ci_high))
        return Estimate(value, low, high, self.n)


class Sheet:
    """Collects the rows of one cell, which have everything but metric, value and subgroup in common."""

    def __init__(self, **common: Any) -> None:
        self.common = common
        self.rows: list[Measurement] = []

    def add(self, metric: str, estimate: Estimate | float | bool, n: int = 0, **fields: Any) -> None:
        """Add a row; `fields` override what the rows of the cell have in common."""
        if not isinstance(estimate, Estimate):
            estimate = Estimate(float(estimate), float("nan"), float("nan"), n)
        self.rows.append(Measurement(**self.common | fields, metric=metric, value=estimate.value,
                                     ci_low=estimate.low, ci_high=estimate.high, n=estimate.n))

    def extend(self, estimates: dict[str, Estimate], **fields: Any) -> None:
        """Add a row for each metric."""
        for metric, estimate in estimates.items():
            self.add(metric, estimate, **fields)
