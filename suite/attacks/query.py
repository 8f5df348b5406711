"""Query attacks through ART: what a user would otherwise trust, made comparable with our own attacks.

ART sees the perturbation of one input in units of the space's scale, so its Linf distance is ours and a feature that
it leaves alone keeps its exact value. It knows nothing of integers, immutable columns or relations: `raw` returns what
it claims, and the attack itself returns what is left of that among the possible inputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from suite.art import Ask, art_fence, box, estimator_over, in_step
from suite.attack import EvasionAttack, Info
from suite.classifier import REJECTED, Classifier

_DEPARTS = ("as implemented in ART, which searches in the box only: its result is moved to the nearest possible input "
            "within eps and kept if the model is still fooled. A refusal counts as not fooled")
_START = ("; starts at the nearest of some uniform random inputs and of the other attacked inputs that the model labels "
          "otherwise, because ART draws its own start from a generator that cannot be seeded")


@dataclass(frozen=True)
class QueryAttack(EvasionAttack):
    """An ART attack that only asks the model; works on every classifier."""

    rows_at_once: ClassVar[int] = 64
    """Inputs attacked side by side; each takes a thread."""

    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        raw = self.raw(classifier, x, y, seed)
        lower, upper = classifier.space.ball(x, self.eps)
        possible = classifier.space.snap(torch.minimum(torch.maximum(raw, lower), upper), x)
        fooled = _fooled(classifier.predict(possible.cpu().numpy()), y.cpu().numpy())
        kept = torch.from_numpy(fooled).to(x.device).view(-1, *[1] * (x.dim() - 1))
        return torch.where(kept, possible, x)

    def raw(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        """What ART claims: (n, ...) float32 inputs in the box of the space, whether or not they are possible.

        A row that the model gets wrong already is returned as it is, and so is one for which ART finds nothing.
        """
        clean, labels = x.cpu().numpy(), y.cpu().numpy()
        found = clean.copy()
        with art_fence(seed):
            right = np.flatnonzero(~_fooled(classifier.predict(clean), labels))
            starts = self._starts(classifier, clean, labels, right, seed)
            for chunk in np.split(right, range(self.rows_at_once, len(right), self.rows_at_once)):
                found[chunk] = self._chunk(classifier, clean[chunk], labels[chunk], [starts.get(i) for i in chunk])
        return torch.from_numpy(found).to(x.device)

    def _chunk(self, classifier: Classifier, x: np.ndarray, y: np.ndarray, starts: list[np.ndarray | None]) -> np.ndarray:
        """`raw` for rows that the model gets right."""
        scale = classifier.space.scale.cpu().numpy()
        lower, upper = box(classifier, x.shape[1:])

        def inputs(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return np.clip(x[rows] + np.asarray(z, np.float32) * scale, lower, upper)

        def answer(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return self._answer(classifier, inputs(z, rows), y[rows])

        def attack(row: int) -> Callable[[Ask], np.ndarray]:
            start = None if starts[row] is None else (starts[row] - x[row]) / scale
            clip = self._clip((lower - x[row]) / scale, (upper - x[row]) / scale)

            def run(ask: Ask) -> np.ndarray:
                estimator = estimator_over(_unless_stalled(ask), x.shape[1:], len(classifier.classes_), clip)
                try:
                    return self._run(estimator, y[row], start)
                except _Stalled:
                    return np.zeros(x.shape[1:], np.float32)
            return run

        z = in_step(answer, [attack(row) for row in range(len(x))])
        return inputs(np.stack(z), np.arange(len(x))) if z else x

    @abstractmethod
    def _run(self, estimator: Any, label: int, start: np.ndarray | None) -> np.ndarray:
        """Attack one input, the origin of the estimator, with ART; returns the perturbation in units of scale."""

    def _clip(self, lower: np.ndarray, upper: np.ndarray) -> tuple[Any, Any]:
        """What ART takes for the least and greatest input, from the least and greatest perturbation in the box."""
        return lower, upper

    @abstractmethod
    def _answer(self, classifier: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n, classes) what the attacker sees; a refusal looks like the true label."""

    def _starts(self, classifier: Classifier, x: np.ndarray, y: np.ndarray, right: np.ndarray,
                seed: int) -> dict[int, np.ndarray]:
        """Row -> an input that fools the model; rows without one are missing."""
        return {}


