"""What a possible patient is: units, ranges, integers, immutable and one-way columns, relations, costs of change.

A schema is a TOML file that people edit::

    [columns.Glucose]
    unit = "mg/dL"
    min = 40
    max = 250
    integer = true

    [columns.Age]
    unit = "years"
    min = 18
    max = 100
    integer = true
    change = "never"          # "any" (default), "never", "up" or "down"

    [[relations]]
    name = "no heart beats faster than age allows"
    terms = { thalach = 1, age = 1 }
    max = 250                 # sum of factor x column <= max
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from torch import Tensor

from suite.base.errors import InputError
from suite.core.space import Kind, Reach, Space


class Column(BaseModel):
    """One column of a table.

    Attributes:
        unit: For people; empty when there is none.
        min, max: Plausible range, inclusive, in clinical units. `max - min` is the unit of the perturbation budget
            unless `scale` says otherwise.
        scale: Units that count as a perturbation of 1.
        integer: Takes whole numbers only.
        values: Takes only these numbers, for codes such as `[3, 6, 7]`.
        labels: What the codes mean, in the order of `values`.
        change: Whether an attacker can change it: "any", "never" (age), or only "up" or "down".
        missing: Numbers that stand for "not measured", besides empty cells. Empty cells are allowed only where
            `may_miss` is true.
        may_miss: Whether a patient may lack it; imputed with the training median.
        cost: Cost of changing it by one `scale`, relative to the other columns; positive. Reports give the median cost
            of the changes that fooled a model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    unit: str = ""
    min: FiniteFloat
    max: FiniteFloat
    scale: FiniteFloat | None = Field(default=None, gt=0)
    integer: bool = False
    values: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    change: Literal["any", "never", "up", "down"] = "any"
    missing: tuple[float, ...] = ()
    may_miss: bool = False
    cost: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Column:
        if not self.min < self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        if self.integer and np.ceil(self.min) > self.max:
            raise ValueError(f"no whole number lies between {self.min:g} and {self.max:g}")
        if self.labels and len(self.labels) != len(self.values):
            raise ValueError(f"{len(self.labels)} labels for {len(self.values)} values")
        if self.values and (list(self.values) != sorted(set(self.values)) or not self.min <= self.values[0]
                            or not self.values[-1] <= self.max):
            raise ValueError("values must rise and lie between min and max")
        return self


class Relation(BaseModel):
    """A linear relation between columns of every possible patient: sum of factor x column <= max."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    terms: dict[str, FiniteFloat]
    max: FiniteFloat


_HINTS = """\
# Per column: unit, min and max (required), scale (what counts as a change of 1; else max - min), integer,
# values and labels (codes), change = "any", "never", "up" or "down", missing (numbers that stand for "not measured"),
# may_miss, cost. Relations: [[relations]] with name, terms = { column = factor } and max.

"""


class Schema(BaseModel):
    """The columns of a table, in order, and the relations between them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: dict[str, Column]
    relations: tuple[Relation, ...] = ()

    @model_validator(mode="after")
    def _known_columns(self) -> Schema:
        if not self.columns:
            raise ValueError("a schema needs columns, and there is no column in it")
        for relation in self.relations:
            for name in relation.terms:
                if name not in self.columns:
                    near = difflib.get_close_matches(name, self.columns, 1)
                    raise ValueError(f"relation '{relation.name}' names unknown column '{name}'"
                                     + (f"; did you mean '{near[0]}'?" if near else ""))
        return self

    @classmethod
    def load(cls, path: Path) -> Schema:
        """Read a TOML file; `InputError` names the file and the key that is wrong."""
        try:
            return cls.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as e:
            raise InputError(f"schema {path}: {(e.strerror or str(e)).lower()}") from None
        except RecursionError:
            raise InputError(f"schema {path}: is nested too deeply; `medsec data show --write-schema` writes one to "
                             "edit") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise InputError(f"schema {path}: not TOML: {e}") from None
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"schema {path}: {where + ': ' if where else ''}{first['msg']}") from None

    def save(self, path: Path) -> None:
        """Write the TOML file that `load` reads, leaving out what is at its default."""
        text = tomli_w.dumps(self.model_dump(exclude_defaults=True, mode="json"))
        Path(path).write_text(_HINTS + text, encoding="utf-8")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def without(self, names: Collection[str]) -> Schema:
        """The schema of the other columns; `InputError` where none is left, or a relation needs one of `names`."""
        for relation in self.relations:
            for name in relation.terms:
                if name in names:
                    raise InputError(f"column '{name}' cannot be left out: the schema's relation '{relation.name}' "
                                     "needs it")
        kept = {name: column for name, column in self.columns.items() if name not in names}
        if not kept:
            raise InputError("no column of the schema is left")
        return Schema(columns=kept, relations=self.relations)

    def codes(self, name: str) -> dict[float, str]:
        """What the codes of a column stand for; empty where they stand for nothing, or there is no such column."""
        column = self.columns.get(name)
        return dict(zip(column.values, column.labels, strict=True)) if column and column.labels else {}

    def space(self) -> PatientSpace:
        """The possible patients, for attacks."""
        return PatientSpace(self)


