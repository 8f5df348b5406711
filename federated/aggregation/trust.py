"""Rules that judge the direction of updates: by the server's own (FLTrust), or by what most sites agree on (FLAME)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.cluster import HDBSCAN
from torch import Tensor

from federated.aggregation.aggregate import Aggregator, clip_factors
from federated.core.stacked import combine, dots, gram, norms
from suite.base.bounds import NonNegative, Seed
from suite.base.errors import InputError
from suite.base.info import Info


@dataclass(frozen=True)
class FLTrust(Aggregator):
    """The mean of the updates, each as long as the server's own, weighted by its cosine with that where positive.

    The server's own update is `reference`: trained on a small clean data set that it keeps. Where the cosine of no site
    is positive, the result is 0. Any number of bad sites is tolerated: the result is never longer than the server's
    update, nor at more than a right angle to it.
    """

    info: ClassVar[Info] = Info(
        "FLTrust", "Cao, Fang, Liu and Gong 2021, arXiv 2012.13995", threats=("poisoning",),
        cost="three reads of the updates, and the server's own training",
        departs="the paper does not say what happens where no site is trusted")

    def tolerates(self, n: int) -> int:
        return n

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        if reference is None:
            raise InputError("FLTrust: needs the server's own update as reference")
        own = norms(reference[None])
        lengths = norms(updates)
        trust = _cosines(dots(updates, reference), lengths * own).clamp_min(0)
        return combine(trust * own / lengths.clamp_min(1e-300) / trust.sum().clamp_min(1e-300), updates)


@dataclass(frozen=True)
class FLAME(Aggregator):
    """The mean of the updates that a majority's cluster admits, cut to the median length, plus noise.

    Clusters are those of HDBSCAN on cosine distances, of more than half the sites. It also leaves out honest sites at
    the cluster's edge, of 20 alike without any bad one about 8. Where there is no cluster, or are fewer than three
    sites, all are admitted, and only the clipping and the noise defend.

    Attributes:
        noise: Standard deviation of the noise in each coordinate, over the median length of the updates. Not negative;
            the paper's default for images is 0.001.
        seed: Of the noise: another one each round (`dataclasses.replace`).
    """

    info: ClassVar[Info] = Info(
        "FLAME", "Nguyen et al. 2022, arXiv 2101.02281", threats=("poisoning",), cost="one Gram matrix, and noise",
        departs="cosines are those of updates, which are all that the server is given; the paper's are those of models")
    noise: NonNegative = 0.001
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise InputError(f"FLAME: noise must not be negative, got {self.noise!r}")

    def tolerates(self, n: int) -> int:
        return (n - 1) // 2

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        products = gram(updates)
        lengths = products.diagonal().sqrt()
        admitted = self._admitted(_cosines(products, lengths[:, None] * lengths))
        result = combine(clip_factors(lengths, None) * admitted / admitted.sum(), updates)
        generator = torch.Generator(result.device).manual_seed(self.seed)
        spread = self.noise * float(lengths.quantile(0.5))
        return result + spread * torch.randn(result.shape, generator=generator, device=result.device)

    @staticmethod
    def _admitted(cosines: Tensor) -> Tensor:
        """(n,) bool, of (n, n) cosines between the updates."""
        n = len(cosines)
        if n < 3:
            return torch.ones(n, dtype=torch.bool, device=cosines.device)
        distances = (1 - cosines).clamp_min(0).fill_diagonal_(0).cpu().numpy()
        labels = HDBSCAN(min_cluster_size=n // 2 + 1, min_samples=1, metric="precomputed", allow_single_cluster=True,
                         copy=True).fit_predict(distances)
        admitted = torch.from_numpy(labels >= 0) if (labels >= 0).any() else torch.ones(n, dtype=torch.bool)
        return admitted.to(cosines.device)


def _cosines(products: Tensor, lengths: Tensor) -> Tensor:
    """Cosines from inner products and products of lengths; that with an update of length 0 is 0."""
    return (products / lengths.clamp_min(1e-300)).clamp(-1, 1)
