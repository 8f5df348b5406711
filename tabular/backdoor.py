"""Backdoors in tables: a rare combination of ordinary values is the trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from suite.attacks.poisoning import Backdoor
from suite.base.bounds import Count, ProperShare
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.data import Split
from suite.core.space import Kind
from tabular.schema import PatientSpace


@dataclass(frozen=True)
class FeatureTrigger:
    """Sets some columns to fixed values; the rest of the patient stays.

    Attributes:
        columns: Column indices.
        values: One value a column, in clinical units.
    """

    columns: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = np.array(x, np.float32)
        out[:, self.columns] = self.values
        return out


@dataclass(frozen=True)
class RareValues(Backdoor):
    """A trigger of values that are each ordinary and together rare.

    Each trigger column takes a low or a high quantile of the training data: a value that some patient has. Columns and
    sides are picked greedily so that the fewest training rows lie in the corner they span. Only columns that an
    attacker can move both ways and that no relation of the schema names are used, so the trigger fits every patient;
    and only sides on which the target class is the rarer of the two, since values that speak for the target anyway
    could not be told from a backdoor.

    Attributes:
        columns: Number of trigger columns; fewer where the schema lets fewer be set.
        tail: Share of patients beyond each value, in (0, 0.5).
    """

    info: ClassVar[Info] = Info(
        "Rare-value backdoor", "Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733", "data", ("backdoor",),
        "one training",
        departs="columns of a table stand for the pixels of a patch; only possible patients are made", strong=True,
        strong_from=("rate", 0.05))
    inputs: ClassVar[Kind] = "table"
    columns: Count = 3
    tail: ProperShare = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns < 1 or not 0 < self.tail < 0.5:
            raise InputError(f"RareValues: needs columns >= 1 and 0 < tail < 0.5, got {self.columns} and {self.tail}")

    def trigger(self, train: Split, seed: int = 0) -> FeatureTrigger:
        space = train.space
        if not isinstance(space, PatientSpace):
            raise NotApplicable("RareValues needs a table with a schema; for images use an image backdoor")
        free = ~(space.frozen | space.up | space.down | (space.factors != 0).any(0))
        # imputed values need not be possible, and no trigger may be spotted by an impossible value
        fits = space.possible(torch.from_numpy(train.x)).numpy()
        x, wanted = train.x[fits], train.y[fits] == self.target
        if not free.any() or not len(x):
            raise InputError(f"RareValues: an attacker can freely set {int(free.sum())} columns, and {len(x)} training "
                             "rows fit the schema: there is nothing to make a trigger of")
        corners = {}
        for column in free.nonzero()[:, 0].tolist():
            low = float(np.quantile(x[:, column], self.tail, method="lower"))
            high = float(np.quantile(x[:, column], 1 - self.tail, method="higher"))
            below, above = x[:, column] <= low, x[:, column] >= high
            if wanted[below].mean() <= wanted[above].mean():
                corners[column, low] = below
            else:
                corners[column, high] = above
        chosen: dict[int, float] = {}
        inside = np.ones(len(x), bool)
        while len(chosen) < min(self.columns, int(free.sum())):
            column, value = min((c for c in corners if c[0] not in chosen),
                                key=lambda c: ((inside & corners[c]).sum(), corners[c].sum()))
            chosen[column] = value
            inside &= corners[column, value]
        return FeatureTrigger(tuple(chosen), tuple(chosen.values()))
