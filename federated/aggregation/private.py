"""Differential privacy over all rounds of a federation: of patients (`RecordDP`), or of whole hospitals, without trust
in the server (`LocalDP`) or with it (`CentralDP`). Knows nothing of Flower.

The noise is drawn from seeds, so that results can be repeated. A model that is to be published needs noise that nobody
can repeat: PyTorch's generator on a CPU takes 32 bits of a seed, which can be tried one by one, and the rounding of
floating-point noise tells something too (Mironov 2012, doi 10.1145/2382196.2382264).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from federated.aggregation.aggregate import Aggregator, clip_factors
from federated.core.stacked import combine, norms
from suite.base.bounds import Count, NonNegative, Seed, Unbounded
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.defenses.private.accounting import (
    NEIGHBORS,
    History,
    composed_pld,
    composed_prv,
    epsilon_replaced,
    noise_multiplier,
    usual_delta,
)
from suite.defenses.private.sizes import PublicSize, known_size


class Terms(NamedTuple):
    """What a round costs: noise in units of what one patient, or hospital, can move; sampling rate; steps. At `delta`,
    which is that of all rounds together."""

    sigma: float
    rate: float
    steps: int
    delta: float


class Round(NamedTuple):
    """A round that is over: its number, and what it cost."""

    turn: int
    sigma: float
    rate: float
    steps: int


class Claim(NamedTuple):
    """What is promised for all agreed rounds together: epsilon by the PRV accountant and by another library's PLD
    accountant, the delta of both, and the noise of a round; the neighbour relation of these, epsilon where one whose
    part is hidden is replaced by another, and how many rows are taken to be public, where anything depends on it."""

    epsilon: float
    independent: float
    delta: float
    sigma: float
    neighbors: str
    replaced: float
    public: PublicSize | None = None

    @property
    def relation(self) -> dict[str, str]:
        """What stands beside epsilon, as of `suite.evaluate.subject.relation`, but for the unit."""
        known = {"public_rows": str(self.public.number), "public_rows_from": self.public.source} if self.public else {}
        return {"neighbors": self.neighbors} | known


@dataclass(frozen=True)
class Budget:
    """Base of what a hospital may give away in the agreed rounds of a federation.

    A hospital keeps account of its rounds (`federated.flower.client_app`), and answers no more of them than agreed,
    none of
    them twice, and none that would exceed its epsilon: Flower's own `LocalDpMod` forgets, and so does an Opacus engine
    that is made anew each round. The account lasts as long as Flower keeps a hospital's state, which is one run, and as
    long as its node is up: what several runs on the same patients spend adds up, and only the ledger of a hospital's
    policy counts it (`federated.deployment.policy`).

    Attributes:
        epsilon: Of all rounds together, positive.
        rounds: How many are agreed, at least 1.
        delta: Of all rounds together, in (0, 1).
        secret: A number of the hospital's own, from which its noise is drawn, beside the task's seed. Whoever knows it
            can take the noise out, as the server knows all else. A new one for each run, from `secrets.randbits`.
    """

    level: ClassVar[str]
    """Whose part in the training is hidden."""
    neighbors: ClassVar[str] = NEIGHBORS
    """How the data sets differ that epsilon is about."""
    epsilon: float
    rounds: int
    delta: float | None = None
    secret: int = field(default=0, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 0 < self.epsilon < math.inf or not (self.delta is None or 0 < self.delta < 1):
            raise InputError(f"{name}: needs epsilon > 0 and delta in (0, 1), got {self.epsilon} and {self.delta}")
        if self.rounds < 1:
            raise InputError(f"{name}: rounds must be at least 1, got {self.rounds}")

    def _check_norm(self, name: str) -> None:
        if not 0 < getattr(self, name) < math.inf:
            raise InputError(f"{type(self).__name__}: {name} must be positive, got {getattr(self, name)!r}")

    def check(self, terms: Terms, past: Sequence[Round], turn: int) -> None:
        """Raise `InputError` unless one more round may be answered.

        Args:
            terms: Its cost.
            past: All rounds that the hospital has answered.
            turn: Its number.
        """
        if turn in {p.turn for p in past}:
            raise InputError(f"round {turn} has been answered, and its noise is not drawn twice")
        if not 1 <= turn <= self.rounds:
            raise InputError(f"the budget is spent: {self.rounds} rounds were agreed, and this is round {turn}")
        if all(p[1:] == terms[:3] for p in past):
            return  # the noise was chosen for so many rounds like this
        if (total := composed_prv((*(p[1:] for p in past), terms[:3]), terms.delta)) > self.epsilon:
            raise InputError(f"the budget is spent: with round {turn}, epsilon would be {total:.3g} at delta "
                             f"{terms.delta:g}, and {self.epsilon:g} is promised")


@dataclass(frozen=True)
class RecordDP(Budget):
    """A hospital learns from its own rows by DP-SGD, so that what it sends hides whether any one row took part.

    Every batch is drawn anew, each row independently (Poisson sampling); the gradient of each is clipped, and noise
    added to their sum. The noise is the least with which all agreed rounds together spend epsilon at this hospital's
    number of rows and batch size. Nothing else looks at rows: classes are not weighted, inputs are not augmented, and
    the pull towards the model that came in (FedProx) and weight decay know public parameters only.

    Epsilon protects one row, added or removed, from all who see everything that the hospital sends, the server
    included, which must play by the rules: parameters so large that gradients overflow are not guarded against. Public
    is about how many rows a hospital has: `public_rows`, or their number rounded down
    (`suite.defenses.private.sizes.known_size`, which says where the rounding itself would tell of a row). Rate, steps,
    delta and what the noisy sum is divided by follow from that, and the hospital tells no other number and weighs with
    it. Epsilon does not cover what was decided from the data before training, as in
    `suite.defenses.private.dpsgd.DPSGD`, nor protect a patient with several rows.

    Attributes:
        delta: Where None, the largest power of ten below one over the rows of the hospital.
        max_grad_norm: L2 norm to which each row's gradient is clipped.
        public_rows: How many rows each hospital is publicly known to have, about, the same for all; None rounds the
            number of each down.
    """

    info: ClassVar[Info] = Info(
        "Record-level DP", "Abadi et al. 2016, arXiv 1607.00133; per silo: Liu, Hu, Wu and Smith 2022, arXiv "
        "2206.07902", threats=("membership",), cost="some seconds to calibrate the noise of each hospital",
        departs="PRV accountant instead of moments; momentum and the proximal pull act on the private gradients")
    level: ClassVar[str] = "rows"
    max_grad_norm: float = 1.0
    public_rows: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_norm("max_grad_norm")
        if self.public_rows is not None and self.public_rows < 1:
            raise InputError(f"RecordDP: public_rows must be at least 1, got {self.public_rows}")

    def public(self, rows: int) -> PublicSize:
        """What is public of the number of rows of a hospital."""
        return known_size(rows, self.public_rows)

    def terms(self, rows: int, batch: int, epochs: int) -> Terms:
        """The cost of a round at a hospital with so many rows, of the task's expected batch and number of epochs."""
        if rows < 1:
            raise InputError("private training needs rows, and the hospital has none")
        known = self.count(rows)
        rate = min(batch / known, 1.0)
        steps, delta = max(1, round(epochs / rate)), usual_delta(known) if self.delta is None else self.delta
        return Terms(noise_multiplier(self.epsilon, delta, rate, steps * self.rounds), rate, steps, delta)

    def count(self, rows: int) -> int:
        """The number of rows that the hospital tells."""
        return self.public(rows).number

    def divisor(self, rows: int, batch: int) -> float:
        """What the noisy sum of gradients is divided by: the expected batch, were there as many rows as is public."""
        return float(min(batch, self.count(rows)))


