"""What DP-SGD spends: epsilon from two independent accountants, and the noise that a target epsilon needs."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from suite.base.errors import InputError
from suite.datasets.cache import folder
from suite.defenses.private.sizes import PublicSize

if TYPE_CHECKING:
    from dp_accounting.pld import PLDAccountant

TOLERANCE = 0.01
"""How far below its target a calibrated epsilon may lie, relative to the target."""

LEAST = 1e-4
"""Epsilon below which the PRV accountant's own error is what it finds, so that no noise would do."""

History = tuple[tuple[float, float, int], ...]
"""Trainings on the same rows, one after another: noise, sampling rate and steps of each, as of `epsilon_prv`."""


NEIGHBORS = "added or removed"
"""The neighbour relation of every epsilon that DP-SGD and PATE claim: data sets differ by one row, or one patient, that
one has and the other has not. Under the other usual relation, in which one is replaced by another, it is
`epsilon_replaced`."""


def usual_delta(rows: int) -> float:
    """The largest power of ten below one over the number of rows that a training learns from."""
    return 10.0 ** -len(str(rows))


def claim(sigma: float, delta: float, rate: float, steps: int, unit: str,
          public: PublicSize | None = None) -> dict[str, float | str]:
    """What the notes of a model say of its privacy: epsilon by each accountant, for whom, and what it was computed of.

    Args:
        sigma, delta, rate, steps: As for `epsilon_prv`, of the mechanism as it ran.
        unit: Whose part is hidden: "row" or "patient".
        public: How many of these are publicly known to be there; None where nothing depends on it.
    """
    known = {"public_rows": public.number, "public_rows_from": public.source} if public else {}
    return {"epsilon_claimed": epsilon_prv(sigma, delta, rate, steps),
            "epsilon_independent": epsilon_pld(sigma, delta, rate, steps),
            "epsilon_replace_one": epsilon_replaced(sigma, delta, rate, steps),
            "delta": delta, "noise_multiplier": sigma, "sample_rate": rate, "steps": steps, "unit": unit,
            "neighbors": NEIGHBORS, "accountant": "PRV (Opacus); independent: PLD (dp-accounting)"} | known


@cache
def noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise, to within `TOLERANCE`, with which DP-SGD spends at most `epsilon`.

    Found by bisection with the PRV accountant, which takes seconds, so results are kept in the user's cache folder.
    Opacus bisects to an absolute tolerance, which for an epsilon of 0.1 adds a fifth too much noise; this one is
    relative.

    Args:
        epsilon, delta: The target, both positive.
        rate: Probability with which each row is in a batch, in (0, 1].
        steps: Number of batches.

    Returns:
        Standard deviation of the noise, in units of the clipping norm.

    Raises:
        InputError: No noise is enough.
    """
    unreachable = InputError(f"epsilon {epsilon:g} at delta {delta:g} is out of reach of {steps} steps at a sampling "
                             f"rate of {rate:.3g} (about {steps * rate:.2g} epochs): take a larger epsilon, or fewer "
                             "epochs")
    if epsilon < LEAST:
        raise unreachable
    key = f"opacus {version('opacus')}, PRV: epsilon {epsilon!r}, delta {delta!r}, rate {rate!r}, steps {steps}"
    file = folder() / "noise_multipliers.json"
    if (known := _read(file).get(key)) is not None:
        return known
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            sigma = float(get_noise_multiplier(
                target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="prv",
                epsilon_tolerance=TOLERANCE * epsilon, eps_error=_mesh(epsilon)))
    except ValueError as e:  # it gives up at a noise of a million
        raise unreachable from e
    _write(file, _read(file) | {key: sigma})
    return sigma


@cache
def epsilon_prv(sigma: float, delta: float, rate: float, steps: int) -> float:
    """Epsilon spent, an upper bound by numerical composition (Gopi, Lee and Wutschitz 2021, arXiv 2106.02848).

    Args:
        sigma: Standard deviation of the noise, in units of the clipping norm.
        delta, rate, steps: As for `noise_multiplier`.
    """
    return composed_prv(((sigma, rate, steps),), delta)


@cache
def epsilon_pld(sigma: float, delta: float, rate: float, steps: int) -> float:
    """Epsilon by another library's privacy loss distributions (Koskela et al. 2020, arXiv 1906.03049)."""
    return composed_pld(((sigma, rate, steps),), delta)


