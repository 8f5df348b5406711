"""Model inversion: what a typical training input of each class looks like, seen through the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from suite.attacks.art.border import art_fence, art_gradient_estimator, box
from suite.base.bounds import Count, LearningRate, NonNegative, Positive
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.base.seeding import seeded
from suite.core.attack import InversionAttack
from suite.core.classifier import Classifier, TorchClassifier


@dataclass(frozen=True)
class _ByGradient(InversionAttack):
    """An inversion that follows the gradient of a network, in units of the space's scale."""

    needs: ClassVar[Literal["gradients"]] = "gradients"

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        if not isinstance(classifier, TorchClassifier):
            raise NotApplicable(f"{type(self).__name__} needs gradients, which this model does not give")


@dataclass(frozen=True)
class MIFace(_ByGradient):
    """Climbs the model's confidence in each class from a common start, inside the box of the space (ART).

    Attributes:
        max_iter: Steps; all are taken.
        rate: Length of a step per unit of gradient, in units of the space's scale.
    """

    info: ClassVar[Info] = Info(
        "Model inversion (MIFace)", "Fredrikson, Jha and Ristenpart 2015, doi 10.1145/2810103.2813677", "white-box",
        ("inversion",), "one gradient a class and step",
        "climbs the log-probability, whose gradient does not vanish where the model is sure of another class; takes a "
        "fixed number of steps, because ART's stop test is inverted: it goes on while the confidence is high and stops "
        "while it is low")
    max_iter: Count = 300
    rate: LearningRate = 0.1

    def __call__(self, classifier: TorchClassifier, start: np.ndarray, seed: int = 0) -> np.ndarray:
        from art.attacks.inference.model_inversion import MIFace

        self.check(classifier)
        classes, inputs = len(classifier.classes_), start.shape
        scale = classifier.space.scale.cpu().expand(inputs).numpy()
        lower, upper = box(classifier, inputs)
        with art_fence(seed), classifier.frozen():
            attack = MIFace(art_gradient_estimator(classifier, inputs), max_iter=self.max_iter, learning_rate=self.rate,
                            threshold=float("inf"), batch_size=classes, verbose=False)
            z = attack.infer(np.repeat((start / scale)[None], classes, axis=0).astype(np.float32), np.arange(classes))
        return np.clip(z * scale, lower, upper).astype(np.float32)


@dataclass(frozen=True)
class PriorInversion(_ByGradient):
    """The likeliest input of each class under a prior: smooth, if it is an image, and not far from where it began.

    Maximises `log p(class | x) - tv * TV(x) - prior * mean((x - start)**2)` by projected Adam, inside the box of the
    space and in units of its scale. TV is the mean absolute difference of neighbouring pixels, rows and columns added;
    a table has none. The default weights were chosen on training and validation images of PneumoniaMNIST and a small
    network: with less the result is noise, with more it is the start.

    Attributes:
        tv: Weight of the total variation.
        prior: Weight of the mean squared distance to the start.
        steps: Gradients of each class; all are taken.
        rate: Length of the first steps in units of scale; it falls to 0 linearly, so that the search settles.
    """

    info: ClassVar[Info] = Info(
        "Model inversion with a prior", "Fredrikson, Jha and Ristenpart 2015, doi 10.1145/2810103.2813677; prior: "
        "Mahendran and Vedaldi 2015, arXiv 1412.0035", "white-box", ("inversion",), "one gradient a class and step",
        "inverts the probability of a class, where Mahendran and Vedaldi invert the features of one image; absolute "
        "differences; a Gaussian around the average input in place of a norm; Adam in place of momentum",
        strong=True, strong_from=("steps", 50))
    tv: NonNegative = 1.0
    prior: NonNegative = 100.0
    steps: Count = 200
    rate: Positive = 0.05

    def __post_init__(self) -> None:
        if not (0 <= self.tv < np.inf and 0 <= self.prior < np.inf):
            raise InputError(f"PriorInversion: tv and prior must be 0 or more, and finite, got {self.tv!r} and "
                             f"{self.prior!r}")

    def __call__(self, classifier: TorchClassifier, start: np.ndarray, seed: int = 0) -> np.ndarray:
        self.check(classifier)
        classes, space = len(classifier.classes_), classifier.space
        lower, upper = (v / space.scale for v in (space.lower, space.upper))
        origin = (torch.from_numpy(start).to(classifier.device) / space.scale).expand(classes, *start.shape)
        z = origin.clone().requires_grad_()
        adam = torch.optim.Adam([z], self.rate)
        falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, self.steps)
        with seeded(seed), classifier.frozen(), torch.enable_grad():
            for _ in range(self.steps):
                logits = classifier.logits(z * space.scale)[:, :classes]
                classifier.gradients += classes
                loss = self.penalty(z, origin) - logits.log_softmax(1).diagonal()
                (z.grad,) = torch.autograd.grad(loss.sum(), z)
                adam.step()
                falling.step()
                with torch.no_grad():
                    z.copy_(z.clamp(lower, upper))
        return (z.detach() * space.scale).clamp(space.lower, space.upper).cpu().numpy()

    def penalty(self, z: Tensor, origin: Tensor) -> Tensor:
        """(n,) what the prior takes off the log-probability of (n, ...) inputs in units of scale."""
        far = self.prior * (z - origin).square().flatten(1).mean(1)
        return far + self.tv * variation(z) if z.dim() == 4 else far


def variation(images: Tensor) -> Tensor:
    """(n,) total variation of (n, channels, height, width) images: mean absolute difference between neighbours."""
    return sum(images.diff(dim=d).abs().flatten(1).mean(1) for d in (2, 3))

