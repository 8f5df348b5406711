"""The classifier contract: scikit-learn's, plus gradients where there are any."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from suite.base.errors import InputError
from suite.base.limits import answering
from suite.core.batches import in_batches
from suite.core.space import Space

if TYPE_CHECKING:
    from suite.core.passes import Pull

PENDING = 32
"""Passes on a device other than the CPU after which their answers are looked at."""
SUM_TOLERANCE = 1e-3
"""By how much the probabilities of a row may miss 1, and one of them 0: those of half precision do."""
REJECTED = -1
"""Label that `Classifier.predict` gives to an input the model refuses to judge."""


class Classifier(ABC):
    """Something that maps inputs to class probabilities, and counts how often it was asked.

    Attributes:
        classes_: (k,) int64 labels 0 .. k-1, as in scikit-learn.
        space: The possible inputs.
        queries: Inputs judged since the counter was last set to 0.
        notes: What its training found out or decided (a piloted budget, a claimed epsilon), for the report.
        batch: Inputs judged at once; None until `suite.core.batches` has found what fits. It lowers it when memory runs
            out.
        rejects: Whether it may refuse to judge: then `scores` has one more column, "refused".
        labels_only: Whether it tells labels and no probabilities: the label's is 1 then, and says nothing.
        time_limit: Seconds that one query may take; None for no limit. See `suite.base.limits.answering`.
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
        self.time_limit: float | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def name(self) -> str:
        """For messages: where a fitted model came from, else the kind of what was trained."""
        recipe = getattr(self, "recipe", None)
        made = getattr(self, "estimator", getattr(self, "module", self)) if recipe is None else recipe
        return getattr(recipe, "source", "") or type(made).__name__

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, classes) float64 probabilities of (n, ...) inputs in data units; any real dtype is cast to float32."""
        x = np.ascontiguousarray(x, np.float32)
        self.queries += len(x)
        return check_proba(self.name, self._proba(x))

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
        recipe: The recipe that made it, if any: see `suite.core.recipe`.
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
            # copies of the inputs and of the answer, as models may write into either later; a read-only view would
            # refuse those that clean their own inputs, and PyTorch writes into it all the same
            with answering(self.name, self.time_limit):
                if self.labels_only:
                    proba = self._labels(x.copy())
                else:
                    proba = np.array(self.estimator.predict_proba(x.copy()), np.float64)
        if proba.shape != (len(x), len(self.classes_)):
            raise InputError(f"model {self.name} returned probabilities of shape {proba.shape} for {len(x)} rows and "
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
        recipe: The recipe that made it, if any: see `suite.core.recipe`.
        batch: Inputs judged at once; found from the first input and the memory there is when left out.
        changed: What training did to the layers of the recipe's network, so that stored weights find their places:
            "group-norm" (in place of batch normalisation), "folded" (into the convolutions before).
    """

    def __init__(self, module: nn.Module, classes: int, space: Space, rejects: bool = False,
                 device: torch.device | str = "cpu", recipe: Any = None, batch: int | None = None,
                 changed: tuple[str, ...] = ()) -> None:
        super().__init__(classes, space.to(device))
        self.batch = batch
        self.module = module.to(device).eval()
        self.rejects, self.recipe, self.changed = rejects, recipe, changed
        self._device = torch.device(device)
        self._direct: tuple[nn.Module | None, Pull | None] = None, None
        self._looked_at: tuple[nn.Module | None, bool] = None, True
        self._unchecked: list[Tensor] = []
        self.gradients = 0
        """Inputs differentiated since the counter was last set to 0."""

    @property
    def device(self) -> torch.device:
        return self._device

    def logits(self, x: Tensor) -> Tensor:
        """(n, classes) logits; differentiable in `x`. Counted as queries.

        A module that may change its input in place is given a copy of `x`. On a CPU every answer is checked at
        once; elsewhere, where looking at a value waits for the device, when `scores` and what builds on it is called,
        or after `PENDING` passes.

        Raises:
            InputError: The logits are of another shape, or one is not finite.
        """
        self.queries += len(x)
        if not self._foreign():
            return self._checked(self.module(x), len(x))
        with answering(self.name, self.time_limit):
            return self._checked(self.module(x.clone()), len(x))

    def _foreign(self) -> bool:
        """Whether the module may write into its input: not where it is one of ours and its first layer is known to make
        something new of it, as that of all networks trained here."""
        module = self.module
        if self._looked_at[0] is not module:
            from suite.core.normalize import Normalize

            first = next(iter(module), None) if type(module) is nn.Sequential else module
            # a hook or a method of the instance's own is called with the input, too
            fresh = type(first) in (Normalize, nn.Linear, nn.Conv2d) and not any(
                m._forward_pre_hooks or m._forward_hooks or "forward" in vars(m) for m in {module, first})
            self._looked_at = module, not fresh or getattr(self.recipe, "foreign", False)
        return self._looked_at[1]

    def _checked(self, logits: Tensor, n: int) -> Tensor:
        if logits.shape != (n, len(self.classes_) + self.rejects):
            raise InputError(f"model {self.name} returned logits of shape {tuple(logits.shape)} for {n} rows and "
                             f"{len(self.classes_) + self.rejects} columns")
        if self._device.type == "cpu":
            if not math.isfinite(logits.detach().sum().item()):  # one reduction, which a NaN or infinity never leaves
                check_logits(self.name, logits.detach())
        else:
            self._unchecked.append(logits.detach().clone())  # attacks may write into theirs
            if len(self._unchecked) >= PENDING:
                self._check_pending()
        return logits

    def _check_pending(self) -> None:
        """Look at the answers that have not been looked at yet, all at once."""
        pending, self._unchecked = self._unchecked, []
        if pending and not bool(torch.cat(pending).isfinite().all()):
            for logits in pending:
                check_logits(self.name, logits)

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = in_batches(self, self.logits, x)
        self._check_pending()
        return logits

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
            logits, grads = passes(x, weights)  # which write into no input
            self._checked(logits, len(x))
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
            from suite.core.passes import direct  # which knows the layers of training, which knows classifiers

            self._direct = self.module, direct(self.module)
        return self._direct[1]

    def frozen(self) -> AbstractContextManager[None]:
        """Evaluation mode with parameters that need no gradient, so that backward passes reach the input only."""
        return frozen(self.module)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.judge(torch.as_tensor(np.ascontiguousarray(x, np.float32), device=self.device)).cpu().numpy()

    def _proba(self, x: np.ndarray) -> np.ndarray:
        def proba(part: Tensor) -> Tensor:
            return self.logits(part.to(self.device))[:, : len(self.classes_)].double().softmax(1).cpu()

        asked = self.queries  # by `predict_proba`, which has counted them
        with torch.no_grad():
            answer = in_batches(self, proba, torch.from_numpy(x)).numpy()
        self.queries = asked
        self._check_pending()
        return answer


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


