"""The classifier contract: scikit-learn's, plus gradients where there are any."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from suite.batches import in_batches
from suite.errors import InputError
from suite.space import Space

if TYPE_CHECKING:
    from suite.passes import Pull

REJECTED = -1
"""Label that `Classifier.predict` gives to an input the model refuses to judge."""


class Classifier(ABC):
    """Something that maps inputs to class probabilities, and counts how often it was asked.

    Attributes:
        classes_: (k,) int64 labels 0 .. k-1, as in scikit-learn.
        space: The possible inputs.
        queries: Inputs judged since the counter was last set to 0.
        notes: What its training found out or decided (a piloted budget, a claimed epsilon), for the report.
        batch: Inputs judged at once; None until `suite.batches` has found what fits. It lowers it when memory runs out.
        rejects: Whether it may refuse to judge: then `scores` has one more column, "refused".
        labels_only: Whether it tells labels and no probabilities: the label's is 1 then, and says nothing.
        certified_norm: Norm in which it has a method `certify(x, seed) -> (labels, radii)`; empty where it has none.
    """

    rejects: bool = False
    labels_only: bool = False
    certified_norm: str = ""

    def __init__(self, classes: int, space: Space) -> None:
        self.classes_ = np.arange(classes)
        self.space = space
        self.queries = 0
        self.batch: int | None = None
        self.notes: dict[str, float | str] = {}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, classes) float64 probabilities of (n, ...) inputs in data units; any real dtype is cast to float32."""
        x = np.ascontiguousarray(x, np.float32)
        self.queries += len(x)
        return self._proba(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n,) int64 labels; `REJECTED` where the model refuses to judge."""
        return self.predict_proba(x).argmax(1)

    def scores(self, x: Tensor) -> Tensor:
        """(n, classes) what an attacker sees who is told scores, on the device, without gradients: logarithms of
        probabilities here, logits of networks; (n, classes + 1), "refused" last, where it `rejects`. Counted as
        queries.
        """
        proba = self.predict_proba(x.cpu().numpy())
        return torch.from_numpy(proba).to(x).clamp_(min=1e-12).log_()

    def judge(self, x: Tensor) -> Tensor:
        """(n,) int64 labels of a tensor on the device, without gradients; `REJECTED` where refused."""
        return torch.from_numpy(self.predict(x.cpu().numpy())).to(x.device)

    @abstractmethod
    def _proba(self, x: np.ndarray) -> np.ndarray: ...


class EstimatorClassifier(Classifier):
    """Any fitted object with `predict_proba`: scikit-learn, XGBoost, a pipeline, a user's own.

    Of one that has `predict` only, the probability of the label is 1, and `labels_only` says so.

    Args:
        estimator: Fitted, with `predict_proba(x) -> (n, classes)`, or `predict(x) -> (n,)` of its `classes_` (numbers
            from 0 where it has none); classes are in the dataset's order.
        classes: Number of classes.
        space: The possible inputs.
        recipe: The recipe that made it, if any: see `suite.recipe`.
    """

    def __init__(self, estimator: Any, classes: int, space: Space, recipe: Any = None) -> None:
        super().__init__(classes, space)
        if not hasattr(estimator, "predict_proba") and not hasattr(estimator, "predict"):
            raise InputError(f"model {type(estimator).__name__} has neither predict_proba nor predict")
        self.estimator, self.recipe = estimator, recipe
        self.labels_only = not hasattr(estimator, "predict_proba")

    def _proba(self, x: np.ndarray) -> np.ndarray:
        if not len(x):
            return np.zeros((0, len(self.classes_)))
        with warnings.catch_warnings():
            # columns are in the dataset's order; a model that learned names warns of arrays each time
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            proba = self._labels(x) if self.labels_only else np.asarray(self.estimator.predict_proba(x), np.float64)
        if proba.shape != (len(x), len(self.classes_)):
            raise InputError(f"model returned probabilities of shape {proba.shape} for {len(x)} rows and "
                             f"{len(self.classes_)} classes")
        return proba


    def _labels(self, x: np.ndarray) -> np.ndarray:
        """(n, classes) all of the probability for the label that the estimator predicts."""
        known = list(getattr(self.estimator, "classes_", range(len(self.classes_))))
        told = np.asarray(self.estimator.predict(x)).tolist()
        if strange := sorted({str(label) for label in told if label not in known}):
            raise InputError(f"model predicted the label '{strange[0]}', which is none of its classes: "
                             f"{', '.join(map(str, known))}")
        return np.eye(len(known))[[known.index(label) for label in told]]


class TorchClassifier(Classifier):
    """A PyTorch module that takes inputs in data units and returns logits; normalisation lives inside the module.

    Args:
        module: `(n, ...) float32 -> (n, classes)` logits, or `classes + 1` logits when `rejects`.
        classes: Number of classes.
        space: The possible inputs.
        rejects: The last logit stands for "refuse to judge" (Carlini and Wagner 2017, arXiv 1705.07263, sec. 3.3).
        device: Where the module lives.
        recipe: The recipe that made it, if any: see `suite.recipe`.
        batch: Inputs judged at once; found from the first input and the memory there is when left out.
    """

    def __init__(self, module: nn.Module, classes: int, space: Space, rejects: bool = False,
                 device: torch.device | str = "cpu", recipe: Any = None, batch: int | None = None) -> None:
        super().__init__(classes, space.to(device))
        self.batch = batch
        self.module = module.to(device).eval()
        self.rejects, self.recipe = rejects, recipe
        self._device = torch.device(device)
        self._direct: tuple[nn.Module | None, Pull | None] = None, None
        self.gradients = 0
        """Inputs differentiated since the counter was last set to 0."""

    @property
    def device(self) -> torch.device:
        return self._device

    def logits(self, x: Tensor) -> Tensor:
        """(n, classes) logits; differentiable in `x`. Counted as queries."""
        self.queries += len(x)
        return self.module(x)

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return in_batches(self, self.logits, x)

    def judge(self, x: Tensor) -> Tensor:
        label = self.scores(x).argmax(1)
        return torch.where(label == len(self.classes_), REJECTED, label)

    def gradient(self, x: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, objective and its gradient with respect to the input.

        Args:
            x: (n, ...) inputs on the device.
            objective: `logits -> (n,)` values, each depending on its own row only.

        Returns:
            `(logits, values, gradient)`, all detached. Parameter gradients are neither computed nor touched.
        """
        self.gradients += len(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self.logits(x)
            values = objective(logits)
            (grad,) = torch.autograd.grad(values.sum(), x)
        return logits.detach(), values.detach(), grad

    def pull(self, x: Tensor, weights: Callable[[Tensor], Sequence[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and input gradients of weighted sums of them: the cheapest gradients there are.

        Args:
            x: (n, ...) inputs on the device.
            weights: `logits -> [(n, logits), ...]`, the derivatives of each objective with respect to the logits. One
                forward pass serves them all.
        """
        if (passes := self._passes()) is not None and not self.module.training:
            self.queries += len(x)
            logits, grads = passes(x, weights)
            self.gradients += len(x) * len(grads)
            return logits, grads
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self.logits(x)
        value = logits.detach()
        pulls = weights(value)
        self.gradients += len(x) * len(pulls)
        last = len(pulls) - 1
        return value, [torch.autograd.grad(logits, x, w, retain_graph=i < last)[0] for i, w in enumerate(pulls)]

    def _passes(self) -> Pull | None:
        """Passes without autograd, where the module is plain enough; looked at once for each module."""
        if self._direct[0] is not self.module:
            from suite.passes import direct  # which knows the layers of training, which knows classifiers

            self._direct = self.module, direct(self.module)
        return self._direct[1]

    def frozen(self) -> AbstractContextManager[None]:
        """Evaluation mode with parameters that need no gradient, so that backward passes reach the input only."""
        return frozen(self.module)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.judge(torch.as_tensor(np.ascontiguousarray(x, np.float32), device=self.device)).cpu().numpy()

    def _proba(self, x: np.ndarray) -> np.ndarray:
        def proba(part: Tensor) -> Tensor:
            return self.module(part.to(self.device))[:, : len(self.classes_)].double().softmax(1).cpu()

        with torch.no_grad():
            return in_batches(self, proba, torch.from_numpy(x)).numpy()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """As `TorchClassifier.frozen`, for a module that is still in training."""
    training, needs = module.training, [p.requires_grad for p in module.parameters()]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in zip(module.parameters(), needs, strict=True):
            p.requires_grad_(flag)
        module.train(training)


def margin(logits: Tensor, y: Tensor, classes: int) -> Tensor:
    """How far each input is from being fooled: negative when the label is neither `y` nor "refused".

    Args:
        logits: (n, classes) or, for a module that may refuse, (n, classes + 1).
        y: (n,) true labels.

    Returns:
        (n,) `max(z_y, z_refused) - max_{j != y} z_j`.
    """
    rows = torch.arange(len(y), device=logits.device)
    others = logits[:, :classes].clone()
    others[rows, y] = -torch.inf
    kept = logits[rows, y] if logits.shape[1] == classes else torch.maximum(logits[rows, y], logits[:, classes])
    return kept - others.amax(1)