@dataclass(frozen=True)
class LocalDP(Budget):
    """A hospital clips its change of the model and adds noise before it sends it, so that it hides its data as a whole.

    Any two data sets that the hospital might hold are told apart no better than epsilon allows, by all who see
    everything that it sends, the server included. Two changes of length `clip` may point in opposite directions, so one
    hospital can move what it sends by 2 `clip`, and the standard deviation of the noise is 2 `clip` times the noise
    multiplier; whoever takes `clip` understates epsilon by more than half. The hospital tells no number of rows (all
    say 1, and weigh equally). A change that is not finite counts as none.

    With d parameters the noise is sqrt(d) times as long as in one coordinate. `federated.flower.grid.Border.norm` must
    leave room for it (`federated.flower.simulate.reach`), or replies are refused.

    Attributes:
        delta: Small against one over the number of hospitals that anybody may choose from.
        clip: L2 norm to which the change is clipped.
    """

    info: ClassVar[Info] = Info(
        "Local DP of a hospital", "Naseri, Hayes and De Cristofaro 2022, arXiv 2009.03561; Gaussian mechanism: Balle "
        "and Wang 2018, arXiv 1805.06530", threats=("membership",), cost="noise in each parameter",
        departs="sensitivity 2 clip, as any two data sets may be the hospital's")
    level: ClassVar[str] = "hospital"
    neighbors: ClassVar[str] = "replaced by any other"
    delta: float = 1e-5
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_norm("clip")

    def terms(self, rows: int, batch: int, epochs: int) -> Terms:
        """The cost of a round, whatever the hospital does in it."""
        return Terms(noise_multiplier(self.epsilon, self.delta, 1.0, self.rounds), 1.0, 1, self.delta)

    def public(self, rows: int) -> None:
        """No number of rows has a part in it."""

    def count(self, rows: int) -> int:
        """The number of rows that the hospital tells: 1."""
        return 1

    @property
    def std(self) -> float:
        """Standard deviation of the noise in each parameter."""
        return 2 * self.clip * self.terms(0, 0, 0).sigma

    def cover(self, change: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A (d,) change of the parameters as it may be sent, float64."""
        change = np.where(np.isfinite(change).all(), change, 0.0).astype(np.float64)
        change *= min(1.0, self.clip / max(float(np.linalg.norm(change)), 1e-300))
        return change + self.std * rng.standard_normal(len(change))


@dataclass(frozen=True)
class CentralDP(Aggregator):
    """The mean of clipped updates and Gaussian noise: the model hides whether any one hospital took part.

    The server is trusted; those who see its models are not, the other hospitals among them. Each update is cut to
    length `clip`, all count equally whatever number of rows they claim, and their sum is divided by `sites`, a fixed
    and public number. So a hospital that is added or removed (one that sends 0, has dropped out or was refused counts
    as removed) moves the result by at most `clip / sites`, and the noise in each coordinate has `noise` times that as
    its standard deviation. For a hospital replaced by another the bound is twice as large, and epsilon that of half the
    noise. Dividing by the number of those who have answered would give the larger bound for one removed as well, and
    weighing by rows one of up to 2 `clip`. What the promise does not cover: the log of who took part, and a round in
    which nobody answers, which adds no noise.

    It has to come last: a rule before it that mixes updates lets one hospital into several of them.

    Attributes:
        clip: Positive; infinite only without noise.
        noise: Noise multiplier, not negative. `promising` finds that of an epsilon.
        sites: Hospitals of the federation, at least 1.
        seed: Of the noise: another one each round (`dataclasses.replace`).
    """

    info: ClassVar[Info] = Info(
        "Central DP of hospitals", "McMahan, Ramage, Talwar and Zhang 2018, arXiv 1710.06963", threats=("membership",),
        cost="two reads of the updates, and noise",
        departs="all hospitals take part in each round, so no sampling helps; weights are equal instead of capped; PRV "
                "accountant instead of moments")
    clip: Unbounded
    noise: NonNegative
    sites: Count
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not self.clip > 0 or not 0 <= self.noise < math.inf or (self.noise and math.isinf(self.clip)):
            raise InputError("CentralDP: clip must be positive, and finite with noise, which must not be negative; "
                             f"got {self.clip!r} and {self.noise!r}")
        if self.sites < 1:
            raise InputError(f"CentralDP: sites must be at least 1, got {self.sites}")

    @classmethod
    def promising(cls, epsilon: float, delta: float, rounds: int, sites: int, clip: float = 1.0,
                  seed: int = 0) -> CentralDP:
        """The rule with the least noise that spends at most `epsilon` at `delta` in so many rounds."""
        return cls(clip, noise_multiplier(epsilon, delta, 1.0, rounds), sites, seed)

    def claim(self, rounds: int, delta: float) -> Claim:
        """What so many rounds spend; infinite without noise."""
        return _claim(Terms(self.noise, 1.0, 1, delta), rounds, NEIGHBORS)

    def tolerates(self, n: int) -> int:
        return 0  # a mean: one hospital moves it by up to `clip / sites`, wherever it likes

    def check(self, n: int) -> None:
        if n > self.sites:
            raise InputError(f"CentralDP: the mean is over {self.sites} hospitals, and {n} have answered")

    def _aggregate(self, updates: Tensor, weights: Tensor | None, reference: Tensor | None) -> Tensor:
        mean = combine(clip_factors(norms(updates), self.clip) / self.sites, updates)
        if not self.noise:
            return mean
        generator = torch_generator(self.seed, mean.device)
        std = self.noise * self.clip / self.sites
        return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)


def claims(budget: RecordDP | LocalDP, rows: Iterable[int], batch: int, epochs: int) -> list[Claim]:
    """What hospitals with so many rows promise, each for all agreed rounds together.

    Args:
        budget: That of the task.
        rows: Of each hospital.
        batch, epochs: Of the task.
    """
    return [_claim(budget.terms(n, batch, epochs), budget.rounds, budget.neighbors)._replace(public=budget.public(n))
            for n in rows]


def spent(past: Sequence[Round], delta: float) -> tuple[float, float]:
    """Epsilon that rounds have cost together, by the PRV accountant, and by another library's PLD accountant."""
    history: History = tuple(p[1:] for p in past)
    return composed_prv(history, delta), composed_pld(history, delta)


def _claim(terms: Terms, rounds: int, neighbors: str) -> Claim:
    both = spent([Round(turn, *terms[:3]) for turn in range(rounds)], terms.delta)
    # the noise of a hospital's own covers a replacement as it is
    replaced = both[0] if neighbors != NEIGHBORS else epsilon_replaced(terms.sigma, terms.delta, terms.rate,
                                                                       terms.steps * rounds)
    return Claim(*both, terms.delta, terms.sigma, neighbors, replaced)
