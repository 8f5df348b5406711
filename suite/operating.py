"""The operating point: the threshold at which a model of two classes decides, moved into its logits.

What decides then is again the larger logit, so that every attack, measurement and reader sees the same decision.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from suite.classifier import TorchClassifier
from suite.data import Split


def balance(classifier: TorchClassifier, val: Split) -> None:
    """Move the threshold with the best balanced accuracy on `val` to where the two logits are equal.

    `notes["operating_point"]` tells what was done. Nothing is, where `val` lacks a class or where the network does not
    end in a linear layer.
    """
    layer = next((m for m in reversed(list(classifier.module.modules())) if isinstance(m, nn.Linear)), None)
    if layer is None or layer.out_features != 2 or layer.bias is None or len(np.unique(val.y)) < 2:
        return
    logits = classifier.scores(torch.from_numpy(val.x).to(classifier.device)).double().cpu().numpy()
    cut, best = threshold(logits[:, 1] - logits[:, 0], val.y)
    with torch.no_grad():
        layer.bias += layer.bias.new_tensor([cut / 2, -cut / 2])
    classifier.notes["operating_point"] = (
        f"{val.classes[1]} from a probability of {1 / (1 + np.exp(-cut)):.3f} as trained: chosen on {len(val)} "
        f"validation inputs, where balanced accuracy is {best:.3f}")


def threshold(scores: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The cut with the best balanced accuracy of `scores > cut`, and that accuracy.

    Args:
        scores: (n,) higher for class 1.
        y: (n,) labels, both present.

    Returns:
        The middle between two neighbouring scores; of equally good ones the middle one.
    """
    order = np.argsort(scores, kind="stable")
    scores, y = scores[order], y[order]
    # after how many of the lowest scores to cut: specificity grows with each 0 below, sensitivity falls with each 1
    below = np.arange(1, len(y))
    accuracy = (np.cumsum(y == 0)[:-1] / (y == 0).sum() + 1 - np.cumsum(y == 1)[:-1] / (y == 1).sum()) / 2
    accuracy = np.where(scores[1:] > scores[:-1], accuracy, 0)
    if not accuracy.max():
        return 0.0, 0.5  # all scores are equal
    ties = below[np.isclose(accuracy, accuracy.max(), rtol=0, atol=1e-12)]
    cut = ties[len(ties) // 2]
    return float((scores[cut - 1] + scores[cut]) / 2), float(accuracy.max())
