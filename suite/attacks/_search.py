"""What our attacks share: the attacker's goal, the rows still under attack, and batches that fit in memory."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from suite.base.bounds import Label
from suite.base.errors import InputError
from suite.base.seeding import torch_generator
from suite.core.attack import EvasionAttack, GradientAttack
from suite.core.batches import in_batches
from suite.core.classifier import REJECTED, Classifier, TorchClassifier
from suite.core.space import Norm, Reach

Loss = Literal["ce", "margin"]


@dataclass(frozen=True)
class Query(EvasionAttack):
    """Base of our attacks: hands the rows over in batches that fit in memory. One that is no more only asks scores.

    Attributes:
        target: Label to reach; `None` for any wrong one.
    """

    target: Label | None = None

    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        self.check(classifier)
        generator = torch_generator(seed, classifier.device)

        def attack(x: Tensor, y: Tensor) -> Tensor:
            if not len(x):
                return x.clone()
            goal = Goal(classifier, y, self.target)
            # a budget that is no distance of single features leaves each of them its whole range
            radius = self.eps if self.norm in ("linf", "l2") else float("inf")
            return self._attack(classifier, classifier.space.reach(x, radius), goal, generator)

        with torch.no_grad():
            return in_batches(classifier, attack, x.detach(), y)

    @abstractmethod
    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        """(n, ...) adversarial versions of the `reach.x` of one batch."""


@dataclass(frozen=True)
class Search(Query, GradientAttack):
    """Base of the gradient attacks: freezes the classifier meanwhile."""

    def __call__(self, classifier: TorchClassifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        self.check(classifier)
        with classifier.frozen():
            return super().__call__(classifier, x, y, seed)


class Goal:
    """What fools the classifier: in each row, one of the logits that shall win exceeds all the others.

    Without a target, those of the wrong labels shall win over the true one (and over "refused", where the module has
    that logit); with a target, its logit over all others.

    Attributes:
        weights: (n, 2) signs of the logits when there are but two: every objective is then a multiple of their sum.
        y: (n,) true labels.
        target: (n,) labels to reach; None for any wrong one.
        winners: How many logits may win in a row.
    """

    def __init__(self, classifier: Classifier, y: Tensor, target: int | None = None) -> None:
        classes = len(classifier.classes_)
        logits = torch.arange(classes + classifier.rejects, device=y.device)
        if target is None:
            wins = (logits != y[:, None]) & (logits < classes)
        elif 0 <= target < classes:
            wins = (logits == target).expand(len(y), -1)
        else:
            raise InputError(f"target {target} is no label: there are {classes} classes")
        self.y, self.target = y, None if target is None else torch.full_like(y, target)
        self.winners = classes - 1 if target is None else 1
        self.weights = self.wins = self.others = None
        if len(logits) == 2:
            self.weights = torch.where(wins, 1.0, -1.0)
        else:  # added to the logits, these leave only those that shall win, or only the others
            self.wins, self.others = torch.where(wins, 0.0, -torch.inf), torch.where(wins, -torch.inf, 0.0)

    def take(self, rows: Tensor) -> Self:
        """The goal of some of the rows (positions)."""
        taken = copy.copy(self)
        for name, value in vars(self).items():
            setattr(taken, name, value[rows] if isinstance(value, Tensor) else value)
        return taken

    def met(self, labels: Tensor) -> Tensor:
        """(..., n) bool: which labels, as `Classifier.judge` gives them, mean that the classifier is fooled."""
        return (labels != self.y) & (labels != REJECTED) if self.target is None else labels == self.target

    def lead(self, logits: Tensor) -> Tensor:
        """(..., n) by how much the best of the logits that shall win exceeds the others: positive when fooled."""
        if self.weights is not None:
            return torch.linalg.vecdot(logits, self.weights)
        return (logits + self.wins).amax(-1) - (logits + self.others).amax(-1)

    def apart(self, logits: Tensor, most: int) -> list[Self]:
        """For each of the best logits that shall win, at most `most` of them, the goal that it beats the others.

        A row that reaches any of these goals reaches this one.
        """
        if self.weights is not None:
            return [self]
        goals = []
        for label in (logits + self.wins).topk(min(most, self.winners)).indices.T:
            goals.append(copy.copy(self))
            goals[-1].winners = 1
            goals[-1].wins = torch.full_like(logits, -torch.inf).scatter_(1, label[:, None], 0.0)
        return goals

    def loss(self, logits: Tensor, name: Loss) -> Tensor:
        """(..., n) what an attack climbs: the lead ("margin"), or the log odds of being fooled ("ce").

        Cross-entropy is `softplus(log odds)`: it rises in the same direction, but its gradient vanishes where the
        classifier is sure.
        """
        if name == "margin" or self.weights is not None:
            return self.lead(logits)
        return (logits + self.wins).logsumexp(-1) - (logits + self.others).logsumexp(-1)

    def slope(self, logits: Tensor, name: Loss) -> Tensor:
        """(n, logits) derivative of the loss."""
        if self.weights is not None:
            return self.weights
        if name == "ce":
            return (logits + self.wins).softmax(1) - (logits + self.others).softmax(1)
        return _one_hot((logits + self.wins).argmax(1), logits) - _one_hot((logits + self.others).argmax(1), logits)

    def gradient(self, classifier: TorchClassifier, x: Tensor, loss: Loss = "ce") -> tuple[Tensor, Tensor]:
        """Logits at `x` and the gradient of the loss, for one forward and one input-gradient pass."""
        logits, (grad,) = classifier.pull(x, lambda logits: [self.slope(logits, loss)])
        return logits, grad

    def rivals(self, classifier: TorchClassifier, x: Tensor, most: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The best logits that shall win, at most `most` of them, against the best of the others.

        Returns:
            `(lead, leads, gradients)`: (n,) the lead, (rivals, n) by how much each rival exceeds the others, and the
            (n, ...) gradients of `leads`. The cost is one forward pass, and one input-gradient pass a rival.
        """
        def against(logits: Tensor) -> list[Tensor]:
            if self.weights is not None:
                return [self.weights]
            held = _one_hot((logits + self.others).argmax(1), logits)
            best = (logits + self.wins).topk(min(most, self.winners)).indices
            return [_one_hot(label, logits) - held for label in best.T]

        logits, grads = classifier.pull(x, against)
        lead = self.lead(logits)
        if self.weights is not None:
            return lead, lead[None], grads
        held = (logits + self.others).amax(1)
        return lead, (logits + self.wins).topk(len(grads)).values.T - held, grads


