"""A curious server rebuilds the patients of a hospital from the update that it sent.

All attacks take the update as the server sees it, whatever was done to it on the way: clipped, noised, or summed up
with those of other hospitals (secure aggregation, which to the server is one hospital that has all their rows).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from federated.attacks.attackers import FederationAttack
from federated.attacks.first_layer import label_counts, peeled
from federated.core.form import Form
from federated.task.local import Local, steps
from federated.task.task import Task
from privacy.inversion import variation
from suite.base.bounds import Count, NonNegative, Positive
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.space import Kind

Statistics = Sequence[tuple[Tensor, Tensor]]
"""Of each batch normalisation that runs: (channels,) mean and variance of what entered it."""


@dataclass(frozen=True)
class Known:
    """What an attack knows besides the task and the model; see `GradientInversion`."""

    update: np.ndarray
    labels: np.ndarray
    public: np.ndarray | None
    statistics: Statistics | None


@dataclass(frozen=True)
class GradientInversion(FederationAttack):
    """Looks for rows whose local training would send the update that was sent.

    Signed Adam descends on the cosine distance between the two updates, of all local steps of the hospital (of several
    epochs too: Dimitrov et al. 2022, arXiv 2206.12395). Length does not count, so that clipping a whole update hides
    nothing.

    Attributes:
        restarts: Searches from random points, side by side.
        iterations: Steps of each search; all are taken.
        rate: Length of the first steps, where 2 is the width of the space; it falls to 0 linearly.
    """

    restarts: Count = 1
    iterations: Count = 1000
    rate: Positive = 0.05

    dtype: ClassVar[torch.dtype] = torch.float64

    def __call__(self, task: Task, came: np.ndarray, update: np.ndarray, rows: int, labels: np.ndarray | None = None,
                 seed: int = 0, drawn: int | None = None, public: np.ndarray | None = None,
                 statistics: Statistics | None = None) -> np.ndarray:
        """Rebuild a hospital's training rows.

        Args:
            task: What it trains: the server knows the network, the learning rate, the epochs and the batch size.
            came: (d,) float32 the parameters that came in.
            update: (d,) float32, finite: what it sent, less what came in (`federated.task.local.seen`).
            rows: How many rows it has; hospitals tell that as their weight.
            labels: (rows,) int64 in the hospital's order, where known; else `label_counts` guesses how many are of each
                class, and in which order the hospital takes them is not known either.
            seed: All randomness of the attack comes from it.
            drawn: The seed of the hospital's own draws in that round (`federated.task.task.draws`), where known, as it
                is to whoever knows the task's seed; else order is drawn from `seed`, and augmentation is left out.
            public: (m, ...) other inputs of this kind, in data units, near which the search begins; without them it
                begins anywhere in the space.
            statistics: Of the hospital's rows, where it gives them away (`Local.statistics`); used for images only.

        Returns:
            (rows, ...) float32 possible inputs, in the order of `labels`; without these, in no particular order.

        Raises:
            NotApplicable: The inputs are none that this attack is made for.
            InputError: An update, labels or statistics of the wrong shape, or values that are not finite.
        """
        local = self._local(task, came, update, rows, seed, drawn)
        if public is not None and np.shape(public)[1:] != task.inputs:
            raise InputError(f"public inputs: needs the shape {task.inputs} each, got {np.shape(public)[1:]}")
        if labels is None:
            labels = np.repeat(np.arange(len(task.classes)), label_counts(task, came, update, rows, public, seed))
        if np.shape(labels) != (rows,) or not np.isin(labels, range(len(task.classes))).all():
            raise InputError(f"labels: needs {rows} classes from 0 to {len(task.classes) - 1}, got "
                             f"{np.array2string(np.asarray(labels), threshold=5)}")
        known = Known(np.asarray(update, np.float64), np.asarray(labels, np.int64), public, statistics)
        found = self._rebuild(local, known, torch_generator(seed))
        return found.cpu().numpy().astype(np.float32)

    def _local(self, task: Task, came: np.ndarray, update: np.ndarray, rows: int, seed: int,
               drawn: int | None) -> Local:
        if not task.space.suits(self.inputs):
            raise NotApplicable(f"{type(self).__name__} is for {self.inputs}s, and the inputs of this task are "
                                f"{task.space.kind}s")
        for what, vector in (("model", came), ("update", update)):
            if np.shape(vector) != (task.size,):
                raise InputError(f"{what}: needs {task.size} parameters, got the shape {np.shape(vector)}")
            if not np.isfinite(vector).all():
                raise InputError(f"{what}: holds a value that is not finite")
        if rows < 1:
            raise InputError(f"rows must be at least 1, got {rows}")
        return Local(task, came, seed if drawn is None else drawn, drawn is not None, self.dtype)

    @abstractmethod
    def _rebuild(self, local: Local, known: Known, generator: torch.Generator) -> Tensor:
        """As `__call__`, of arguments that are what they should be."""

    def _search(self, z: list[Tensor], objective: Callable[[list[Tensor]], Tensor],
                hold: Callable[[list[Tensor]], None]) -> None:
        """Move points, in place, to where (k,) objectives are low, each of the k searches by itself."""
        for part in z:
            part.requires_grad_()
        adam = torch.optim.Adam(z, self.rate)
        falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, self.iterations)
        for _ in range(self.iterations):
            for part, slope in zip(z, torch.autograd.grad(objective(z).sum(), z), strict=True):
                part.grad = slope.sign()
            adam.step()
            falling.step()
            with torch.no_grad():
                hold(z)
        for part in z:
            part.requires_grad_(False)


def mismatch(local: Local, target: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(k,) from 0 to 2: cosine distance of (d,) `target` from what hospitals with rows `x` would send (`Local`)."""
    return 1 - torch.cosine_similarity(local.updates(x, y), target[None], dim=1)


