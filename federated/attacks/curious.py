"""A curious server: it follows the protocol, keeps what passes by, and asks whose patients the updates came from.

An update holds the gradients of the rows that made it, which tells more of them than the model's answers do. The server
knows how hospitals train (`federated.task.task`), what it sent out and what came back; of the patients it has
candidates, rows with their labels, and wants to know who of them was treated at a hospital.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Message
from scipy.special import log_ndtr
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from federated.attacks.attackers import FederationAttack
from federated.core.stacked import dots, gram, norms
from federated.flower.client_app import COUNT, WEIGHTS
from federated.flower.grid import FIRST, Tamper
from federated.task.task import Task
from suite.base.bounds import Fraction, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.data import Split
from suite.training.loop import tensors

TINY = 1e-30
"""Divides in place of a length of 0."""
DRIFT = (0.5, 1.0)
"""How far along an update the mean gradients of the classes, which change as a hospital trains, are looked at again."""


@dataclass(frozen=True)
class View:
    """What a server has seen of rounds in which anybody answered.

    Attributes:
        came: (rounds, d) float32 parameters that it sent out.
        sent: (rounds, hospitals, d) float32 changes of the parameters that it received; NaN where none came.
        counts: (rounds, hospitals) int64 rows that the hospitals said they have; 0 where no update came.
    """

    came: np.ndarray
    sent: np.ndarray
    counts: np.ndarray

    def __post_init__(self) -> None:
        turns, hospitals, d = self.sent.shape
        if self.came.shape != (turns, d) or self.counts.shape != (turns, hospitals):
            raise InputError(f"a view of {turns} rounds, {hospitals} hospitals and {d} parameters has parameters of "
                             f"shape {self.came.shape} and counts of shape {self.counts.shape}")

    def summed(self) -> View:
        """What is seen under secure aggregation: one hospital, whose update is the mean of all by their counts."""
        shares = self.counts / self.counts.sum(1, keepdims=True)
        total = [np.einsum("h,hd->d", share, np.nan_to_num(sent, nan=0.0), dtype=np.float64).astype(np.float32)
                 for share, sent in zip(shares, self.sent, strict=True)]
        return View(self.came, np.stack(total)[:, None], self.counts.sum(1, keepdims=True))

    def answered(self, hospital: int) -> np.ndarray:
        """(r,) int64: the rounds, from 0 up, in which an update of a hospital came.

        Raises:
            InputError: There is no such hospital, or none came.
        """
        if not 0 <= hospital < self.counts.shape[1]:
            raise InputError(f"hospital {hospital}: the server has seen hospitals 0 to {self.counts.shape[1] - 1}")
        found = np.flatnonzero(self.counts[:, hospital])
        if not len(found):
            raise InputError(f"hospital {hospital}: the server has seen no update of it")
        return found


@dataclass
class Watch:
    """Keeps what passes by: what `federated.flower.grid.Border` takes as `tamper`, though it changes nothing itself.

    Updates that the border will refuse, as they are not finite or of another shape, count as none.

    Attributes:
        hospitals: How many there are.
        tamper: What hostile hospitals do before the server sees it.
    """

    hospitals: int
    tamper: Tamper | None = None
    _came: list[np.ndarray] = field(default_factory=list, repr=False)
    _sent: list[np.ndarray] = field(default_factory=list, repr=False)
    _counts: list[np.ndarray] = field(default_factory=list, repr=False)

    def __call__(self, turn: int, came: np.ndarray, replies: list[Message]) -> list[Message]:
        if self.tamper:
            replies = self.tamper(turn, came, replies)
        sent, counts = np.full((self.hospitals, len(came)), np.nan, np.float32), np.zeros(self.hospitals, np.int64)
        for reply in replies:
            number, weights = reply.metadata.src_node_id - FIRST, reply.content["arrays"][WEIGHTS].numpy()
            if weights.shape == came.shape and np.isfinite(weights).all():
                sent[number], counts[number] = weights - came, reply.content["metrics"][COUNT]
        for kept, new in ((self._came, np.array(came)), (self._sent, sent), (self._counts, counts)):
            kept.append(new)
        return replies

    @property
    def view(self) -> View:
        """What was seen so far.

        Raises:
            InputError: Nothing was.
        """
        if not self._came:
            raise InputError("the server has seen no round")
        return View(np.stack(self._came), np.stack(self._sent), np.stack(self._counts))


@dataclass(frozen=True)
class UpdateMembership(FederationAttack):
    """Base of attacks that tell a hospital's training patients from others by its updates."""

    def __call__(self, view: View, task: Task, rows: Split, hospital: int) -> np.ndarray:
        """Score candidates.

        Args:
            view: What the server has seen.
            task: What the hospitals train.
            rows: n candidates, with their labels.
            hospital: Whose patients are looked for, from 0 up; 0 of a view that is `summed`.

        Returns:
            (n,) float64 scores: higher means more likely one of the hospital's training rows.

        Raises:
            InputError: No candidates, a hospital of which nothing was seen, or updates of another network.
        """
        if not len(rows):
            raise InputError("there are no candidates to look for")
        if view.came.shape[1] != task.size:
            raise InputError(f"the updates have {view.came.shape[1]} parameters and the task's network {task.size}")
        return self._score(view, task, rows, hospital, view.answered(hospital))

    @abstractmethod
    def _score(self, view: View, task: Task, rows: Split, hospital: int, turns: np.ndarray) -> np.ndarray:
        """As `__call__`, of the (r,) rounds in which the hospital's update came."""