def check_proba(name: str, proba: np.ndarray) -> np.ndarray:
    """(n, classes) probabilities as they are; `InputError` names the model, the row and the value if they are none."""
    if proba.size:
        sums = proba.sum(1)
        # written so that NaN fails; a value above 1 makes either its sum too large or another value negative
        if not (proba.min() >= -SUM_TOLERANCE and np.abs(sums - 1).max() <= SUM_TOLERANCE):
            fine = (proba >= -SUM_TOLERANCE).all(1) & (np.abs(sums - 1) <= SUM_TOLERANCE)
            row = int(np.argmin(fine))
            odd = proba[row][~(proba[row] >= -SUM_TOLERANCE)]
            what = f"the probability {odd[0]:g}" if len(odd) else f"probabilities that sum to {sums[row]:.4g}"
            raise InputError(f"model {name} does not return probabilities: row {row} of {len(proba)} has {what}; "
                             "values from 0 to 1 that sum to 1 are expected")
    return proba


def check_logits(name: str, logits: Tensor) -> None:
    """`InputError` names the model, the row and the value where one of (n, classes) logits is not finite."""
    good = logits.isfinite()
    if not bool(good.all()):
        row = int((~good.all(1)).nonzero()[0])
        raise InputError(f"model {name} returned a logit that is not finite: row {row} of {len(logits)} has "
                         f"{float(logits[row][~good[row]][0]):g}")
