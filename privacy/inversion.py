"""Model inversion: what a typical training input of each class looks like, seen through the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from suite.art import art_fence, art_gradient_estimator
from suite.attack import Info, InversionAttack
from suite.classifier import Classifier, TorchClassifier
from suite.errors import NotApplicable


@dataclass(frozen=True)
class MIFace(InversionAttack):
    """Climbs the model's confidence in each class from a common start, inside the box of the space (ART).

    Attributes:
        max_iter: Steps; all are taken.
        rate: Length of a step per unit of gradient, in units of the space's scale.
    """

    needs: ClassVar[Literal["gradients"]] = "gradients"
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

