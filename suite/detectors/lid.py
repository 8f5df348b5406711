"""A detector by local intrinsic dimensionality: in how many directions the data spreads around an input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from suite.attacks._search import random_start
from suite.attacks.gradient import FGSM
from suite.base.bounds import Count, Positive, Several
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.batches import in_batches
from suite.core.classifier import TorchClassifier
from suite.detectors._torch import TorchDetector
from suite.training.features import Layers


@dataclass
class LID(TorchDetector):
    """Local intrinsic dimensionality in the layers of a network, weighed by a logistic regression.

    The regression is fitted on training inputs: as they are and with noise, against FGSM's versions of them. How it
    does on FGSM therefore says little.

    Attributes:
        eps: Budget (Linf) of that noise and of that FGSM, in units of the space's scale. An audit sets its main one.
        k: Neighbors, at least 2.
        reference: Clean inputs among which neighbors are looked for, more than `k`.
        layers: Layers at most; of a deeper network, evenly spaced ones.
        most: Clean inputs that the regression is fitted on.
    """

    info: ClassVar[Info] = Info(
        "Local intrinsic dimensionality", "Ma et al. 2018, arXiv 1801.02613; on medical images Ma et al. 2019, arXiv "
        "1907.10456", cost="one FGSM on clean data, and distances to 100 clean inputs in each layer",
        departs="neighbors come from one set of clean inputs instead of a new one a minibatch, so that a score does "
                "not depend on the company of an input; maps are averaged over places; all of FGSM's versions count, "
                "whether they fool or not")
    needs: ClassVar[Literal["gradients"]] = "gradients"
    fitted_on: ClassVar[str] = "fgsm"
    eps: Positive = 0.05
    k: Several = 20
    reference: Several = 100
    layers: Count = 8
    most: Several = 1000

    def __post_init__(self) -> None:
        if not 2 <= self.k < self.reference:
            raise InputError(f"LID: k must be at least 2 and less than reference={self.reference}, got {self.k}")

    def learn(self, clean: np.ndarray, y: np.ndarray | None, classifier: TorchClassifier | None) -> nn.Module:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        if len(clean) < self.reference + self.k:
            raise InputError(f"LID needs at least {self.reference + self.k} clean inputs, got {len(clean)}")
        y = classifier.predict(clean) if y is None else y
        generator = torch_generator(0, classifier.device)
        order = torch.randperm(len(clean), generator=torch_generator(0))[:self.reference + self.most].numpy()
        near, rest = (torch.from_numpy(clean[part]).to(classifier.device)
                      for part in (order[:self.reference], order[self.reference:]))
        label = torch.from_numpy(y[order[self.reference:]]).to(classifier.device)
        reach = classifier.space.reach(rest, self.eps)
        noisy = reach.snap(random_start(reach, classifier.space.scale, self.eps, "linf", generator, edge=True))
        attacked = FGSM(eps=self.eps)(classifier, rest, label)
        layers = Layers(classifier.module, self.layers)
        with torch.no_grad():
            module = _Dimensions(layers, layers(near), self.k)
            found = [in_batches(classifier, module.dimensions, x).cpu().numpy() for x in (rest, noisy, attacked)]
        x, bad = np.concatenate(found), np.repeat([False, False, True], len(rest))
        scaler = StandardScaler().fit(x)
        fit = LogisticRegression(class_weight="balanced", max_iter=1000).fit(scaler.transform(x), bad)
        weight = fit.coef_[0] / scaler.scale_
        module.weight.copy_(torch.from_numpy(weight))
        module.bias.copy_(torch.tensor(float(fit.intercept_[0] - weight @ scaler.mean_)))
        return module


class _Dimensions(nn.Module):
    """Log odds, by the dimensionality in each layer, that an input is adversarial."""

    def __init__(self, layers: Layers, references: list[Tensor], k: int) -> None:
        super().__init__()
        self.layers, self.k = layers, k
        for i, reference in enumerate(references):
            self.register_buffer(f"reference{i}", reference)
        self.register_buffer("weight", references[0].new_zeros(len(references)))
        self.register_buffer("bias", references[0].new_zeros(()))

    def dimensions(self, x: Tensor) -> Tensor:
        """(n, layers) local intrinsic dimensionality."""
        distances = (torch.cdist(z, getattr(self, f"reference{i}"), compute_mode="donot_use_mm_for_euclid_dist")
                     for i, z in enumerate(self.layers(x)))
        return torch.stack([dimensionality(d.topk(self.k, largest=False).values) for d in distances], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dimensions(x) @ self.weight + self.bias


def dimensionality(distances: Tensor) -> Tensor:
    """(n,) maximum-likelihood estimates of local intrinsic dimensionality (Amsaleg et al. 2015, KDD).

    Args:
        distances: (n, k) to the k nearest neighbors, in rising order.

    Returns:
        `-1 / mean_i log(d_i / d_k)`, at most 1000.
    """
    distances = distances.clamp(min=1e-12)
    return -1 / (distances / distances[:, -1:]).log().mean(1).clamp(max=-1e-3)
