"""The operating point: the threshold at which a model of two classes decides, moved into its logits.

What decides then is again the larger logit, so that every attack, measurement and reader sees the same decision.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from suite.core.classifier import TorchClassifier
from suite.core.data import Split
from suite.results.metrics import balanced_accuracy
from suite.training.features import last_linear


def balance(classifier: TorchClassifier, val: Split) -> None:
    """Where the recipe asks for it, move the threshold with the best balanced accuracy on `val` to where the two logits
    are equal.

    `notes["operating_point"]` tells what was done. Nothing is where `val` lacks a class, and the model stays as it was
    where no threshold beats chance or where its logits do not come out of a linear layer.
    """
    if classifier.recipe.operating_point != "balanced" or len(val.classes) != 2 or len(np.unique(val.y)) < 2:
        return
    x = torch.from_numpy(val.x).to(classifier.device)
    before = _lead(classifier, x)
    cut, best = threshold(before, val.y)
    if best <= 0.5:
        classifier.notes["operating_point"] = "the larger logit, as trained: no threshold beats chance on validation"
        return
    name = last_linear(classifier.module, x[:1])
    bias = classifier.module.get_submodule(name).bias if name else None
    if bias is not None and len(bias) <= 2:
        as_trained = bias.detach().clone()
        with torch.no_grad():  # a single logit is that of the second class
            bias += bias.new_tensor([cut / 2, -cut / 2] if len(bias) == 2 else [-cut])
        after = _lead(classifier, x)
        if np.allclose(after, before - cut, rtol=0, atol=1e-4 * (1 + np.abs(before).max())):
            reached = balanced_accuracy(after > 0, val.y)
            classifier.notes["operating_point"] = (
                f"{val.classes[1]} from a probability of {1 / (1 + np.exp(-cut)):.3f} as trained: chosen on {len(val)} "
                f"validation inputs, where balanced accuracy is {reached:.3f}")
            return
        bias.data.copy_(as_trained)
    classifier.notes["operating_point"] = "the larger logit, as trained: the network does not end in a linear layer"


def _lead(classifier: TorchClassifier, x: Tensor) -> np.ndarray:
    """(n,) float64 lead of the second logit over the first."""
    return classifier.scores(x).double().diff(dim=1)[:, 0].cpu().numpy()


def threshold(scores: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The cut with the best balanced accuracy of `scores > cut`, and that accuracy.

    Args:
        scores: (n,) higher for class 1.
        y: (n,) labels, both present.

    Returns:
        The middle between two neighbouring scores, of equally good ones the middle one; (0, 0.5) where none beats
        chance.
    """
    order = np.argsort(scores, kind="stable")
    scores, y = scores[order], y[order]
    # after how many of the lowest scores to cut: specificity grows with each 0 below, sensitivity falls with each 1
    below = np.arange(1, len(y))
    accuracy = (np.cumsum(y == 0)[:-1] / (y == 0).sum() + 1 - np.cumsum(y == 1)[:-1] / (y == 1).sum()) / 2
    accuracy = np.where(scores[1:] > scores[:-1], accuracy, 0)
    if accuracy.max() <= 0.5:
        return 0.0, 0.5  # to say the same of all is as good
    ties = below[np.isclose(accuracy, accuracy.max(), rtol=0, atol=1e-12)]
    cut = ties[len(ties) // 2]
    return float((scores[cut - 1] + scores[cut]) / 2), float(accuracy.max())
