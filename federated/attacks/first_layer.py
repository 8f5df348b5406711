"""What a gradient gives away without any search: whole rows, by the first layer, and labels, by the last bias."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from federated.core.form import Form
from federated.task.local import Local, gradient
from federated.task.task import Task
from suite.base.errors import InputError
from suite.base.seeding import torch_generator

CLOSE = 1e-3
"""Relative error up to which the gradient of a candidate row counts as that of a unit."""
SNAP = 1e-3
"""How far a quotient may be from a possible row, in units of scale, besides what rounding explains."""


def label_counts(task: Task, came: np.ndarray, update: np.ndarray, rows: int, public: np.ndarray | None = None,
                 seed: int = 0) -> np.ndarray:
    """How many rows of each class a hospital has, from the gradient of the last bias.

    That of class c is the mean over rows of p_c - [label is c], so the count is `rows` times what it lacks of the mean
    probability. For one row the label is the one with a negative gradient, whatever the probabilities (iDLG: Zhao,
    Mopuri and Bilen 2020, arXiv 2001.02610); for more the probabilities are those of stand-ins, at the model before and
    after (Geng et al. 2021, arXiv 2110.09074), so that counts are estimates. A task that balances classes hides them:
    its gradient is that of evenly many rows of each class present, and so is the answer.

    Args:
        task: What the hospital trains; the last parameters of its network are the bias of the last layer.
        came: (d,) the parameters that came in.
        update: (d,) what it sent.
        rows: How many rows it has, at least 1.
        public: (m, ...) inputs like the hospital's, in data units; drawn evenly in the space where there are none.
        seed: Of that draw.

    Returns:
        (classes,) int64 that sum up to `rows`.

    Raises:
        InputError: The last parameters are no such bias.
    """
    classes = len(task.classes)
    if [*task.network()[0].parameters()][-1].shape != (classes,):
        raise InputError("label_counts: the last parameters of the network are no bias of one number a class")
    slope = gradient(task, came, update, rows)[-classes:]
    if rows == 1:
        return (np.arange(classes) == slope.argmin()).astype(np.int64)
    if public is None:
        space, drawn = task.space, torch.rand((256, *task.inputs), generator=torch_generator(seed))
        public = (space.lower + drawn * (space.upper - space.lower)).numpy()
    expected = np.mean([task.classifier(w).predict_proba(public).mean(0) for w in (came, came + update)], 0)
    share = (expected - slope).clip(0)
    return _whole(rows * share / max(share.sum(), 1e-12), rows)


def _whole(wanted: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near to `wanted` that sum up to `total`: the largest remainders are rounded up."""
    counts = np.floor(wanted).astype(np.int64)
    counts[np.argsort(counts - wanted, kind="stable")[:total - counts.sum()]] += 1
    return counts


def peeled(local: Local, update: np.ndarray, y: np.ndarray) -> list[tuple[Tensor, int]]:
    """Rows that follow from the update of one local step without any search, one after the other.

    In the gradient of the first layer, a unit that one row alone activates holds this row: its weights' over its bias'
    (Phong et al. 2018, doi 10.1109/TIFS.2017.2787987). Whether a quotient is such a row needs no guess: the gradient of
    a row and a label can be computed, and either is that of the unit or is not. What is found is taken off the
    gradient, and then another unit may belong to one of the other rows alone.

    Where nothing is found the update may have been clipped: then it is tried at the lengths that would make one of the
    quotients a row, and believed where another row follows from it.

    Args:
        local: A hospital's training of one local step.
        update: (d,) what it sent.
        y: (n,) labels as far as they are known; only class weights are taken from them.

    Returns:
        (row, label) of at most n rows, (columns,) float64 in data units; empty where the network does not begin with a
        linear layer with a bias.
    """
    shapes = [p.shape for p in local.network.parameters()][:2]
    if len(local.task.inputs) != 1 or len(shapes) < 2 or shapes[1] != shapes[0][:1] or not np.any(update):
        return []
    layer = _Layer(local, shapes[0], local.costs(torch.from_numpy(y)), len(y))
    found = layer.peel(update)
    if not found:
        for length in layer.lengths(update):
            found = max(found, layer.peel(update / length), key=len)
            if len(found) == len(y):
                break
        found = found if len(found) > 1 or len(y) == 1 else []
    return found


