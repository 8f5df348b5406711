"""Rules that first mix the updates and then call another rule, to which honest sites look more alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from federated.aggregation.aggregate import Aggregator, Bounded
from federated.core.stacked import combine, squared_distances
from suite.base.bounds import Count, Seed
from suite.base.errors import InputError
from suite.base.info import Info


@dataclass(frozen=True)
class NNM(Bounded):
    """Nearest neighbor mixing: each update becomes the mean of the n - bad nearest to it, itself among them.

    Attributes:
        then: The rule that gets the mixed updates, one a site, without example counts.
    """

    info: ClassVar[Info] = Info("Nearest neighbor mixing", "Allouah et al. 2023, arXiv 2302.01772",
                                threats=("poisoning",), cost="two products of size n x n x d, a copy of the updates")
    then: Aggregator

    def tolerates(self, n: int) -> int:
        return min(super().tolerates(n), self.then.tolerates(n))

    def check(self, n: int) -> None:
        super().check(n)
        self.then.check(n)

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        nearest = squared_distances(updates).argsort(dim=1, stable=True)[:, :len(updates) - self.bad]
        shares = torch.zeros(len(updates), len(updates), device=updates.device)
        shares.scatter_(1, nearest, 1 / nearest.shape[1])
        return self.then(combine(shares, updates), reference=reference)


@dataclass(frozen=True)
class Bucketing(Aggregator):
    """Updates are shuffled and averaged in buckets; a bad site spoils one bucket.

    Attributes:
        size: Sites in a bucket, at least 1; the last bucket may have fewer.
        then: The rule that gets the buckets, without example counts. Its `bad` counts buckets.
        seed: Of the shuffle: another one each round (`dataclasses.replace`), as in the paper.
    """

    info: ClassVar[Info] = Info("Bucketing", "Karimireddy, He and Jaggi 2022, arXiv 2006.09365",
                                threats=("poisoning",), cost="one read of the updates, 1 / size of a copy")
    size: Count
    then: Aggregator
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"Bucketing: size must be at least 1, got {self.size}")

    def tolerates(self, n: int) -> int:
        return self.then.tolerates(math.ceil(n / self.size))

    def check(self, n: int) -> None:
        self.then.check(math.ceil(n / self.size))

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        order = torch.randperm(len(updates), generator=torch.Generator().manual_seed(self.seed)).to(updates.device)
        return self.then(torch.stack([updates[bucket].mean(0) for bucket in order.split(self.size)]),
                         reference=reference)