@dataclass(frozen=True)
class TabLeak(GradientInversion):
    """Rebuilds rows of a table: columns of codes as softmaxes, and an ensemble of searches that are pooled.

    Rows that follow from the first layer without a search (`peeled`, one local step only) are taken as they are, and
    the search is for the others. The reconstructions of all searches are assigned to those of the best one; the pool
    takes the median of each number and the code with the largest mean weight. Of the pool and the best search, both
    rounded to possible values, what matches the update better is returned.
    """

    info: ClassVar[Info] = Info(
        "TabLeak", "Vero et al. 2023, arXiv 2210.01785", "white-box", ("reconstruction",),
        "iterations x restarts simulations of the hospital's training, twice differentiated",
        "codes are numbers to our networks, so the softmax weighs codes in place of one-hot columns; rows that follow "
        "from the first layer are taken first; all local steps are simulated; no entropy of the ensemble is told",
        strong=True, strong_from=("iterations", 100))
    inputs: ClassVar[Kind] = "table"
    restarts: Count = 8

    def _rebuild(self, local: Local, known: Known, generator: torch.Generator) -> Tensor:
        form, device = Form(local.task.space, local.task.inputs), local.task.device
        y, told = known.labels, self._told(local, known)
        free = torch.tensor([i for i in range(len(y)) if i not in told], dtype=torch.int64, device=device)
        rows = torch.zeros((len(y), *local.task.inputs), dtype=self.dtype, device=device)
        for i, row in told.items():
            rows[i] = row
        if not len(free):
            return form.rounded(rows)
        labels, target = torch.from_numpy(y).to(device), torch.from_numpy(known.update).to(device)

        def whole(found: Tensor) -> Tensor:
            return rows.expand(len(found), *rows.shape).index_copy(1, free, found)

        z = [part.to(device) for part in self._start(form, len(free), known.public, generator)]
        self._search(z, lambda z: mismatch(local, target, whole(form.points(z)), labels), form.hold)
        found = form.points(z)
        best = int(mismatch(local, target, whole(found), labels).argmin())
        choices = torch.stack([form.rounded(x) for x in (found[best], self._pooled(form, z, best))])
        return whole(choices)[mismatch(local, target, whole(choices), labels).argmin()]

    def _start(self, form: Form, n: int, public: np.ndarray | None, generator: torch.Generator) -> list[Tensor]:
        """Each search begins with other public rows."""
        if public is None:
            return form.start(self.restarts, n, generator)
        drawn = torch.randint(len(public), (self.restarts, n), generator=generator)
        return form.near(torch.from_numpy(public)[drawn])

    @staticmethod
    def _told(local: Local, known: Known) -> dict[int, Tensor]:
        """Position -> row of what needs no search; a label that no position is left for stands at any other."""
        y = known.labels
        told = peeled(local, known.update, y) if steps(local.task, len(y)) == 1 else []
        out: dict[int, Tensor] = {}
        for row, label in sorted(told, key=lambda t: t[1]):
            left = [i for i in range(len(y)) if i not in out]
            out[next((i for i in left if y[i] == label), left[-1])] = row
        return out

    @staticmethod
    def _pooled(form: Form, z: list[Tensor], best: int) -> Tensor:
        """(n, columns) what the searches agree on, of points (k, n, ...)."""
        x = form.points(z) / form.space.scale.to(z[0])
        order = torch.stack([torch.from_numpy(linear_sum_assignment(torch.cdist(x[best], one, 1).cpu().numpy())[1])
                             for one in x]).to(x.device)
        same = [part.gather(1, order[:, :, None].expand_as(part)) for part in z]
        middle = same[0].quantile(0.5, dim=0, keepdim=True)
        # a logarithm of the mean weight, whose softmax is the mean weight; made sharp, as a mean of codes is none
        weights = [part.softmax(2).mean(0, keepdim=True).log() for part in same[1:]]
        return form.points([middle, *(100 * w for w in weights)])[0]