@dataclass(frozen=True)
class _Layer:
    """The first layer of a network, of (units, columns) weights, at a hospital of n rows."""

    local: Local
    shape: torch.Size
    costs: Tensor
    n: int

    def peel(self, update: np.ndarray) -> list[tuple[Tensor, int]]:
        left, found = self._sum(update), []
        while len(found) < self.n and (told := self._told(left)):
            found.append(told[:2])
            left = left - told[2]
        return found

    def lengths(self, update: np.ndarray) -> Iterator[float]:
        """By how much less than 1 the update would have been multiplied if one quotient or another were a row.

        Weight decay, which is part of the update and must be taken off at its true length, is why lengths are looked
        for near coarse ones first, down to a hundredth, and then once more.
        """
        for coarse in 0.9 ** np.arange(44):
            for near in self._ratios(update / coarse, 0.06):
                for exact in self._ratios(update / (coarse * near), 0.01):
                    yield float(coarse * near * exact)

    def _ratios(self, update: np.ndarray, apart: float) -> list[float]:
        """Lengths of units over those that they would have if their quotients were rows, so far from 1 at most."""
        _, _, own, units = self._candidates(self._sum(update))
        ratios = units.norm(dim=1) / own.norm(dim=2)
        ratios = ratios[((own * units).sum(2) > 0) & ((ratios - 1).abs() <= apart)].sort().values
        return [float(r) for i, r in enumerate(ratios) if not i or r - ratios[i - 1] > 0.1 * CLOSE]

    @property
    def _unsure(self) -> float:
        """What a number may be wrong by that was the difference of two float32."""
        return self.n * 2.0**-23 * float(np.abs(self.local.came).max()) / self.local.task.lr

    def _sum(self, update: np.ndarray) -> Tensor:
        """(d,) the sum of the gradients of all rows."""
        mean = gradient(self.local.task, self.local.came, update, self.n)
        return self.n * torch.from_numpy(mean).to(self.costs)

    def _units(self, slope: Tensor) -> Tensor:
        """(..., units, columns + 1): of (..., d) gradients that of the first layer, each unit's bias last."""
        size = self.shape.numel()
        weight, bias = slope[..., :size], slope[..., size:size + self.shape[0]]
        return torch.cat([weight.unflatten(-1, self.shape), bias[..., None]], -1)

    def _candidates(self, left: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of m quotients that are nearly possible rows: these, (m, columns); the gradients they would have with each
        label, (labels, m, d), and those of their own unit, (labels, m, columns + 1); and what these are, (m, ...)."""
        local, units = self.local, self._units(left)
        numbers = (units[:, -1].abs() > 30 * self._unsure).nonzero().ravel()
        rows = local.data_units(units[numbers, :-1] / units[numbers, -1:])
        near = Form(local.task.space, local.task.inputs).rounded(rows)
        blur = SNAP + 2 * self._unsure / units[numbers, -1:].abs()
        fits = ((rows - near).abs() <= blur * local.task.space.scale).all(1)
        numbers, rows = numbers[fits], near[fits]
        slopes = torch.stack([local.slopes(rows, label) * cost for label, cost in enumerate(self.costs)])
        own = self._units(slopes)[:, torch.arange(len(rows)), numbers]
        return rows, slopes, own, units[numbers]

    def _told(self, left: Tensor) -> tuple[Tensor, int, Tensor] | None:
        """The row and label whose gradient is most nearly that of a unit, and all of its gradient; None if none is."""
        rows, slopes, own, units = self._candidates(left)
        if not len(rows):
            return None
        off = (own - units).norm(dim=2) / (CLOSE * units.norm(dim=1) + 3 * self._unsure)
        label, which = divmod(int(off.argmin()), len(rows))
        return (rows[which], label, slopes[label, which]) if off[label, which] <= 1 else None
