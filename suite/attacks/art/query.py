"""Query attacks through ART: reference implementations, what a user would otherwise trust, made comparable with ours.

ART sees the perturbation of one input in units of the space's scale, and only the features that can change: its Linf
distance is ours, and a feature that it leaves alone keeps its exact value. It is shown possible inputs only: whatever
it asks, the model is asked about the nearest possible input. `raw` is the same attack without this help.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from suite.attacks.art.border import Ask, art_fence, estimator_over, in_step
from suite.attacks.query.hopskipjump import BEYOND
from suite.base.bounds import Count, LearningRate, Positive
from suite.base.info import Info
from suite.core.attack import EvasionAttack
from suite.core.classifier import REJECTED, Classifier
from suite.core.space import Space

_DEPARTS = ("as implemented in ART, on the model composed with rounding to the nearest possible input; a refusal "
            "counts as not fooled; a result is moved 0.01 to 0.1 % further off if it then is misclassified for sure")
_START = ("; starts at the nearest of some uniform random inputs and of the other attacked inputs that fools the "
          "model, because ART draws its own start from a generator that cannot be seeded")
_BACK = ("; ends with a search back to the boundary, which ART leaves out after its last step, so that its distances "
         "are too long by 1 / sqrt(max_iter)")

FURTHER = (BEYOND, 10 * BEYOND, 0.0)
"""Shares of the distance by which a result is moved away from the input, until the model misclassifies it. ART stops
where one answer was wrong, which may be on the very boundary: asked beside other inputs, or on a processor that rounds
sums in another way, the model is right there. Where the misclassified region ends sooner, the result stays in place."""


@dataclass(frozen=True)
class QueryAttack(EvasionAttack):
    """An ART attack that only asks the model; works on every classifier."""

    rows_at_once: ClassVar[int] = 64
    """Inputs attacked side by side; each takes a thread."""

    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        space = classifier.space
        found, result = self._search(classifier, x, y, seed, space.to("cpu")), x.clone()
        lower, upper = space.ball(x, self.eps)
        left = (found != x).flatten(1).any(1).nonzero()[:, 0]
        for further in FURTHER:
            if not len(left):
                break
            moved = torch.lerp(x[left], found[left], 1 + further)
            near = space.snap(torch.minimum(torch.maximum(moved, lower[left]), upper[left]), x[left])
            fooled = _fooled(classifier.predict(near.cpu().numpy()), y[left].cpu().numpy())
            fooled = torch.from_numpy(fooled).to(x.device)
            result[left[fooled]], left = near[fooled], left[~fooled]
        return result

    def raw(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        """What ART claims when it is told the range of each feature and nothing else of what is possible.

        Returns:
            (n, ...) float32 inputs in the box of the space. A row that the model gets wrong already is returned as it
            is, and so is one for which ART finds nothing.
        """
        space = classifier.space.to("cpu")
        return self._search(classifier, x, y, seed, Space(space.lower, space.upper, space.scale))

    def _search(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int, space: Space) -> Tensor:
        found, labels = x.cpu().clone(), y.cpu().numpy()
        right = torch.from_numpy(~_fooled(classifier.predict(found.numpy()), labels)).nonzero()[:, 0]
        radius = float("inf") if self.minimal else self.eps
        with art_fence(seed):
            for rows in right.split(self.rows_at_once) if len(right) else ():
                task = _Task(classifier, space, found[rows], labels[rows.numpy()], radius)
                found[rows] = self._attack(task, np.random.default_rng(seed))
        return found.to(x.device)

    def _attack(self, task: _Task, rng: np.random.Generator) -> Tensor:
        attacks = [self._walk(task, row, start) for row, start in enumerate(self._starts(task, rng))]
        z = in_step(lambda z, rows: self._answer(task.classifier, task.inputs(z, rows).numpy(), task.y[rows]), attacks)
        return task.inputs(np.stack(z), np.arange(len(z)))

    def _walk(self, task: _Task, row: int, start: np.ndarray | None) -> Callable[[Ask], np.ndarray]:
        free = task.free[row]

        def widened(z: np.ndarray) -> np.ndarray:
            whole = np.zeros((len(z), len(free)), np.float32)
            whole[:, free] = z
            return whole

        def attack(ask: Ask) -> np.ndarray:
            if not free.any() or (start is None and self.minimal):
                return np.zeros(len(free), np.float32)
            asked = _unless_stalled(lambda z: ask(widened(z)))
            clip = self._clip(task.lower[row, free], task.upper[row, free])
            estimator = estimator_over(asked, (int(free.sum()),), len(task.classifier.classes_), clip)
            try:
                return widened(self._run(estimator, int(task.y[row]), None if start is None else start[None, free]))[0]
            except _Stalled:
                return np.zeros(len(free), np.float32)

        return attack

    @abstractmethod
    def _run(self, estimator: Any, label: int, start: np.ndarray | None) -> np.ndarray:
        """Attack the origin of the estimator with ART; returns (1, features) perturbations, as is `start`."""

    @abstractmethod
    def _answer(self, classifier: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n, classes) what the attacker sees; a refusal looks like the true label."""

    def _starts(self, task: _Task, rng: np.random.Generator) -> Sequence[np.ndarray | None]:
        """For each row a perturbation that fools the model, or None."""
        return [None] * len(task.x)

    def _clip(self, lower: np.ndarray, upper: np.ndarray) -> tuple[Any, Any]:
        """What ART takes for the least and greatest input; `lower` and `upper` bound the perturbation."""
        return lower, upper


