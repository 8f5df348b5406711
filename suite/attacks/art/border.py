"""The border to the Adversarial Robustness Toolbox (ART), where its habits are fitted to our contracts.

ART is imported inside the functions, since importing it takes seconds. What it gets wrong is absorbed here and in its
callers; `tests/suite/attacks/art/test_art.py` and `tests/privacy/` show each defect beside the cure, so that we notice
when ART mends one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from suite.base.seeding import seeded
from suite.core.classifier import Classifier, TorchClassifier

T = TypeVar("T")
Ask = Callable[[np.ndarray], np.ndarray]


def art_estimator(classifier: Classifier, inputs: tuple[int, ...]) -> Any:
    """An ART black-box classifier over `predict_proba`, in data units, for any of our classifiers.

    Queries are counted by `classifier.queries`. ART knows no refusal: it sees the probabilities of the classes only,
    so callers for whom a refusal matters must ask `classifier.predict`, as the query attacks do.

    Args:
        classifier: The model under attack.
        inputs: Shape of one input.
    """
    return estimator_over(classifier.predict_proba, inputs, len(classifier.classes_), box(classifier, inputs))


def art_gradient_estimator(classifier: TorchClassifier, inputs: tuple[int, ...]) -> Any:
    """An ART classifier with gradients, whose inputs are in units of the space's scale and whose outputs are
    log-probabilities. Parameters are not touched; use it inside `classifier.frozen()`.
    """
    from art.estimators.classification import PyTorchClassifier

    scale = classifier.space.scale.cpu().expand(inputs).numpy()
    lower, upper = box(classifier, inputs)
    made = PyTorchClassifier(_ScaledLogProbabilities(classifier), nn.NLLLoss(), inputs, len(classifier.classes_),
                             clip_values=(lower / scale, upper / scale), device_type="cpu")
    made._device = classifier.device  # ART knows the CPU and the current CUDA device only
    return made


def estimator_over(predict: Ask, inputs: tuple[int, ...], classes: int,
                   clip: tuple[np.ndarray | float, np.ndarray | float] | None = None) -> Any:
    """An ART black-box classifier over any `(n, *inputs) -> (n, classes)` function; `clip` is per feature or scalar."""
    # ART hands over float64 at times (its issue 2475)
    return _black_box()(lambda x: predict(np.ascontiguousarray(x, np.float32)), inputs, classes, clip_values=clip)


def box(classifier: Classifier, inputs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value of each feature in data units, float32 arrays of the shape of one input."""
    space = classifier.space
    return space.lower.cpu().expand(inputs).numpy(), space.upper.cpu().expand(inputs).numpy()


@contextmanager
def art_fence(seed: int) -> Iterator[None]:
    """Run ART from a seed, without its warnings on the terminal; the global generators are put back afterwards."""
    logger = logging.getLogger("art")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with seeded(seed):
            yield
    finally:
        logger.setLevel(level)


def in_step(answer: Callable[[np.ndarray, np.ndarray], np.ndarray], attacks: Sequence[Callable[[Ask], T]]) -> list[T]:
    """Run one attack per row side by side, so that the model is asked once for all rows and not row by row.

    ART attacks one row after the other in questions of a few inputs, and for a forest the overhead of each question
    outweighs the answer. Each attack becomes a coroutine: a thread, since ART cannot pause, of which exactly one runs
    at any time, so that draws from the global generator come in a fixed order.

    Args:
        answer: `(x, owner) -> answers`: (m, ...) inputs of all rows together, and (m,) which attack asked each.
        attacks: Each is called once with the function that it asks in place of the model.

    Returns:
        What the attacks returned, in their order. An exception of any attack, or of `answer`, is raised here.
    """
    rows = [_Coroutine(attack) for attack in attacks]
    results: list[Any] = [None] * len(rows)
    answers: dict[int, np.ndarray | None] = dict.fromkeys(range(len(rows)))
    try:
        while answers:
            asked = {}
            for i, given in answers.items():
                kind, value = rows[i].resume(given)
                if kind == "asks":
                    asked[i] = value
                else:
                    results[i] = value
            answers = {}
            if asked:
                sizes = [len(x) for x in asked.values()]
                given = answer(np.concatenate(list(asked.values())), np.repeat(list(asked), sizes))
                answers = dict(zip(asked, np.split(given, np.cumsum(sizes)[:-1]), strict=True))
    finally:
        for row in rows:
            row.cancel()
    return results


@cache
def _black_box() -> type:
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    class AskedAtOnce(BlackBoxClassifierNeuralNetwork):
        """ART's ZOO asks row by row, and its inference attacks in batches of 128: our classifiers batch themselves."""

        def predict(self, x: np.ndarray, batch_size: int = 128, **kwargs: Any) -> np.ndarray:
            return super().predict(x, batch_size=max(len(x), 1), **kwargs)

    return AskedAtOnce


class _Cancelled(BaseException):
    """Unwinds a coroutine that nobody will resume; no `except Exception` of ART may catch it."""


class _Coroutine:
    def __init__(self, attack: Callable[[Ask], T]) -> None:
        self._inbox: SimpleQueue = SimpleQueue()
        self._outbox: SimpleQueue = SimpleQueue()
        self._over = False
        Thread(target=self._main, args=(attack,), daemon=True).start()

    def resume(self, answer: np.ndarray | None) -> tuple[str, Any]:
        """Run until the attack asks, ("asks", x), or returns, ("returns", value)."""
        self._inbox.put(answer)
        kind, value = self._outbox.get()
        self._over = kind != "asks"
        if kind == "raises":
            raise value
        return kind, value

    def cancel(self) -> None:
        if not self._over:
            self._inbox.put(_Cancelled())

    def _main(self, attack: Callable[[Ask], T]) -> None:
        try:
            self._receive()
            message = "returns", attack(self._ask)
        except _Cancelled:
            return
        except BaseException as error:
            message = "raises", error
        self._outbox.put(message)

    def _ask(self, x: np.ndarray) -> np.ndarray:
        self._outbox.put(("asks", x))
        return self._receive()

    def _receive(self) -> np.ndarray | None:
        answer = self._inbox.get()
        if isinstance(answer, _Cancelled):
            raise answer
        return answer


class _ScaledLogProbabilities(nn.Module):
    """`x / scale -> log-probabilities`. The classifier is no submodule, so ART cannot switch it to training."""

    def __init__(self, classifier: TorchClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, z: Tensor) -> Tensor:
        if torch.is_grad_enabled() and z.requires_grad:
            self.classifier.gradients += len(z)
        logits = self.classifier.logits(z.float() * self.classifier.space.scale)
        return logits[:, : len(self.classifier.classes_)].log_softmax(1)