class PatientSpace(Space):
    """The possible patients of a schema, as a space for attacks: inputs are (n, columns) float32.

    A value of `x` that is itself impossible (out of range, between two codes) may stay as it is or move towards the
    possible ones; `possible` tells whether a row is clean.

    Attributes:
        schema: Where it came from.
        integer, frozen, up, down: (columns,) bool.
        costs: (columns,) float32, of changing a column by its scale.
        values: Column index -> sorted float32 codes the column may take.
        factors, limits: (relations, columns) and (relations,): every patient has `factors @ x <= limits`.
        slack: (relations,) by how much a float32 sum may lie above its limit and still count as kept.
    """

    kind: ClassVar[Kind] = "table"

    def __init__(self, schema: Schema) -> None:
        columns = list(schema.columns.values())
        super().__init__(torch.tensor([c.values[0] if c.values else np.ceil(c.min) if c.integer else c.min
                                       for c in columns]),
                         torch.tensor([c.values[-1] if c.values else np.floor(c.max) if c.integer else c.max
                                       for c in columns]),
                         torch.tensor([c.scale or c.max - c.min for c in columns]))
        self.schema = schema
        self.costs = torch.tensor([c.cost for c in columns])
        self.integer = torch.tensor([c.integer for c in columns])
        self.frozen = torch.tensor([c.change == "never" for c in columns])
        self.up = torch.tensor([c.change == "up" for c in columns])
        self.down = torch.tensor([c.change == "down" for c in columns])
        self._not_less, self._not_more = self.frozen | self.up, self.frozen | self.down
        self.values = {i: torch.tensor(c.values) for i, c in enumerate(columns) if c.values}
        # Codes without gaps are whole numbers between their limits, and cheaper to round as such.
        even = {i for i, codes in self.values.items() if (codes == codes[0].round() + torch.arange(len(codes))).all()}
        self._whole = torch.tensor([i in even or (c.integer and not c.values) for i, c in enumerate(columns)])
        self._gapped = torch.tensor(sorted(self.values.keys() - even), dtype=torch.int64)
        # One line of codes for each of the others, between infinities, so that each number has one below and above.
        self._codes = torch.full((len(self._gapped), 2 + max(map(len, self.values.values()), default=0)), torch.inf)
        for line, i in zip(self._codes, self._gapped.tolist(), strict=True):
            line[0], line[1 : 1 + len(self.values[i])] = -torch.inf, self.values[i]

        self.factors = torch.tensor([[r.terms.get(name, 0.0) for name in schema.columns] for r in schema.relations]
                                    ).reshape(len(schema.relations), len(columns))
        self.limits = torch.tensor([r.max for r in schema.relations])
        apart = bool(((self.factors != 0).sum(0) <= 1).all())
        self._passes = 1 if apart else len(self.limits)

        # float32 is not exact: 0.05 * 200 may end just below a whole number, and a sum just above its limit.
        noise = 1e-6 * torch.maximum(self.lower.abs(), self.upper.abs())
        self._slack = noise * self._whole
        self._slack[self._gapped] = noise[self._gapped]
        self.slack = self.factors.abs() @ noise

    def ball(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        lower, upper = super().ball(x, eps)
        lower = self._above(torch.where(self._not_less, x, lower) - self._slack)
        upper = self._below(torch.where(self._not_more, x, upper) + self._slack)
        # x itself is always possible, whatever rounding did
        return torch.minimum(lower, x), torch.maximum(upper, x)

    def reach(self, x: Tensor, eps: float) -> Reach:
        return PatientReach(self, x, *self.ball(x, eps))

    def snap(self, z: Tensor, x: Tensor, inward: bool = False) -> Tensor:
        reach = self.reach(x, float("inf"))
        return reach.snap(torch.clamp(z, reach.lower, reach.upper), inward)

    def price(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a - b) / self.scale).abs() @ self.costs

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        lower, upper = self.ball(x, float("inf"))
        same = z == x
        inside = (z >= lower) & (z <= upper) & ((self._below(z) == z) | same)
        return (inside.all(1) & self._related(z)) | same.all(1)

    def possible(self, x: Tensor) -> Tensor:
        return super().possible(x) & (self._below(x) == x).all(1) & self._related(x)

    def _below(self, z: Tensor) -> Tensor:
        """The greatest possible value at most `z`: `z` itself in continuous columns, -inf where there is none."""
        out = torch.where(self._whole, z.floor(), z)
        if len(self._gapped):
            out[:, self._gapped] = self._neighbours(z[:, self._gapped])[0]
        return out

    def _above(self, z: Tensor) -> Tensor:
        """The least possible value at least `z`: `z` itself in continuous columns, inf where there is none."""
        out = torch.where(self._whole, z.ceil(), z)
        if len(self._gapped):
            out[:, self._gapped] = self._neighbours(z[:, self._gapped])[1]
        return out

    def _neighbours(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codes at most and at least `z`, which are (n, gapped columns)."""
        column, last = z.T.contiguous(), self._codes.shape[1] - 1
        below = torch.searchsorted(self._codes, column, right=True).sub_(1)
        above = torch.searchsorted(self._codes, column).clamp_(max=last)
        return self._codes.gather(1, below).T, self._codes.gather(1, above).T

    def _related(self, z: Tensor) -> Tensor:
        return (z @ self.factors.T <= self.limits + self.slack).all(1)

    def describe(self, eps: float) -> dict[str, str]:
        """What a budget means at the bedside, for example `{"Glucose": "± 10 mg/dL"}`; immutable columns left out."""
        out = {}
        for (name, c), scale in zip(self.schema.columns.items(), self.scale.tolist(), strict=True):
            step = float(np.diff(c.values).min()) if len(c.values) > 1 else float(c.integer)
            reach = np.floor(eps * scale / step + 1e-6) * step if step else eps * scale
            sign = {"any": "±", "up": "+", "down": "−"}.get(c.change)
            if sign:
                out[name] = f"{sign} {reach:.3g} {c.unit}".strip() if reach else f"0 (steps of {step:g})"
        return out


class PatientReach(Reach):
    """The possible patients within a budget of some patients."""

    def __init__(self, space: PatientSpace, x: Tensor, lower: Tensor, upper: Tensor) -> None:
        super().__init__(x, lower, upper)
        self.space = space
        # one weight a cell, as broadcasting over a few columns costs more than the arithmetic
        self._whole = space._whole.to(x).expand_as(x).contiguous()
        self._odd = bool((space._below(x) != x).any())
        """Some value of `x` is itself none that rounding would give, and may stay."""

    def take(self, rows: Tensor) -> Self:
        taken = super().take(rows)
        taken._whole = self._whole[rows]
        return taken

    def snap(self, z: Tensor, inward: bool = False) -> Tensor:
        z = self._round(z, inward)
        return self._relate(z) if len(self.space.limits) else z

    def _round(self, z: Tensor, inward: bool) -> Tensor:
        rounded = self._toward(z.floor(), z.ceil(), z, self.x) if inward else z.round()
        out = z.addcmul(self._whole, rounded.sub_(z))
        gapped = self.space._gapped
        if len(gapped):
            column = z[:, gapped]
            below, above = self.space._neighbours(column)
            out[:, gapped] = (self._toward(below, above, column, self.x[:, gapped]) if inward
                              else torch.where(above - column < column - below, above, below))
        return torch.where(z == self.x, z, out).clamp_(self.lower, self.upper) if self._odd else out

    def _relate(self, z: Tensor) -> Tensor:
        """Move the columns that break a relation back towards `x`, just as far as the relation asks."""
        space, x = self.space, self.x
        for _ in range(space._passes):
            excess = z @ space.factors.T - space.limits
            broken = excess > space.slack
            if not broken.any():
                return z
            push = ((z - x)[:, None] * space.factors).clamp_(min=0)  # (n, relations, columns)
            share = torch.where(broken, 1 - excess / push.sum(2), 1.0).clamp_(0, 1)
            share = torch.where(push > 0, share[:, :, None], 1.0).amin(1)
            # rounding inwards weakens what pushes, so the relation still holds
            z = self._round(torch.where(share < 1, x + share * (z - x), z), inward=True)
        return torch.where(space._related(z)[:, None], z, x)

    @staticmethod
    def _toward(below: Tensor, above: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Of the two neighbours of `z` the one on the side of `x`, but never beyond `x`, which may lie between them."""
        return torch.where(z > x, torch.maximum(below, x), torch.minimum(above, x))