@dataclass(frozen=True)
class InvertingGradients(GradientInversion):
    """Rebuilds images: the cosine distance, and a prior that images are smooth.

    It begins near the mean of public images, which is what it takes to be right with few iterations.

    Where the statistics of what entered batch normalisation are known (they travel with the running averages of
    networks that keep it; `Task` replaces it, so that its federations have none), rows must have these too, as in
    GradInversion (Yin et al. 2021, arXiv 2104.07586), of one local step.

    Attributes:
        tv: Weight of the total variation (`privacy.inversion.variation`), not negative.
        normalisation: Weight of the statistics' distance, not negative.
    """

    info: ClassVar[Info] = Info(
        "Inverting gradients", "Geiping et al. 2020, arXiv 2003.14053", "white-box", ("reconstruction",),
        "iterations x restarts simulations of the hospital's training, twice differentiated",
        "begins near a public mean in place of noise, for far fewer iterations; a rate that falls linearly; all local "
        "steps are simulated, with momentum", strong=True, strong_from=("iterations", 100))
    inputs: ClassVar[Kind] = "image"
    iterations: Count = 300
    tv: NonNegative = 0.003
    normalisation: NonNegative = 0.01

    dtype: ClassVar[torch.dtype] = torch.float32

    def __post_init__(self) -> None:
        for name in ("tv", "normalisation"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"InvertingGradients: {name} must be 0 or more, and finite, got "
                                 f"{getattr(self, name)!r}")

    def _rebuild(self, local: Local, known: Known, generator: torch.Generator) -> Tensor:
        form, device = Form(local.task.space, local.task.inputs), local.task.device
        labels, n = torch.from_numpy(known.labels).to(device), len(known.labels)
        target = torch.from_numpy(known.update).to(device, self.dtype)

        def objective(z: list[Tensor]) -> Tensor:
            x = form.points(z)
            value = mismatch(local, target, x, labels)
            value = value + self.tv * variation(x.flatten(0, 1)).view(x.shape[:2]).mean(1)
            return (value if known.statistics is None
                    else value + self.normalisation * local.far(x, known.statistics))

        (z,) = form.start(self.restarts, n, generator)
        if known.public is not None:
            (middle,) = form.near(torch.from_numpy(known.public.mean(0)))
            z = (middle + 0.1 * z).clamp(-1, 1)
        z = [z.to(device, self.dtype)]
        self._search(z, objective, form.hold)
        return form.rounded(form.points(z)[objective(z).argmin()])
