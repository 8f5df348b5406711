"""What a gradient gives away without any search: whole rows, by the first layer, and labels, by the last bias."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from federated.form import Form
from federated.local import Local, gradient
from federated.task import Task
from suite.errors import InputError
from suite.seeding import torch_generator

CLOSE = 1e-2
"""Relative error up to which the gradient of a candidate row counts as that of a unit."""


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

    Args:
        local: A hospital's training of one local step.
        update: (d,) what it sent.
        y: (n,) labels as far as they are known; only class weights are taken from them.

    Returns:
        (row, label) of at most n rows, (columns,) float64 in data units; empty where the network does not begin with a
        linear layer with a bias.
    """
    shapes = [p.shape for p in local.network.parameters()][:2]
    if len(local.task.inputs) != 1 or len(shapes) < 2 or shapes[1] != shapes[0][:1]:
        return []
    weights, costs = gradient(local.task, local.came, update, len(y)), local.costs(torch.from_numpy(y))
    left = len(y) * torch.from_numpy(weights).to(costs)
    # what a number may be wrong by that was the difference of two float32
    unsure = len(y) * 2.0**-23 * float(np.abs(local.came).max()) / local.task.lr
    found: list[tuple[Tensor, int]] = []
    while len(found) < len(y) and (told := _told(local, _units(left, shapes[0]), costs, unsure)):
        found.append(told[:2])
        left = left - told[2]
    return found


def _units(slope: Tensor, shape: torch.Size) -> Tensor:
    """(..., units, columns + 1): of (..., d) gradients that of the first layer, each unit's bias last."""
    size = shape.numel()
    weight, bias = slope[..., :size], slope[..., size:size + shape[0]]
    return torch.cat([weight.unflatten(-1, shape), bias[..., None]], -1)


def _told(local: Local, units: Tensor, costs: Tensor, unsure: float) -> tuple[Tensor, int, Tensor] | None:
    """The row and label whose gradient is most nearly that of a unit, and all of its gradient; None if none is near."""
    form = Form(local.task.space, local.task.inputs)
    numbers = (units[:, -1].abs() > 30 * unsure).nonzero().ravel()
    rows = local.data_units(units[numbers, :-1] / units[numbers, -1:])
    near = form.rounded(rows)
    fits = ((rows - near).abs() <= CLOSE * local.task.space.scale).all(1)
    numbers, rows = numbers[fits], near[fits]
    if not len(rows):
        return None
    slopes = torch.stack([local.slopes(rows, label) * cost for label, cost in enumerate(costs)])
    own = _units(slopes, torch.Size((len(units), units.shape[1] - 1)))[:, torch.arange(len(rows)), numbers]
    off = (own - units[numbers]).norm(dim=2) / (CLOSE * units[numbers].norm(dim=1) + 3 * unsure)
    label, which = divmod(int(off.argmin()), len(rows))
    return (rows[which], label, slopes[label, which]) if off[label, which] <= 1 else None
