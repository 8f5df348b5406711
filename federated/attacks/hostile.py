"""Bad sites that collude: what they send instead of updates, knowing those of the honest sites.

They sit between the sites' replies and the server's rule (`federated.aggregation.aggregate`), and none of them knows
that rule. An
update here is a change of the model, as it is there: the papers speak of gradients, which point the other way, and all
of these attacks are the same for both.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from scipy.special import ndtri
from torch import Tensor

from federated.attacks.attackers import HostileAttack
from federated.attacks.collusion import Collusion
from federated.core.stacked import check_updates, check_vector, squared_distances
from federated.flower.grid import Tamper
from suite.base.bounds import NonNegative, Positive
from suite.base.errors import InputError
from suite.base.info import Info


@dataclass(frozen=True)
class UpdateAttack(HostileAttack):
    """Base of attacks by updates: a frozen dataclass with an `info`.

    `info.knowledge` is "training" for those that see the honest updates of the round (omniscient in the papers' words;
    where the attacker knows only some, those are `honest`), and "no-box" for those that look at nothing.
    """

    def __call__(self, honest: Tensor, bad: int, seed: int = 0, own: Tensor | None = None,
                 last: Tensor | None = None) -> Tensor:
        """What the bad sites send.

        Args:
            honest: (n, d) float32, finite: the updates of the honest sites that the attacker knows.
            bad: Number of bad sites, at least 1.
            seed: All randomness of the attack comes from it.
            own: (bad, d) float32, finite: what the bad sites' own training gave, on honest or on poisoned data.
            last: (d,) float32, finite: how the server changed the model last round.

        Returns:
            (bad, d) float32.

        Raises:
            InputError: Anything else than this, or something missing that the attack needs.
        """
        check_updates(honest, "honest updates")
        if bad < 1:
            raise InputError(f"{type(self).__name__}: bad must be at least 1, got {bad}")
        if own is not None:
            check_updates(own, "own updates")
            if own.shape != (bad, honest.shape[1]):
                raise InputError(f"own updates: needs the shape {(bad, honest.shape[1])}, got {tuple(own.shape)}")
        if last is not None:
            check_vector(last, honest.shape[1], "last change")
        return self._attack(honest, bad, torch.Generator(honest.device).manual_seed(seed), own, last)

    @abstractmethod
    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        """As `__call__`, of arguments that are what they should be."""

    def tamper(self, bad: frozenset[int], seed: int = 0) -> Tamper:
        return Collusion(self, bad, seed)


@dataclass(frozen=True)
class SignFlip(UpdateAttack):
    """Each bad site sends its own update turned around; the mean of the honest ones, where it has none of its own.

    Attributes:
        scale: How much longer it becomes, positive.
    """

    info: ClassVar[Info] = Info("Sign flipping", "Li et al. 2019, arXiv 1811.03761", "training", ("poisoning",),
                                "nothing but the site's own training")
    scale: Positive = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "scale", self.scale)

    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        return -self.scale * (_all_alike(honest.mean(0), bad) if own is None else own)


@dataclass(frozen=True)
class GaussianUpdate(UpdateAttack):
    """Each bad site sends Gaussian noise of its own around 0. Attributes: `std`, in each coordinate, positive."""

    info: ClassVar[Info] = Info("Gaussian updates", "Blanchard et al. 2017, arXiv 1703.02757", "no-box",
                                ("poisoning",), "nothing")
    std: Positive = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "std", self.std)

    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        return self.std * _noise((bad, honest.shape[1]), honest, generator)


@dataclass(frozen=True)
class ALIE(UpdateAttack):
    """"A little is enough": the honest mean less `z` standard deviations in each coordinate.

    Attributes:
        z: The paper's where None: so many that enough honest sites are expected further from the mean to make a
            majority with the bad ones, Phi^-1((n - m - s) / (n - m)) of n sites with m bad, s = floor(n / 2 + 1) - m.
            With few bad sites that is 0 or less: 0 is taken, which harms nobody, and a `z` of one's own does more.
    """

    info: ClassVar[Info] = Info(
        "A little is enough", "Baruch, Baruch and Goldberg 2019, arXiv 1902.06156", "training", ("poisoning",),
        "one read of the updates", departs="mean and deviation are those of the honest updates instead of the bad "
                                           "sites' own; the deviation is that of a population", strong=True)
    z: Positive | None = None

    def __post_init__(self) -> None:
        if self.z is not None:
            _check_positive(self, "z", self.z)

    def deviations(self, n: int, bad: int) -> float:
        """`z` of `n` sites, `bad` of them bad; an InputError where the formula has none, the bad being a majority."""
        if self.z is not None:
            return self.z
        helpers = n // 2 + 1 - bad
        if helpers < 1:
            raise InputError(f"ALIE: {bad} bad sites of {n} are a majority, for which the paper has no z: give one")
        return max(float(ndtri((n - bad - helpers) / (n - bad))), 0.0)

    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        z = self.deviations(len(honest) + bad, bad)
        return _all_alike(honest.mean(0) - z * honest.std(0, correction=0), bad)


@dataclass(frozen=True)
class IPM(UpdateAttack):
    """Inner product manipulation: `-eps` times the honest mean.

    Attributes:
        eps: Positive. Above honest sites / bad sites, the plain mean turns around; a small one stays so near the honest
            updates that distances do not betray it.
    """

    info: ClassVar[Info] = Info("Inner product manipulation", "Xie, Koyejo and Gupta 2020, arXiv 1903.03936",
                                "training", ("poisoning",), "one read of the updates",
                                strong=True, strong_from=("eps", 2.0))
    eps: Positive = 0.5

    def __post_init__(self) -> None:
        _check_positive(self, "eps", self.eps)

    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        return _all_alike(-self.eps * honest.mean(0), bad)


@dataclass(frozen=True)
class _Furthest(UpdateAttack):
    """The honest mean moved along a direction, as far as distances to the honest updates allow.

    Attributes:
        direction: "unit": against the honest mean. "std": against the standard deviation of each coordinate. "sign":
            against the sign of each coordinate of the honest mean.
    """

    direction: Literal["unit", "std", "sign"] = "std"

    def __post_init__(self) -> None:
        if self.direction not in ("unit", "std", "sign"):
            raise InputError(f"{type(self).__name__}: direction must be unit, std or sign, got {self.direction!r}")

    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        mean = honest.double().mean(0)
        away = {"unit": mean, "std": honest.double().std(0, correction=0), "sign": mean.sign()}[self.direction]
        length = away.norm()
        if not length > 0:
            return _all_alike(mean.float(), bad)
        away = -away / length
        apart = mean - honest.double()
        how_far = self._how_far(apart @ away, apart.square().sum(1), squared_distances(honest))
        return _all_alike((mean + how_far * away).float(), bad)

    @abstractmethod
    def _how_far(self, along: Tensor, squares: Tensor, between: Tensor) -> Tensor:
        """The largest step from the mean that the constraint allows.

        Args:
            along: (n,) of each difference (mean - honest update), the part along the direction, of length 1.
            squares: (n,) squared lengths of these differences.
            between: (n, n) squared distances between the honest updates.
        """


@dataclass(frozen=True)
class MinMax(_Furthest):
    """As far as no honest update is further from the result than the two honest ones that are furthest apart."""

    info: ClassVar[Info] = Info(
        "Min-max", "Shejwalkar and Houmansadr 2021, NDSS, doi 10.14722/ndss.2021.24498", "training", ("poisoning",),
        "two reads of the updates and a Gram matrix", departs="the step is solved for instead of searched by halving",
        strong=True)

    def _how_far(self, along: Tensor, squares: Tensor, between: Tensor) -> Tensor:
        # |step|^2 + 2 step along + squares <= bound, for each honest update
        return ((along.square() + between.max() - squares).clamp_min(0).sqrt() - along).min()


@dataclass(frozen=True)
class MinSum(_Furthest):
    """As far as the squared distances to the honest updates sum up to no more than those of one honest update do."""

    info: ClassVar[Info] = Info(
        "Min-sum", "Shejwalkar and Houmansadr 2021, NDSS, doi 10.14722/ndss.2021.24498", "training", ("poisoning",),
        "two reads of the updates and a Gram matrix", departs="the step is solved for instead of searched by halving",
        strong=True)

    def _how_far(self, along: Tensor, squares: Tensor, between: Tensor) -> Tensor:
        # n |step|^2 + sum of squares <= bound: the differences from the mean sum up to 0, and so does what is along
        return ((between.sum(1).max() - squares.sum()) / len(squares)).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Scaling(UpdateAttack):
    """Model replacement: the bad sites send their own update, from poisoned data, so large that it outweighs the rest.

    Attributes:
        factor: How much larger, positive. Where None, sites / bad sites, with which the plain mean of all is the mean
            of the bad sites' updates, plus what is left of the honest ones as the model converges.
    """

    info: ClassVar[Info] = Info("Model replacement", "Bagdasaryan et al. 2020, arXiv 1807.00459", "data",
                                ("poisoning", "backdoor"), "nothing but the site's own training")
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.factor is not None:
            _check_positive(self, "factor", self.factor)

    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        if own is None:
            raise InputError("Scaling: needs the bad sites' own updates")
        return own * ((len(honest) + bad) / bad if self.factor is None else self.factor)


@dataclass(frozen=True)
class FreeRider(UpdateAttack):
    """Sites without data that send back how the model changed last round, with noise; in the first round, noise alone.

    Attributes:
        std: Of the noise in each coordinate, not negative; 0 repeats the change as it was.
    """

    info: ClassVar[Info] = Info(
        "Free rider", "Lin, Du and Liu 2019, arXiv 1911.12560", "no-box", ("poisoning",), "nothing",
        departs="the noise is as large in late rounds as in early ones")
    std: NonNegative = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.std < math.inf:
            raise InputError(f"FreeRider: std must not be negative, got {self.std!r}")

    def _attack(self, honest: Tensor, bad: int, generator: torch.Generator, own: Tensor | None,
                last: Tensor | None) -> Tensor:
        change = torch.zeros_like(honest[0]) if last is None else last
        return change + self.std * _noise((bad, len(change)), honest, generator)


def _all_alike(update: Tensor, bad: int) -> Tensor:
    return update.repeat(bad, 1)


def _noise(shape: tuple[int, int], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device)


def _check_positive(attack: UpdateAttack, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{type(attack).__name__}: {name} must be positive, got {value!r}")