def _one_hot(label: Tensor, logits: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(1, label[:, None], 1.0)


class Hunt:
    """A search in progress: the rows still under attack, and the best possible input found for each of all rows.

    Attributes:
        reach, goal: Of the rows still under attack.
    """

    def __init__(self, classifier: Classifier, reach: Reach, goal: Goal, early_stop: bool) -> None:
        self.classifier, self.reach, self.goal, self.early_stop = classifier, reach, goal, early_stop
        self._found, self._lead = reach.x.clone(), reach.x.new_full((len(reach.x),), -torch.inf)
        self._rows = torch.arange(len(reach.x), device=reach.x.device)
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def note(self, possible: Tensor, logits: Tensor) -> Tensor | None:
        """Remember candidates, which must not be overwritten; the positions to go on with if some rows leave."""
        if self.early_stop:
            return self._dismiss(possible, self.goal.lead(logits))
        if possible.numel() > _WAITING:
            self._keep_better(possible, self.goal.lead(logits))
            return None
        # of small candidates, comparing many steps at once is cheaper than comparing each
        self._waiting.append((possible, logits))
        if len(self._waiting) * possible.numel() > _WAITING:
            self._compare()
        return None

    def finish(self, possible: Tensor) -> tuple[Tensor, Tensor]:
        """Judge the last candidates, by a forward pass alone, and return what `best` does."""
        with torch.no_grad():
            self.note(possible, self.classifier.scores(possible))
        return self.best()

    def best(self) -> tuple[Tensor, Tensor]:
        """What was found for all rows, and its lead: with `early_stop` the first input that fools (else the row
        itself, and -inf), without it the one of the greatest lead."""
        self._compare()
        return self._found, self._lead

    def _dismiss(self, possible: Tensor, lead: Tensor) -> Tensor | None:
        fooled = lead > 0
        if not fooled.any():
            return None
        gone, left = fooled.nonzero()[:, 0], (~fooled).nonzero()[:, 0]
        rows = self._rows[gone]
        self._found[rows], self._lead[rows] = possible[gone], lead[gone]
        self._rows, self.reach, self.goal = self._rows[left], self.reach.take(left), self.goal.take(left)
        return left

    def _compare(self) -> None:
        if self._waiting:
            possible, logits = (torch.stack(parts) for parts in zip(*self._waiting, strict=True))
            self._waiting.clear()
            lead, step = self.goal.lead(logits).max(0)
            self._keep_better(possible[step, self._rows], lead)

    def _keep_better(self, possible: Tensor, lead: Tensor) -> None:
        overwrite(self._found, lead > self._lead, possible)
        torch.maximum(self._lead, lead, out=self._lead)


_WAITING = 2**16
"""Numbers, of all candidates together, that a search keeps before it compares them: many steps on a table, none on
images, and so few that the allocator reuses their memory."""


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """(n,) values with as many further axes of 1 as broadcasting against (n, ...) `like` takes."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def overwrite(kept: Tensor, better: Tensor, by: Tensor) -> None:
    """Replace the rows of (n, ...) `kept` that are `better` in place."""
    if better.device.type != "cpu":  # to know which rows they are, the host would have to wait
        kept.copy_(torch.where(per_row(better, kept), by, kept))
        return
    # soon few are, and then `where` costs the most
    rows = better.nonzero()[:, 0]
    kept.index_copy_(0, rows, by.index_select(0, rows))


def norms(z: Tensor) -> Tensor:
    """L2 norm of each row, shaped to broadcast against `z`, never 0."""
    return per_row(z.flatten(1).norm(dim=1).clamp_(min=1e-12), z)


def uphill(grad: Tensor, reach: Reach, scale: Tensor, norm: Norm) -> Tensor:
    """The unit step that climbs fastest, in units of `scale`; overwrites `grad`."""
    if norm == "linf":
        return grad.sign_()
    free = grad.mul_(scale).mul_(reach.lower < reach.upper)
    return free.div_(norms(free))


def project(z: Tensor, reach: Reach, scale: Tensor, eps: float, norm: Norm) -> Tensor:
    """`z`, which may be overwritten, brought back into the budget and between the limits."""
    if norm == "l2":
        delta = z.sub_(reach.x)
        z = reach.x + delta * (eps / norms(delta / scale)).clamp_(max=1)
    return torch.clamp(z, reach.lower, reach.upper, out=z)


def random_start(reach: Reach, scale: Tensor, eps: float, norm: Norm, generator: torch.Generator,
                 edge: bool = False) -> Tensor:
    """(n, ...) points drawn uniformly from the ball, or from its corners (Linf) or sphere (L2) if `edge`."""
    x = reach.x
    if norm == "linf":
        share = torch.rand(x.shape, generator=generator, device=x.device)
        return torch.lerp(reach.lower, reach.upper, share.round_() if edge else share)
    # a direction among the features that can change, and a radius with the density of their number
    free = (reach.lower < reach.upper).flatten(1)
    delta = torch.randn(x.shape, generator=generator, device=x.device) * free.view(x.shape)
    radius = torch.rand(len(x), generator=generator, device=x.device) ** (1 / free.sum(1).clamp(min=1))
    reached = eps if edge else eps * per_row(radius, x)
    return project(x + delta / norms(delta) * reached * scale, reach, scale, eps, norm)


def worst_of(draw: Callable[[Reach], Tensor], draws: int, hunt: Hunt) -> Tensor:
    """The best of so many candidates; `draw` makes one for each row of the reach that it is given."""
    for _ in range(draws):
        possible = draw(hunt.reach)
        left = hunt.note(possible, hunt.classifier.scores(possible))
        if left is not None and not len(left):
            break
    return hunt.best()[0]


def restarted(climb: Callable[[Reach, Goal], tuple[Tensor, Tensor]], reach: Reach, goals: Sequence[Goal]) -> Tensor:
    """The best that `climb` finds, once for each goal; after the first only for the rows that are not fooled yet."""
    found, lead = climb(reach, goals[0])
    for goal in goals[1:]:
        left = (lead <= 0).nonzero()[:, 0]
        if not len(left):
            break
        again, reached = climb(reach.take(left), goal.take(left))
        better = reached > lead[left]
        found[left[better]], lead[left[better]] = again[better], reached[better]
    return found
