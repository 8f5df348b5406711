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
from pathlib import Path
from typing import Literal, Self

import numpy as np
import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from suite.errors import InputError
from suite.space import Reach, Space


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
        cost: Relative cost of changing it by one `scale`, for cost-aware reports; positive.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    unit: str = ""
    min: float
    max: float
    scale: float | None = Field(default=None, gt=0)
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
    terms: dict[str, float]
    max: float


class Schema(BaseModel):
    """The columns of a table, in order, and the relations between them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: dict[str, Column]
    relations: tuple[Relation, ...] = ()

    @model_validator(mode="after")
    def _known_columns(self) -> Schema:
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
        except FileNotFoundError:
            raise InputError(f"schema {path}: no such file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise InputError(f"schema {path}: not TOML: {e}") from None
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"schema {path}: {where + ': ' if where else ''}{first['msg']}") from None

    def save(self, path: Path) -> None:
        """Write the TOML file that `load` reads, leaving out what is at its default."""
        Path(path).write_text(tomli_w.dumps(self.model_dump(exclude_defaults=True, mode="json")), encoding="utf-8")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def space(self) -> PatientSpace:
        """The possible patients, for attacks."""
        return PatientSpace(self)


class PatientSpace(Space):
    """The possible patients of a schema, as a space for attacks: inputs are (n, columns) float32.

    Attributes:
        schema: Where it came from.
        integer, frozen, up, down: (columns,) bool.
        values: Column index -> sorted float32 codes the column may take.
        factors, limits: (relations, columns) and (relations,): every patient has `factors @ x <= limits`.
    """

    tolerance = 1e-4
    """Slack of relations, relative to the size of the limit: float32 sums are not exact."""

    def __init__(self, schema: Schema) -> None:
        columns = list(schema.columns.values())
        super().__init__(torch.tensor([c.min for c in columns]), torch.tensor([c.max for c in columns]),
                         torch.tensor([c.scale or c.max - c.min for c in columns]))
        self.schema = schema
        self.integer = torch.tensor([c.integer for c in columns])
        self.frozen = torch.tensor([c.change == "never" for c in columns])
        self.up = torch.tensor([c.change == "up" for c in columns])
        self.down = torch.tensor([c.change == "down" for c in columns])
        self.values = {i: torch.tensor(c.values) for i, c in enumerate(columns) if c.values}
        # Codes without gaps are whole numbers between their limits, and cheaper to round as such.
        even = {i for i, codes in self.values.items() if (codes == codes[0].round() + torch.arange(len(codes))).all()}
        self._whole = torch.tensor([i in even or (c.integer and not c.values) for i, c in enumerate(columns)])
        self._gapped = sorted(self.values.keys() - even)
        self.factors = torch.tensor([[r.terms.get(name, 0.0) for name in schema.columns] for r in schema.relations]
                                    ).reshape(len(schema.relations), len(columns))
        self.limits = torch.tensor([r.max for r in schema.relations])
        # A relation may be broken by a patient's immutable columns alone, so only the others are ever moved for it.
        self._movable = self.factors * (~self.frozen)

    def ball(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        lower, upper = super().ball(x, eps)
        lower = torch.where(self.frozen | self.up, x, lower)
        upper = torch.where(self.frozen | self.down, x, upper)
        whole = self.integer & ~self.frozen
        lower = torch.where(whole, (lower - 1e-4).ceil(), lower)
        upper = torch.where(whole, (upper + 1e-4).floor(), upper)
        for i, codes in self.values.items():
            codes = codes.to(x.device)
            last = len(codes) - 1
            lower[:, i] = codes[torch.searchsorted(codes, lower[:, i].contiguous() - 1e-4).clamp(max=last)]
            below = torch.searchsorted(codes, upper[:, i].contiguous() + 1e-4, right=True) - 1
            upper[:, i] = codes[below.clamp(min=0)]
        # x itself is always possible, whatever rounding did
        return torch.minimum(lower, x), torch.maximum(upper, x)

    def reach(self, x: Tensor, eps: float) -> Reach:
        return PatientReach(self, x, *self.ball(x, eps))

    def snap(self, z: Tensor, x: Tensor, inward: bool = False) -> Tensor:
        reach = self.reach(x, float("inf"))
        return reach.snap(torch.clamp(z, reach.lower, reach.upper), inward)

    def _relate(self, z: Tensor, x: Tensor) -> Tensor:
        """Move the columns of each broken relation back towards `x`, just as far as the relation asks."""
        for factors, limit, movable in zip(self.factors, self.limits, self._movable, strict=True):
            before, after = x @ factors, z @ factors
            share = ((limit - before) / (after - before)).clamp(0, 1)
            share = torch.where(after > limit, share.nan_to_num(0.0), torch.ones_like(share))
            z = torch.where(movable != 0, x + share[:, None] * (z - x), z)
        return z

    def _accept(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.where(self._related(z)[:, None], z, x)

    def _related(self, z: Tensor) -> Tensor:
        slack = self.tolerance * (1 + self.limits.abs())
        return (z @ self.factors.T <= self.limits + slack).all(1)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        lower, upper = self.ball(x, float("inf"))
        inside = ((z >= lower) & (z <= upper)).all(1)
        inside &= ((z == z.round()) | ~self.integer | (z == x)).all(1)
        for i, codes in self.values.items():
            inside &= torch.isin(z[:, i], codes.to(z.device)) | (z[:, i] == x[:, i])
        return inside & self._related(z) if len(self.limits) else inside

    def possible(self, x: Tensor) -> Tensor:
        inside = super().possible(x) & ((x == x.round()) | ~self.integer).all(1)
        for i, codes in self.values.items():
            inside &= torch.isin(x[:, i], codes.to(x.device))
        return inside & self._related(x)

    def describe(self, eps: float) -> dict[str, str]:
        """What a budget means at the bedside, for example `{"Glucose": "± 10 mg/dL"}`; immutable columns left out."""
        out = {}
        for (name, c), scale in zip(self.schema.columns.items(), self.scale.tolist(), strict=True):
            reach = np.floor(eps * scale + 1e-6) if c.integer else eps * scale
            sign = {"any": "±", "up": "+", "down": "−"}.get(c.change)
            if sign:
                out[name] = f"{sign} {reach:.3g} {c.unit}".strip()
        return out


class PatientReach(Reach):
    """The possible patients within a budget of some patients."""

    def __init__(self, space: PatientSpace, x: Tensor, lower: Tensor, upper: Tensor) -> None:
        super().__init__(x, lower, upper)
        self.space, self._relations = space, len(space.limits) > 0
        # one weight a cell, as broadcasting over a few columns costs more than the arithmetic
        self._whole = space._whole.to(x).expand_as(x).contiguous()

    def take(self, rows: Tensor) -> Self:
        taken = super().take(rows)
        taken._whole = self._whole[:len(taken.x)]
        return taken

    def snap(self, z: Tensor, inward: bool = False) -> Tensor:
        if self._relations:
            z = self._round(self.space._relate(z, self.x), inward=True)
            return self.space._accept(z.clamp_(self.lower, self.upper), self.x)
        return self._round(z, inward).clamp_(self.lower, self.upper)

    def _round(self, z: Tensor, inward: bool) -> Tensor:
        rounded = self._toward(z.floor(), z.ceil(), z, self.x) if inward else z.round()
        out = z.addcmul(self._whole, rounded.sub_(z))
        for i in self.space._gapped:
            out[:, i] = self._code(self.space.values[i].to(z.device), z[:, i].contiguous(), self.x[:, i], inward)
        return out

    def _code(self, codes: Tensor, z: Tensor, x: Tensor, inward: bool) -> Tensor:
        if not inward:
            return codes[torch.bucketize(z, (codes[1:] + codes[:-1]) / 2)]
        below = (torch.bucketize(z, codes, right=True) - 1).clamp(min=0)
        above = torch.bucketize(z, codes).clamp(max=len(codes) - 1)
        return self._toward(codes[below], codes[above], z, x)

    @staticmethod
    def _toward(below: Tensor, above: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Of the two neighbours of `z` the one on the side of `x`, but never beyond `x`, which may lie between them."""
        return torch.where(z > x, torch.maximum(below, x), torch.minimum(above, x))