@dataclass(frozen=True)
class FedMIA(UpdateMembership):
    """How much better a row fits the hospital's update than those of the others, who surely do not have it.

    Of each round, the row's signal at the hospital is put as a quantile of a normal distribution, of the mean and the
    spread that it has at the others; their logarithms are summed. Where there are not two others to have a spread, as
    under secure aggregation, the signals themselves are summed (Li, Li and Ribeiro 2023, ICLR).

    Attributes:
        signal: "cosine", of the update with the step against the row's gradient; or "loss", which is small at the
            hospital's own model.
    """

    info: ClassVar[Info] = Info(
        "FedMIA", "Zhu et al. 2025, arXiv 2402.06289", "white-box", ("membership",),
        "a gradient of each row a round, or a query a hospital and round",
        "a row's spread is the root of the mean variance of all rows, as a few hospitals have none of its own",
        strong=True)
    signal: Literal["cosine", "loss"] = "cosine"

    def _score(self, view: View, task: Task, rows: Split, hospital: int, turns: np.ndarray) -> np.ndarray:
        signals = [self._signals(view, task, rows, turn) for turn in turns]
        own = np.array([s[hospital] for s in signals])
        others = np.array([np.delete(s, hospital, 0) for s in signals])
        compared = (view.counts[turns] > 0).sum(1) > 2
        if not compared.any():
            return own.sum(0)
        own, others = own[compared], others[compared]
        spread = np.sqrt(np.nanvar(others, 1, ddof=1).mean(1, keepdims=True))
        return log_ndtr((own - np.nanmean(others, 1)) / (spread + TINY)).sum(0)

    def _signals(self, view: View, task: Task, rows: Split, turn: int) -> np.ndarray:
        """(hospitals, n) float64 signals of a round, NaN of hospitals that were absent."""
        came, updates = view.came[turn], torch.from_numpy(view.sent[turn])
        out = np.full((len(updates), len(rows)), np.nan)
        there = np.flatnonzero(view.counts[turn])
        if self.signal == "loss":
            for k in there:
                out[k] = -_losses(task, came + view.sent[turn, k], rows)
            return out
        gradients = row_gradients(task, came, rows)
        lengths = norms(gradients)
        for k in there:
            products = (lengths * norms(updates[k:k + 1])).clamp_min(TINY)
            out[k] = (-dots(gradients, updates[k]) / products).numpy()
        return out