@dataclass(frozen=True)
class _BoundaryWalk(QueryAttack):
    """Walks along the decision boundary from an input that fools the model, seeing labels only.

    Attributes:
        init_size: Uniform random inputs tried as a start, besides the other attacked inputs.
    """

    minimal: ClassVar[bool] = True

    init_size: Count = 50

    def _answer(self, classifier: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        labels = classifier.predict(x)
        return np.eye(len(classifier.classes_), dtype=np.float32)[np.where(labels == REJECTED, y, labels)]

    def _starts(self, task: _Task, rng: np.random.Generator) -> Sequence[np.ndarray | None]:
        lower, upper = (v.expand(task.x.shape[1:]).numpy() for v in (task.space.lower, task.space.upper))
        noise = rng.uniform(lower, upper, (self.init_size, *lower.shape)).astype(np.float32)
        pool = torch.cat([task.x, torch.from_numpy(noise)])
        starts = []
        for row in range(len(task.x)):
            z = task.perturbations(pool, row)
            asked = task.inputs(z, np.full(len(z), row)).numpy()
            fooling = z[_fooled(task.classifier.predict(asked), task.y[row])]
            starts.append(fooling[np.abs(fooling).max(1).argmin()] if len(fooling) else None)
        return starts

    def _run(self, estimator: Any, label: int, start: np.ndarray | None) -> np.ndarray:
        return self._art(estimator).generate(np.zeros_like(start), x_adv_init=start)

    @abstractmethod
    def _art(self, estimator: Any) -> Any:
        """The ART attack object."""


@dataclass(frozen=True)
class ArtHopSkipJump(_BoundaryWalk):
    """ART's HopSkipJump in Linf: the reference for `suite.attacks.query.hopskipjump`.

    Attributes:
        max_iter: Steps along the boundary.
        init_eval, max_eval: Inputs asked for the first gradient estimate (later ones take sqrt(step) times as many),
            and at most.
        init_size: Uniform random inputs tried as a start, besides the other attacked inputs.
    """

    info: ClassVar[Info] = Info("HopSkipJump (ART)", "Chen, Jordan and Wainwright 2020, arXiv 1904.02144", "label-only",
                                ("evasion-query",), "about 1,500 queries a row", _DEPARTS + _START + _BACK)
    max_iter: Count = 20
    init_eval: Count = 20
    max_eval: Count = 100

    def _run(self, estimator: Any, label: int, start: np.ndarray | None) -> np.ndarray:
        z = super()._run(estimator, label, start)
        near, far = 0.0, float(np.abs(z).max())
        for _ in range(10):
            middle = (near + far) / 2
            fooled = estimator.predict(np.clip(z, -middle, middle)).argmax() != label
            near, far = (near, middle) if fooled else (middle, far)
        return np.clip(z, -far, far)

    def _art(self, estimator: Any) -> Any:
        from art.attacks.evasion import HopSkipJump

        return HopSkipJump(estimator, norm=np.inf, max_iter=self.max_iter, init_eval=self.init_eval,
                           max_eval=self.max_eval, verbose=False)


@dataclass(frozen=True)
class ArtBoundary(_BoundaryWalk):
    """ART's Boundary attack (minimises L2; measured in Linf like its neighbours).

    Attributes:
        max_iter: Pairs of an orthogonal step and a step towards the input.
        samples: Orthogonal steps tried at once.
        trials: Attempts at each of the two steps of a pair.
        delta, step: First lengths of the two steps, relative to the distance.
        init_size: Uniform random inputs tried as a start, besides the other attacked inputs.
    """

    info: ClassVar[Info] = Info(
        "Boundary attack (ART)", "Brendel, Rauber and Bethge 2018, arXiv 1712.04248", "label-only", ("evasion-query",),
        "about 1,000 queries a row", _DEPARTS + _START)
    max_iter: Count = 100
    samples: Count = 8
    trials: Count = 10
    delta: Positive = 0.3
    step: Positive = 0.3

    def _art(self, estimator: Any) -> Any:
        from art.attacks.evasion import BoundaryAttack

        return BoundaryAttack(estimator, targeted=False, max_iter=self.max_iter, num_trial=self.trials,
                              sample_size=self.samples, delta=self.delta, epsilon=self.step, verbose=False)


@dataclass(frozen=True)
class ArtZoo(QueryAttack):
    """ART's ZOO, which descends the Carlini-Wagner loss coordinate by coordinate, within eps: the reference for
    `suite.attacks.query.zoo`.

    Attributes:
        max_iter: Steps for each constant.
        constants: Constants tried by binary search, from `constant` on.
        constant: First weight of being fooled against the L2 distance.
        rate: Step of Adam, in units of scale.
        h: Half width of the finite differences, in units of scale: wide enough for trees, which are flat nearby.
        coordinates: Features changed at once.
    """

    info: ClassVar[Info] = Info(
        "ZOO (ART)", "Chen et al. 2017, arXiv 1708.03999", "score", ("evasion-query",),
        "about 300 queries a row on eight columns",
        _DEPARTS + "; the search stays within eps, because ART clips the noise in place of the input, which keeps it "
        "from ever lowering a feature of inputs in [0, 1]; probabilities in place of their logarithms; no resizing")
    max_iter: Count = 20
    constants: Count = 3
    constant: Positive = 10.0
    rate: LearningRate = 0.02
    h: Positive = 0.05
    coordinates: Count = 128

    def _clip(self, lower: np.ndarray, upper: np.ndarray) -> tuple[Any, Any]:
        return -self.eps, self.eps

    def _answer(self, classifier: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        proba, refused = classifier.predict_proba(x), np.zeros(len(x), bool)
        if getattr(classifier, "rejects", type(classifier).predict is not Classifier.predict):
            refused = classifier.predict(x) == REJECTED
        return np.where(refused[:, None], np.eye(proba.shape[1])[y], proba).astype(np.float32)

    def _run(self, estimator: Any, label: int, start: np.ndarray | None) -> np.ndarray:
        from art.attacks.evasion import ZooAttack

        features = estimator.input_shape[0]
        attack = ZooAttack(estimator, max_iter=self.max_iter, binary_search_steps=self.constants,
                           initial_const=self.constant, learning_rate=self.rate, variable_h=self.h,
                           nb_parallel=min(self.coordinates, features), use_resize=False, use_importance=False,
                           verbose=False)
        return attack.generate(np.zeros((1, features), np.float32), np.array([label]))


class _Task:
    """Some rows that the model gets right, and the coordinates in which ART attacks them.

    Attributes:
        x, y: (n, ...) the rows on the CPU, (n,) their labels.
        lower, upper: (n, features) least and greatest perturbation of each feature, in units of scale.
        free: (n, features) bool: which features can change.
    """

    def __init__(self, classifier: Classifier, space: Space, x: Tensor, y: np.ndarray, eps: float) -> None:
        self.classifier, self.space, self.x, self.y = classifier, space, x, y
        self._ball = space.ball(x, eps)
        self.lower, self.upper = (((v - x) / space.scale).flatten(1).numpy() for v in self._ball)
        self.free = self.lower < self.upper

    def inputs(self, z: np.ndarray, rows: np.ndarray) -> Tensor:
        """(m, ...) the inputs of the space nearest to the rows with the (m, features) perturbations `z`."""
        rows = torch.from_numpy(rows)
        x = self.x[rows]
        moved = x + torch.from_numpy(np.asarray(z, np.float32)).view(x.shape) * self.space.scale
        return self.space.snap(torch.minimum(torch.maximum(moved, self._ball[0][rows]), self._ball[1][rows]), x)

    def perturbations(self, pool: Tensor, row: int) -> np.ndarray:
        """(m, features) what turns the row into the (m, ...) inputs of `pool`, as far as it can be turned."""
        z = ((pool - self.x[row]) / self.space.scale).flatten(1).numpy()
        return np.clip(z, self.lower[row], self.upper[row])


def _fooled(labels: np.ndarray, y: np.ndarray | int) -> np.ndarray:
    return (labels != y) & (labels != REJECTED)


class _Stalled(Exception):
    """ART asks the same question for ever."""


def _unless_stalled(ask: Ask, patience: int = 20) -> Ask:
    """HopSkipJump halves its step until the model is fooled, and never stops if the model takes back an answer.

    A point on the boundary can be judged anew when it is asked beside other inputs: sums round by the batch.
    """
    last, times = b"", 0

    def asked(z: np.ndarray) -> np.ndarray:
        nonlocal last, times
        now = z.tobytes()
        last, times = now, times + 1 if now == last else 0
        if times >= patience:
            raise _Stalled
        return ask(z)

    return asked
