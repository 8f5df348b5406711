"""Randomized smoothing: a network that is asked under Gaussian noise, and a proof of how far no attack can come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.base.bounds import Count, Positive
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.batches import batch_size, in_batches
from suite.core.classifier import REJECTED, Classifier, TorchClassifier
from suite.core.data import Split
from suite.core.defense import Defense, Front
from suite.core.recipe import Recipe
from suite.defenses.post_training.around import around
from suite.training.loop import Batch, TorchDefense, TorchRecipe, fit
from suite.training.randomized import Chance, GaussianNoise, Randomized, RandomizedClassifier

_TWO = ("Certified accuracy is that of the vote under endless draws, robust accuracy that of the mean over a few fixed "
        "ones")


@dataclass(frozen=True)
class RandomizedSmoothing(TorchDefense):
    """A network trained under Gaussian noise and asked under it `draws` times; its robustness in L2 can be proven.

    Attributes:
        sigma: Standard deviation of the noise, in units of the space's scale, positive.
        draws: Noisy copies of each input that a prediction, or a step of an attack, averages over.
    """

    info: ClassVar[Info] = Info(
        "Randomized smoothing", "Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918", threats=("evasion",),
        cost="one training; `draws` passes a prediction, 1100 a certificate",
        departs="predictions are the mean probabilities of a few draws, the same for all inputs, so that they can be "
                "repeated; certificates are the paper's. Attacks average over draws of their own (EOT), as in Salman "
                f"et al. 2019, arXiv 1906.04584. {_TWO}")
    sigma: Positive = 0.25
    draws: Count = 16

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, recipe: TorchRecipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> TorchClassifier:
        self.check(recipe)
        sigma = self.sigma * train.space.to(device).scale

        def noisy(module: nn.Module, batch: Batch) -> Tensor:
            noise = torch.randn(batch.x.shape, generator=batch.generator).to(batch.x.device)
            return F.cross_entropy(module(batch.x + sigma * noise), batch.y, reduction="none")

        return smoothed(fit(recipe, train, val, seed=seed, device=device, objective=noisy), self.sigma, self.draws)

    def rebuilt(self, recipe: TorchRecipe, bare: Callable[[TorchRecipe], TorchClassifier]) -> TorchClassifier:
        return smoothed(bare(recipe), self.sigma, self.draws)


@dataclass(frozen=True)
class NoiseFront(Front):
    """Gaussian noise in front of a network that was trained without; attacks average over draws of their own (EOT).

    Attributes:
        sigma, draws: As for `RandomizedSmoothing`.
    """

    info: ClassVar[Info] = Info(
        "Gaussian noise on the input", "Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918; Guo et al. 2018, arXiv "
        "1711.00117", threats=("evasion",), cost="`draws` passes a prediction, 1100 a certificate", departs=_TWO)
    sigma: Positive = 0.05
    draws: Count = 16

    def __post_init__(self) -> None:
        _check(self)

    def check(self, recipe: Recipe) -> None:
        if "gradients" not in recipe.offers:
            raise NotApplicable("NoiseFront stands in front of networks only")

    def wrap(self, classifier: Classifier, train: Split, val: Split) -> Classifier:
        if not isinstance(classifier, TorchClassifier):
            raise NotApplicable("NoiseFront stands in front of networks only")
        return smoothed(classifier, self.sigma, self.draws)


def _check(defense: Defense) -> None:
    if not defense.sigma > 0 or defense.draws < 1:
        raise InputError(f"{type(defense).__name__}: sigma must be positive and draws at least 1, got "
                         f"{defense.sigma} and {defense.draws}")


def smoothed(classifier: TorchClassifier, sigma: float, draws: int) -> SmoothedClassifier:
    """A network under noise of `sigma`, in units of its space's scale."""
    chance = Chance(draws)
    noise = GaussianNoise(sigma * classifier.space.scale, chance)
    return around(classifier, Randomized(nn.Sequential(noise, classifier.module), chance), SmoothedClassifier,
                  sigma=sigma)


class SmoothedClassifier(RandomizedClassifier):
    """A network under Gaussian noise, which can prove how far no attack in L2 comes.

    Args:
        sigma: Of its noise, in units of the space's scale.
        args, more: As for `TorchClassifier`.
    """

    certified_norm = "l2"

    def __init__(self, *args: Any, sigma: float, **more: Any) -> None:
        super().__init__(*args, **more)
        self.sigma = sigma

    def certify(self, x: Tensor, seed: int = 0, n0: int = 100, n: int = 1000,
                alpha: float = 0.001) -> tuple[np.ndarray, np.ndarray]:
        """Labels that the smoothed network gives to everything within a radius (Cohen et al. 2019, algorithm CERTIFY).

        What is certified is the vote under endless draws. Each row is right with probability 1 - alpha.

        Args:
            x: (m, ...) inputs on the device.
            seed: Of the noise.
            n0: Draws that choose the label.
            n: Draws that bound how often it wins.
            alpha: Probability with which a row may be wrong.

        Returns:
            (m,) int64 labels, `REJECTED` where nothing can be said, and (m,) float64 L2 radii, in units of the space's
            scale, 0 there.
        """
        from scipy.stats import beta, norm

        generator = torch_generator(seed, self.device)
        label = self._votes(x, n0, generator).argmax(1)
        hits = np.arange(n + 1)
        least = np.append(0.0, beta.ppf(alpha, hits[1:], n - hits[1:] + 1))  # Clopper and Pearson, one-sided
        wins = self._wins(x, label, n, int(np.argmax(least > 0.5)) if (least > 0.5).any() else n + 1, generator)
        p = least[wins.cpu().numpy()]
        sure = p > 0.5
        return np.where(sure, label.cpu().numpy(), REJECTED), np.where(sure, self.sigma * norm.ppf(p), 0.0)

    def _wins(self, x: Tensor, label: Tensor, n: int, enough: int, generator: torch.Generator) -> Tensor:
        """(m,) how often each label wins in `n` draws; a row leaves early once it cannot win `enough` times."""
        wins, left, done = torch.zeros_like(label), torch.arange(len(x), device=x.device), 0
        while done < n and len(left):
            more = min(self.CHUNK, n - done)
            wins[left] += self._votes(x[left], more, generator).gather(1, label[left, None])[:, 0]
            done += more
            left = left[wins[left] + (n - done) >= enough]
        return wins

    CHUNK: ClassVar[int] = 100
    """Draws after which hopeless rows leave."""

    def _votes(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """(m, classes) how often each class wins in `n` draws of (m, ...) inputs."""
        noise, network = self.module.inner
        votes = torch.zeros(len(x), len(self.classes_), dtype=torch.int64, device=x.device)
        row = torch.arange(len(x) * n, device=x.device).div(n, rounding_mode="floor")

        def judged(some: tuple[Tensor, ...]) -> Tensor:
            near = x[torch.cat(some)]
            return network(near + noise.sigma * torch.randn(near.shape, generator=generator, device=x.device)).argmax(1)

        if self.batch is None and len(x):  # or the noise would hang on what was asked before
            self.batch = batch_size(self, x)
        with torch.no_grad():
            label = in_batches(self, judged, row.split(self.module.chance.draws))  # as many as one input costs
        votes.index_put_((row, label), torch.ones_like(row), accumulate=True)
        self.queries += len(x) * n
        return votes