@dataclass(frozen=True)
class _BoundaryWalk(QueryAttack):
    """Walks along the decision boundary from an input that fools the model, seeing labels only."""

    minimal: ClassVar[bool] = True

    init_size: int = 100

    def _answer(self, classifier: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        labels = classifier.predict(x)
        return np.eye(len(classifier.classes_), dtype=np.float32)[np.where(labels == REJECTED, y, labels)]

    def _starts(self, classifier: Classifier, x: np.ndarray, y: np.ndarray, right: np.ndarray,
                seed: int) -> dict[int, np.ndarray]:
        lower, upper = box(classifier, x.shape[1:])
        scale = classifier.space.scale.cpu().numpy()
        noise = np.random.default_rng(seed).uniform(lower, upper, (self.init_size, *x.shape[1:])).astype(np.float32)
        pool = np.concatenate([x, noise])
        labels = classifier.predict(pool)
        starts = {}
        for row in right:
            fooling = pool[_fooled(labels, y[row])]
            if len(fooling):
                far = np.abs((fooling - x[row]) / scale).reshape(len(fooling), -1).max(1)
                starts[row] = fooling[far.argmin()]
        return starts

    def _run(self, estimator: Any, label: int, start: np.ndarray | None) -> np.ndarray:
        if start is None:
            return np.zeros(estimator.input_shape, np.float32)
        origin = np.zeros((1, *estimator.input_shape), np.float32)
        return self._art(estimator).generate(origin, x_adv_init=start[None].astype(np.float32))[0]

    @abstractmethod
    def _art(self, estimator: Any) -> Any:
        """The ART attack object."""


@dataclass(frozen=True)
class HopSkipJump(_BoundaryWalk):
    """HopSkipJump in Linf.

    Attributes:
        max_iter: Steps along the boundary.
        init_eval, max_eval: Inputs asked for the first gradient estimate (later ones take sqrt(step) times as many),
            and at most.
        init_size: Uniform random inputs tried as a start, for all rows together.
    """

    info: ClassVar[Info] = Info("HopSkipJump", "Chen, Jordan and Wainwright 2020, arXiv 1904.02144", "label-only",
                                ("evasion",), "about 1,500 queries a row", _DEPARTS + _START)
    max_iter: int = 20
    init_eval: int = 20
    max_eval: int = 100

    def _art(self, estimator: Any) -> Any:
        from art.attacks.evasion import HopSkipJump

        return HopSkipJump(estimator, norm=np.inf, max_iter=self.max_iter, init_eval=self.init_eval,
                           max_eval=self.max_eval, verbose=False)


@dataclass(frozen=True)
class Boundary(_BoundaryWalk):
    """Boundary attack (minimises L2; measured in Linf like its neighbours).

    Attributes:
        max_iter: Pairs of an orthogonal step and a step towards the input.
        samples: Orthogonal steps tried at once.
        trials: Attempts at each of the two steps of a pair.
        delta, step: First lengths of the two steps, relative to the distance.
        init_size: Uniform random inputs tried as a start, for all rows together.
    """

    info: ClassVar[Info] = Info("Boundary attack", "Brendel, Rauber and Bethge 2018, arXiv 1712.04248", "label-only",
                                ("evasion",), "about 1,000 queries a row", _DEPARTS + _START)
    max_iter: int = 100
    samples: int = 8
    trials: int = 10
    delta: float = 0.3
    step: float = 0.3

    def _art(self, estimator: Any) -> Any:
        from art.attacks.evasion import BoundaryAttack

        return BoundaryAttack(estimator, targeted=False, max_iter=self.max_iter, num_trial=self.trials,
                              sample_size=self.samples, delta=self.delta, epsilon=self.step,
                              verbose=False)


@dataclass(frozen=True)
class Zoo(QueryAttack):
    """Zeroth-order optimisation of the Carlini-Wagner loss, coordinate by coordinate.

    Attributes:
        max_iter: Steps for each constant.
        constants: Constants tried by binary search, from `constant` on.
        constant: First weight of being fooled against the L2 distance.
        rate: Step of Adam, in units of scale.
        h: Half width of the finite differences, in units of scale: wide enough for trees, which are flat nearby.
        coordinates: Features changed at once.
    """

    info: ClassVar[Info] = Info(
        "ZOO", "Chen et al. 2017, arXiv 1708.03999", "score", ("evasion",), "about 300 queries a row on eight columns",
        _DEPARTS + "; the search stays within eps, because ART clips the noise and not the input, which keeps it from "
        "ever lowering a feature of inputs in [0, 1]; probabilities in place of their logarithms; no resizing")
    max_iter: int = 20
    constants: int = 3
    constant: float = 10.0
    rate: float = 0.02
    h: float = 0.05
    coordinates: int = 128

    def _clip(self, lower: np.ndarray, upper: np.ndarray) -> tuple[Any, Any]:
        return -self.eps, self.eps

    def _answer(self, classifier: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        proba = classifier.predict_proba(x).astype(np.float32)
        if getattr(classifier, "rejects", False):
            refused = classifier.predict(x) == REJECTED
            proba[refused] = np.eye(proba.shape[1], dtype=np.float32)[y[refused]]
        return proba

    def _run(self, estimator: Any, label: int, start: np.ndarray | None) -> np.ndarray:
        from art.attacks.evasion import ZooAttack

        origin = np.zeros((1, *estimator.input_shape), np.float32)
        features = origin.size
        attack = ZooAttack(estimator, max_iter=self.max_iter, binary_search_steps=self.constants,
                           initial_const=self.constant, learning_rate=self.rate, variable_h=self.h,
                           nb_parallel=min(self.coordinates, features), use_resize=False, use_importance=False,
                           verbose=False)
        return attack.generate(origin, np.array([label]))[0]


def _fooled(labels: np.ndarray, y: np.ndarray | int) -> np.ndarray:
    return (labels != y) & (labels != REJECTED)


class _Stalled(Exception):
    """ART asks the same question for ever."""


def _unless_stalled(ask: Ask, patience: int = 20) -> Ask:
    """HopSkipJump halves its step until the model is fooled, and never stops where rounding keeps it from that."""
    last, times = b"", 0

    def asked(x: np.ndarray) -> np.ndarray:
        nonlocal last, times
        now = x.tobytes()
        last, times = now, times + 1 if now == last else 0
        if times >= patience:
            raise _Stalled
        return ask(x)

    return asked
