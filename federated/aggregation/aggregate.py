"""How a server puts the updates of its sites together: the mean, and rules that bad sites cannot move far.

A rule is a frozen dataclass called on the stacked updates, and so a rule may change the updates and call another
(`federated.aggregation.mixing`), as in ByzFL (González et al. 2025, arXiv 2505.24802). Rules with a trusted reference
or a noise of their own are in `federated.aggregation.trust`. Only `Mean` looks at the sites' example counts: a count is
the attacker's to choose.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from federated.core.stacked import (
    by_column,
    check_updates,
    check_vector,
    combine,
    gram,
    norms,
    squared_distances,
    squared_distances_of,
)
from suite.base.bounds import Count, Positive, Whole
from suite.base.errors import InputError
from suite.base.info import Info


@dataclass(frozen=True)
class Aggregator(ABC):
    """Base of all rules: a frozen dataclass with an `info`."""

    info: ClassVar[Info]

    def __call__(self, updates: Tensor, weights: Tensor | None = None, reference: Tensor | None = None) -> Tensor:
        """What the server adds to the model.

        Args:
            updates: (n, d) float32, finite: how each site would change the model, in a fixed order of sites.
            weights: (n,) example counts, finite, none negative and not all zero. Only `Mean` uses them.
            reference: (d,) float32, finite: what the server holds against the updates. `CenteredClipping` takes what it
                said last round, `FLTrust` the server's own update; nothing else looks at it.

        Returns:
            (d,) float32.

        Raises:
            InputError: Anything else than this, or more bad sites than the rule tolerates (`check`).
        """
        check_updates(updates)
        n, d = updates.shape
        self.check(n)
        if weights is not None and (weights.shape != (n,) or not torch.isfinite(weights).all() or weights.min() < 0
                                    or not weights.sum() > 0):
            raise InputError(f"weights: needs {n} finite numbers, none negative and not all 0, got {weights.tolist()}")
        if reference is not None:
            check_vector(reference, d, "reference")
        return self._aggregate(updates, weights, reference)

    @abstractmethod
    def tolerates(self, n: int) -> int:
        """The largest number of bad sites among `n` that the rule can be asked to withstand; below 0, not even none."""

    def check(self, n: int) -> None:
        """Raise InputError, naming the bound, if the rule is told of more bad sites than it tolerates among `n`."""

    @abstractmethod
    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        """As `__call__`, of arguments that are what they should be."""


@dataclass(frozen=True)
class Mean(Aggregator):
    """The mean of the updates, weighted by example counts: one bad site moves it anywhere."""

    info: ClassVar[Info] = Info("Federated averaging", "McMahan et al. 2017, arXiv 1602.05629",
                                cost="one read of the updates")

    def tolerates(self, n: int) -> int:
        return 0

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        weights = torch.ones(len(updates), dtype=torch.float64) if weights is None else weights.double()
        return combine(weights / weights.sum(), updates)


@dataclass(frozen=True)
class Median(Aggregator):
    """The median of each coordinate; of an even number of sites, the mean of the middle two."""

    info: ClassVar[Info] = Info("Coordinate-wise median", "Yin et al. 2018, arXiv 1803.01498", threats=("poisoning",),
                                cost="sorting each coordinate")

    def tolerates(self, n: int) -> int:
        return (n - 1) // 2

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        return by_column(updates, _middle)


@dataclass(frozen=True)
class Bounded(Aggregator):
    """A rule that is told how many bad sites to withstand. Attributes: `bad`, that number, not negative."""

    bad: Whole

    sites: ClassVar[tuple[int, int]] = (2, 1)
    """(a, b): the rule needs a * bad + b sites."""

    def __post_init__(self) -> None:
        if self.bad < 0:
            raise InputError(f"{type(self).__name__}: bad must not be negative, got {self.bad}")

    def tolerates(self, n: int) -> int:
        each, least = self.sites
        return (n - least) // each

    def check(self, n: int) -> None:
        each, least = self.sites
        if each * self.bad + least > n:
            raise InputError(f"{type(self).__name__}: bad = {self.bad} needs at least {each * self.bad + least} sites "
                             f"({each} bad + {least}), and there are {n}")


@dataclass(frozen=True)
class TrimmedMean(Bounded):
    """The mean of each coordinate without its `bad` largest and `bad` smallest values."""

    info: ClassVar[Info] = Info("Coordinate-wise trimmed mean", "Yin et al. 2018, arXiv 1803.01498",
                                threats=("poisoning",), cost="sorting each coordinate")

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        return by_column(updates, lambda ascending: ascending[:, self.bad:len(updates) - self.bad].mean(1))


@dataclass(frozen=True)
class Krum(Bounded):
    """The one update whose n - bad - 2 nearest others are nearest to it, by the sum of squared distances."""

    info: ClassVar[Info] = Info(
        "Krum", "Blanchard et al. 2017, arXiv 1703.02757", threats=("poisoning",), cost="one Gram matrix",
        departs="none; ByzFL counts n - bad - 1 neighbors")
    sites: ClassVar[tuple[int, int]] = (2, 3)

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        return updates[_krum_scores(squared_distances(updates), self.bad).argmin()].clone()


@dataclass(frozen=True)
class MultiKrum(Bounded):
    """The mean of the `keep` updates that Krum likes best.

    Attributes:
        keep: From 1 to n - bad; n - bad, as is common, where None.
    """

    info: ClassVar[Info] = Info("Multi-Krum", "Blanchard et al. 2017, arXiv 1703.02757", threats=("poisoning",),
                                cost="one Gram matrix")
    sites: ClassVar[tuple[int, int]] = (2, 3)
    keep: Count | None = None

    def check(self, n: int) -> None:
        super().check(n)
        if self.keep is not None and not 1 <= self.keep <= n - self.bad:
            raise InputError(f"MultiKrum: keep must lie between 1 and {n - self.bad} ({n} sites, {self.bad} bad), got "
                             f"{self.keep}")

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        keep = self.keep or len(updates) - self.bad
        best = _krum_scores(squared_distances(updates), self.bad).argsort(stable=True)[:keep]
        return _mean_of(best, updates)


@dataclass(frozen=True)
class Bulyan(Bounded):
    """Krum picks n - 2 bad updates, one after the other; of each coordinate the n - 4 bad values nearest to the median
    of these are averaged."""

    info: ClassVar[Info] = Info(
        "Bulyan", "El Mhamdi, Guerraoui and Rouault 2018, arXiv 1802.07927", threats=("poisoning",),
        cost="one Gram matrix, and sorting",
        departs="when so few updates are left that Krum would count no neighbor, it counts one")
    sites: ClassVar[tuple[int, int]] = (4, 3)

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        n = len(updates)
        distances, left, picked = squared_distances(updates), list(range(n)), []
        while len(picked) < n - 2 * self.bad:
            among = _krum_scores(distances[left][:, left], self.bad) if len(left) > 1 else torch.zeros(1)
            picked.append(left.pop(int(among.argmin())))
        keep = n - 4 * self.bad

        def reduce(ascending: Tensor) -> Tensor:
            # those nearest to the median stand side by side: the window whose farther end is nearest
            middle = _middle(ascending)[:, None]
            last = ascending.shape[1] - keep
            farther = torch.maximum(middle - ascending[:, :last + 1], ascending[:, keep - 1:] - middle)
            first = farther.argmin(1, keepdim=True)
            return ascending.gather(1, first + torch.arange(keep, device=first.device)).mean(1)

        return by_column(updates, reduce, picked)


@dataclass(frozen=True)
class GeometricMedian(Aggregator):
    """The point with the least sum of distances to the updates, by the smoothed Weiszfeld algorithm.

    All iterates are weighted means of the updates, so their distances come from those between the updates, and the
    algorithm runs until it stands still for the price of one Gram matrix.

    Attributes:
        smoothing: A distance below this counts as this. Positive; far below the distances between honest updates.
    """

    info: ClassVar[Info] = Info(
        "Geometric median (RFA)", "Pillutla, Kakade and Harchaoui 2022, arXiv 1912.13445", threats=("poisoning",),
        cost="one Gram matrix",
        departs="sites count equally; starts at weights of 1 / (median distance to the others) instead of equal ones, "
                "which a huge update would carry off, and runs until it stands still")
    smoothing: Positive = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.smoothing < math.inf:
            raise InputError(f"GeometricMedian: smoothing must be positive, got {self.smoothing!r}")

    def tolerates(self, n: int) -> int:
        return (n - 1) // 2

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        products = gram(updates)
        shares = self._shares(squared_distances_of(products).sqrt().median(1).values)
        for _ in range(1000):
            against = products @ shares
            new = self._shares((products.diagonal() - 2 * against + shares @ against).clamp_min(0).sqrt())
            change, shares = (new - shares).abs().max(), new
            if change < 1e-9:
                break
        return combine(shares, updates)

    def _shares(self, distances: Tensor) -> Tensor:
        inverse = 1 / distances.clamp_min(self.smoothing)
        return inverse / inverse.sum()


@dataclass(frozen=True)
class NormClipping(Aggregator):
    """The mean of the updates after each longer one was cut to a length: no site moves it by more than length / n.

    Attributes:
        norm: That length, positive; the median length of the updates where None. Any number of bad sites is tolerated
            with a length of one's own, in the sense that the result is never longer; fewer than half with the median.
    """

    info: ClassVar[Info] = Info("Norm clipping", "Sun et al. 2019, arXiv 1911.07963", threats=("poisoning",),
                                cost="two reads of the updates", departs="no noise is added")
    norm: Positive | None = None

    def __post_init__(self) -> None:
        if self.norm is not None and not 0 < self.norm < math.inf:
            raise InputError(f"NormClipping: norm must be positive, got {self.norm!r}")

    def tolerates(self, n: int) -> int:
        return (n - 1) // 2 if self.norm is None else n

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        lengths = norms(updates)
        return combine(clip_factors(lengths, self.norm) / len(updates), updates)


@dataclass(frozen=True)
class CenteredClipping(Aggregator):
    """Steps from a center by the mean of the differences from it, of which each longer one is cut to `radius`.

    The center is `reference`, 0 where there is none. The paper's server goes on from what it said last round: the rule
    itself remembers nothing, so whoever runs the rounds hands that in.

    Attributes:
        radius: Positive.
        steps: At least 1.
    """

    info: ClassVar[Info] = Info(
        "Centered clipping", "Karimireddy, He and Jaggi 2021, arXiv 2012.10333", threats=("poisoning",),
        cost="two reads of the updates a step",
        departs="the sites' momentum is theirs to keep")
    radius: Positive = 1.0
    steps: Count = 1

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise InputError(f"CenteredClipping: radius must be positive, got {self.radius!r}")
        if self.steps < 1:
            raise InputError(f"CenteredClipping: steps must be at least 1, got {self.steps}")

    def tolerates(self, n: int) -> int:
        return n // 10  # the paper's theorem is for a tenth

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        center = torch.zeros_like(updates[0]) if reference is None else reference
        for _ in range(self.steps):
            shares = clip_factors(norms(updates, center), self.radius) / len(updates)
            center = (1 - shares.sum()).float() * center + combine(shares, updates)
        return center


def clip_factors(lengths: Tensor, norm: float | None) -> Tensor:
    """(n,) float64 in (0, 1]: what cuts lengths to at most `norm`, or to their median where None."""
    bound = lengths.quantile(0.5) if norm is None else norm
    return (bound / lengths.clamp_min(1e-300)).clamp_max(1.0)


def _krum_scores(squares: Tensor, bad: int) -> Tensor:
    """(m,) sums of the m - bad - 2 smallest squared distances of each update to the others, of at least one."""
    off = squares.clone().fill_diagonal_(math.inf)  # an update is not its own neighbor
    return off.sort(1).values[:, :max(len(squares) - bad - 2, 1)].sum(1)


def _mean_of(rows: Tensor, updates: Tensor) -> Tensor:
    shares = torch.zeros(len(updates), dtype=torch.float64, device=updates.device)
    shares[rows] = 1 / len(rows)
    return combine(shares, updates)


def _middle(ascending: Tensor) -> Tensor:
    n = ascending.shape[1]
    # halved first: the sum of two of float32's largest numbers is none
    return ascending[:, (n - 1) // 2] / 2 + ascending[:, n // 2] / 2
