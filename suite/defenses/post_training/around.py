"""Classifiers around other classifiers: what the inner one is and knows stays the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from suite.core.classifier import Classifier, TorchClassifier


def around(classifier: TorchClassifier, module: nn.Module, kind: type[TorchClassifier] = TorchClassifier,
           **more: Any) -> TorchClassifier:
    """A network that judges by `module`, which holds that of `classifier`.

    Args:
        classifier: Trained.
        module: Takes and returns what the classifier's own does, unless `more` says otherwise.
        kind: Class of the new one.
        more: Further arguments of that class, or others in place of the classifier's.
    """
    kept = {"rejects": classifier.rejects, "device": classifier.device, "recipe": classifier.recipe,
            "changed": classifier.changed}
    made = kind(module, len(classifier.classes_), classifier.space, **kept | more)
    made.notes |= classifier.notes
    made.time_limit = classifier.time_limit
    return made


class Around(Classifier):
    """Base of the same for models of any kind.

    Attributes:
        inner: The model inside.
    """

    def __init__(self, inner: Classifier) -> None:
        super().__init__(len(inner.classes_), inner.space)
        self.inner, self.recipe, self.notes = inner, getattr(inner, "recipe", None), dict(inner.notes)
        self.labels_only = inner.labels_only

    @property
    def device(self) -> torch.device:
        return self.inner.device