@dataclass(frozen=True)
class Decomposition(UpdateMembership):
    """How much of each row's gradient is in the hospital's updates, all rows and rounds solved for at once.

    An update is about a sum of steps against the gradients of the hospital's rows, each row as often in one round as in
    another. The score is the row's share in that sum, by a ridge regression of the updates of all rounds on the
    gradients of all candidates. First each round is rid of weight decay, and of what rows of a class have in common,
    their mean gradient along the update: it is most of the update and tells nothing of any of them.

    The more of the hospital's rows are among the candidates, the more is told apart: the others are noise, so a
    choice of candidates understates what it can do. Under secure aggregation the candidates of all hospitals belong
    together. Larger local batches, which hide rows from gradient inversion, help it: few steps are more nearly such a
    sum than many.

    Attributes:
        ridge: Penalty, as a share of the mean squared length of what is left of a gradient; positive.
        along: Where gradients are taken: at what the server sent (0), or that far along the update (up to 1).
    """

    info: ClassVar[Info] = Info(
        "Update decomposition", "after Li, Li and Ribeiro 2023, ICLR (openreview QsCSLPP55Ku)", "white-box",
        ("membership",), "a gradient of each row a round, and a linear system of as many unknowns as rows",
        "all rows together by ridge regression, where the paper holds one row's gradient against the update",
        strong=True)
    ridge: Positive = 0.03
    along: Fraction = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.ridge < math.inf:
            raise InputError(f"Decomposition: ridge must be positive, got {self.ridge!r}")
        if not 0 <= self.along <= 1:
            raise InputError(f"Decomposition: along must lie between 0 and 1, got {self.along!r}")

    def _score(self, view: View, task: Task, rows: Split, hospital: int, turns: np.ndarray) -> np.ndarray:
        products, fits = np.zeros((len(rows), len(rows))), np.zeros(len(rows))
        for turn in turns:
            gradients, update = self._own_parts(task, view.came[turn], view.sent[turn, hospital], rows)
            # what gradients do not explain grows with the step, so rounds of small ones are worth more
            worth = 1 / max(float(update.double().square().sum()), TINY)
            products += worth * gram(gradients).numpy()
            fits -= worth * dots(gradients, update).numpy()
        products[np.diag_indices(len(rows))] += max(self.ridge * np.trace(products) / len(rows), TINY)
        return np.linalg.solve(products, fits)

    def _own_parts(self, task: Task, came: np.ndarray, update: np.ndarray, rows: Split) -> tuple[Tensor, Tensor]:
        """(n, d) gradients and the (d,) update, both without what rows of a class have in common, and weight decay."""
        at = [came + np.float32(share) * update for share in (self.along, *DRIFT)]
        common = torch.cat([torch.from_numpy(came)[None], *(_class_gradients(task, weights, rows) for weights in at)])
        _, sizes, basis = torch.linalg.svd(F.normalize(common.double(), eps=TINY), full_matrices=False)
        basis = basis[sizes > 1e-6 * sizes[0]].float()
        gradients, update = row_gradients(task, at[0], rows), torch.from_numpy(update)
        gradients.addmm_(gradients @ basis.T, basis, alpha=-1)  # in place: there is no room for them twice
        return gradients, update - update @ basis.T @ basis


def row_gradients(task: Task, weights: np.ndarray, rows: Split) -> Tensor:
    """(n, d) float32 gradients of the cross entropy of each row by (d,) parameters, in evaluation mode.

    All are in memory at once, n x d numbers, and once only.
    """
    module = task.classifier(weights).module
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, (parameters, buffers), (x[None],)), y[None])

    each, detached = vmap(grad(loss), in_dims=(None, 0, 0)), {name: p.detach() for name, p in parameters.items()}
    out = torch.empty(len(rows), task.size)
    for part, x, y in zip(out.split(64), *(whole.split(64) for whole in tensors(rows, task.device)), strict=True):
        found = each(detached, x, y)
        part.copy_(torch.cat([found[name].flatten(1) for name in parameters], 1))
    return out


def _class_gradients(task: Task, weights: np.ndarray, rows: Split) -> Tensor:
    """(classes among the rows, d) float32 means of the gradients of each class's rows."""
    module, (x, y) = task.classifier(weights).module, tensors(rows, task.device)
    parameters = [*module.parameters()]
    losses = F.cross_entropy(module(x), y, reduction="none")
    means = [torch.autograd.grad(losses[y == k].mean(), parameters, retain_graph=True) for k in y.unique()]
    return torch.stack([nn.utils.parameters_to_vector(grads) for grads in means]).cpu()


def _losses(task: Task, weights: np.ndarray, rows: Split) -> np.ndarray:
    """(n,) float64 losses of a model with (d,) parameters."""
    x, y = tensors(rows, task.device)
    with torch.no_grad():
        return F.cross_entropy(task.classifier(weights).module(x), y, reduction="none").double().cpu().numpy()
