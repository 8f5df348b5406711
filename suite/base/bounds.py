"""Types of hyper-parameters, of which `suite.base.registry.make` says when a value is out of range.

All of them are strict: neither text nor a truth value passes for a number. No real number may be NaN, and only an
`Unbounded` one may be infinite. Upper limits are far above what any paper uses: they only keep a typing error from
becoming a job that never ends.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_COUNT = 1_000_000
MAX_REAL = 1e12

Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
Several = Annotated[int, Field(strict=True, ge=2, le=MAX_COUNT)]
Even = Annotated[int, Field(strict=True, ge=2, le=MAX_COUNT, multiple_of=2)]
Nodes = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
"""Of an exact search, whose boxes take microseconds."""
Whole = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Label = Annotated[int, Field(strict=True, ge=0, le=9_999)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Bits = Annotated[int, Field(strict=True, ge=1, le=16)]
Depth = Annotated[int, Field(strict=True, ge=1, le=1_000)]
Width = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Blocks = Annotated[int, Field(strict=True, ge=1, le=1_000)]

Positive = Annotated[float, Field(strict=True, gt=0, le=MAX_REAL)]
NonNegative = Annotated[float, Field(strict=True, ge=0, le=MAX_REAL)]
LearningRate = Annotated[float, Field(strict=True, gt=0, le=1_000)]
Unbounded = Annotated[float, Field(strict=True, gt=0)]
"""Of an attack that looks for the smallest perturbation: infinite where it need not stop looking."""
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
ProperShare = Annotated[float, Field(strict=True, gt=0, lt=1)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
"""What is kept of a running mean at each step; also the share of units that dropout leaves out."""

Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)]
Shares = Annotated[tuple[Share, ...], Field(min_length=1, max_length=64)]
Budgets = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=64)]
