"""Model inversion: what a typical training input of each class looks like, seen through the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from suite.art import art_fence, art_gradient_estimator
from suite.attack import Info, InversionAttack
from suite.classifier import Classifier, TorchClassifier
from suite.data import Split
from suite.errors import NotApplicable


@dataclass(frozen=True)
class MIFace(InversionAttack):
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
    max_iter: int = 300
    rate: float = 0.1

    def check(self, classifier: Classifier) -> None:
        if not isinstance(classifier, TorchClassifier):
            raise NotApplicable("MIFace needs gradients, which this model does not give")

    def __call__(self, classifier: TorchClassifier, start: np.ndarray, seed: int = 0) -> np.ndarray:
        from art.attacks.inference.model_inversion import MIFace

        self.check(classifier)
        classes, inputs = len(classifier.classes_), start.shape
        scale = classifier.space.scale.cpu().expand(inputs).numpy()
        with art_fence(seed), classifier.frozen():
            attack = MIFace(art_gradient_estimator(classifier, inputs), max_iter=self.max_iter, learning_rate=self.rate,
                            threshold=float("inf"), batch_size=classes, verbose=False)
            z = attack.infer(np.repeat((start / scale)[None], classes, axis=0).astype(np.float32), np.arange(classes))
        space = classifier.space.to("cpu")
        return np.clip(z * scale, space.lower.numpy(), space.upper.numpy()).astype(np.float32)


def score(reconstructions: np.ndarray, train: Split) -> dict[str, np.ndarray]:
    """How close reconstructions come to the typical training input of their class.

    Args:
        reconstructions: (classes, ...) in data units, as an `InversionAttack` returns them.
        train: The rows the model learned from, with at least one of each class.

    Returns:
        "distance" and "prior", each (classes,) float64: L2 distance to the mean of the class in units of scale, divided
        by the root of the number of features; from the reconstruction, and from the mean of all rows, which needs no
        model. A reconstruction that is no closer than the prior has told the attacker nothing.
    """
    space = train.space.to("cpu")
    means = torch.from_numpy(np.stack([train.x[train.y == k].mean(0) for k in range(len(train.classes))]))
    prior = torch.from_numpy(train.x.mean(0)).expand_as(means)
    root = means[0].numel() ** 0.5
    return {"distance": (space.distance(torch.from_numpy(reconstructions), means, "l2") / root).double().numpy(),
            "prior": (space.distance(prior, means, "l2") / root).double().numpy()}