@cache
def epsilon_replaced(sigma: float, delta: float, rate: float, steps: int) -> float:
    """Epsilon where one row is replaced by another instead of added or removed, an upper bound.

    Two rows may move the sum in opposite directions, so the worst pair of a step is N(0, sigma^2) mixed with
    N(1, sigma^2) against the same mixed with N(-1, sigma^2), each with weight `rate` (Lebeda, Regehr, Kamath and
    Steinke 2024, arXiv 2405.20769). Its privacy loss rises with the output and is symmetric; it is rounded up on a
    grid and composed by another library.

    Args:
        sigma, delta, rate, steps: As for `epsilon_prv`.
    """
    from dp_accounting.pld.pld_pmf import DensePLDPmf

    if not sigma:
        return math.inf
    edges = np.linspace(-12 * sigma - 1, 12 * sigma + 1, 200_001)

    def log_density(mean: float) -> np.ndarray:
        return np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate)
                            + (2 * mean * edges - mean**2) / (2 * sigma**2))

    mass = np.diff((1 - rate) * ndtr(edges / sigma) + rate * ndtr((edges - 1) / sigma))
    grid = 1e-4 * max(1.0, 20 / sigma)  # large losses need no such fine grid
    losses = np.ceil((log_density(1.0) - log_density(-1.0))[1:] / grid).astype(np.int64)
    least = int(losses[0])
    probabilities = np.bincount(losses - least, mass)
    one = DensePLDPmf(grid, least, probabilities, 1 - probabilities.sum(), True)
    return float(one.self_compose(steps).get_epsilon_for_delta(delta))


@cache
def composed_prv(history: History, delta: float) -> float:
    """As `epsilon_prv`, of trainings that followed each other on the same rows; 0 of none, infinite without noise."""
    from opacus.accountants import PRVAccountant

    history = _merged(history)
    if not history or not history[0][0]:
        return math.inf if history else 0.0
    accountant = PRVAccountant()
    accountant.history = [*history]
    with _quiet():
        rough = accountant.get_epsilon(delta)
        return float(accountant.get_epsilon(delta, eps_error=_mesh(rough)))


@cache
def composed_pld(history: History, delta: float) -> float:
    """As `epsilon_pld`, of trainings that followed each other on the same rows; 0 of none, infinite without noise."""
    return float(_losses(_merged(history)).get_epsilon(delta)) if history else 0.0


def _merged(history: History) -> History:
    """The same, with the steps of equal noise and rate counted together, the least noise first."""
    steps: Counter[tuple[float, float]] = Counter()
    for sigma, rate, n in history:
        steps[sigma, rate] += n
    return tuple((sigma, rate, n) for (sigma, rate), n in sorted(steps.items()))


@cache
def privacy_curve(sigma: float, rate: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Epsilons from 0 to 50 and the delta that belongs to each, (k,) both, by privacy loss distributions."""
    accountant = _losses(((sigma, rate, steps),))
    epsilons = np.r_[0.0, np.geomspace(0.01, 50, 100)]
    return epsilons, np.array([accountant.get_delta(epsilon) for epsilon in epsilons])


@cache
def _losses(history: History) -> PLDAccountant:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    for sigma, rate, steps in history:
        accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps))
    return accountant


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that only concern how the PRV accountant chooses its mesh, or a rate of 1."""
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")
        yield


def _mesh(epsilon: float) -> float:
    """Error that the PRV accountant may make: half the tolerance, and no finer than it can compute in a second."""
    return float(np.clip(TOLERANCE * epsilon / 2, 5e-5, 0.01))


def _read(file: Path) -> dict[str, float]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _write(file: Path, known: dict[str, float]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(known, indent=0), encoding="utf-8")
        draft.replace(file)  # atomic: another process sees the old file or the new one
    except OSError:
        pass  # a cache that cannot be written costs seconds, not correctness
