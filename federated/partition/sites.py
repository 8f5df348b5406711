"""The hospitals of a federation: who holds which rows of a dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from federated.core.site import Site
from federated.partition.check import check_sites
from suite.base.bounds import Count, Decay, NonNegative, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.data import Dataset, Split, joined, patients_of

PARTS = ("train", "val", "test")
HOSPITAL = "hospital"
"""Subgroup of a dealt dataset that names the hospital of each row."""


class Partition(ABC):
    """Base of ways to deal a dataset's rows out to hospitals: frozen dataclasses with an `info`."""

    info: ClassVar[Info]

    @abstractmethod
    def __call__(self, data: Dataset, seed: int = 0) -> tuple[Site, ...]:
        """The hospitals; all that is random comes from `seed`."""

    def deal(self, data: Dataset, seed: int = 0) -> Dataset:
        """The dataset with the rows of one hospital after those of another, whose subgroup "hospital" names it.

        That subgroup takes the place of the one that hospitals were taken from.
        """
        sites = self(data, seed)
        splits = {part: self._pooled(sites, part) for part in PARTS}
        card = {"hospitals": f"{len(sites)}, {type(self).info.title}: "
                             + ", ".join(f"{site.name} {len(site.train)}" for site in sites) + " training rows"}
        card |= {f"hospitals, warning {n}": line for n, line in enumerate(check_sites(sites), 1)}
        return replace(data, **splits, card=dict(data.card) | card)

    def _pooled(self, sites: Sequence[Site], part: str) -> Split:
        splits = [getattr(site, part) for site in sites]
        whole = joined(*splits)
        groups = {name: values for name, values in whole.subgroups.items()
                  if name not in (HOSPITAL, getattr(self, "column", None))}
        names = np.repeat([site.name for site in sites], [len(split) for split in splits])
        return replace(whole, subgroups={HOSPITAL: names} | groups)


def hospital_of(split: Split, column: str, of: str) -> np.ndarray:
    """(n,) str, the hospital that each row is from, by the subgroup `column`; `of` says what the split is of.

    Raises:
        InputError: No such subgroup, or rows of unknown hospital.
    """
    if column not in split.subgroups:
        raise InputError(f"{of} has no subgroup '{column}' to take hospitals from; it has "
                         f"{', '.join(split.subgroups) or 'none'}")
    if nowhere := int((split.subgroups[column] == "unknown").sum()):
        raise InputError(f"{of}: of {nowhere} rows nobody knows the '{column}', so they belong to no hospital")
    return split.subgroups[column]


@dataclass(frozen=True)
class BySubgroup(Partition):
    """The hospitals that the rows are from. Each row of a split goes to the same split of its hospital.

    Attributes:
        column: Subgroup of the dataset that names the hospital.
    """

    info: ClassVar[Info] = Info("hospitals as they are", "none")
    column: str = "site"

    def __call__(self, data: Dataset, seed: int = 0) -> tuple[Site, ...]:
        """Hospitals in the order of their names; nothing is random.

        Raises:
            InputError: No such subgroup; rows of unknown hospital; a patient with rows at two hospitals.
        """
        splits = [getattr(data, part) for part in PARTS]
        homes = [hospital_of(split, self.column, data.name) for split in splits]
        names = np.unique(np.concatenate(homes))
        owners = [np.searchsorted(names, home) for home in homes]
        self._check_patients(splits, owners, names)
        return _sites(data, [str(name) for name in names], owners)

    def _check_patients(self, splits: list[Split], owners: list[np.ndarray], names: np.ndarray) -> None:
        home: dict[int, tuple[int, int]] = {}
        known = [pair for pair in zip(splits, owners, strict=True) if pair[0].patients is not None]
        for split, owner in known:
            for patient, row, k in zip(split.patients.tolist(), split.rows.tolist(), owner.tolist(), strict=True):
                first, of = home.setdefault(patient, (row, k))
                if of != k:
                    raise InputError(f"rows {first} and {row} are of one patient, and of '{names[of]}' and "
                                     f"'{names[k]}'; all rows of one patient must be at one hospital")


@dataclass(frozen=True)
class Dealt(Partition):
    """Base of partitions that deal the patients of a dataset out to made-up hospitals.

    One table of shares holds for all three splits, so that a hospital is tested on patients like those it trains on.
    All rows of a patient go to one hospital. A hospital with fewer than `least` training rows then gets random
    patients of the largest hospital that can spare them. So it does in validation and test, where the least is smaller
    as these splits are, and is no promise: a hospital may be left without such rows.

    Attributes:
        sites: Hospitals, at least 1.
        least: Training rows that each of them has at least.
    """

    sites: Count
    least: Count = field(default=10, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("sites", "least"):
            if getattr(self, name) < 1:
                raise InputError(f"{type(self).__name__}: {name} must be at least 1, got {getattr(self, name)!r}")

    @abstractmethod
    def shares(self, rng: np.random.Generator, classes: int) -> np.ndarray:
        """(sites, classes) float64: which share of each class a hospital gets, each column summing to 1; or
        (sites, 1), of all rows whatever their class."""

    def __call__(self, data: Dataset, seed: int = 0) -> tuple[Site, ...]:
        """Hospitals named "hospital-1" and so on, with leading zeros that make names sort as numbers do.

        Raises:
            InputError: `least` cannot be met; the message names the counts. Moving whole patients is greedy, so with
                patients of many rows it may be refused though some other deal exists.
        """
        rng = np.random.default_rng(seed)
        names = [f"hospital-{k + 1:0{len(str(self.sites))}d}" for k in range(self.sites)]
        shares = self.shares(rng, len(data.classes))
        owners, home = [], {}
        for part in PARTS:
            split = getattr(data, part)
            patients, of = np.unique(patients_of(split), return_inverse=True)
            owner = _deal(split, of, shares, rng)
            self._repair(owner, np.bincount(of), self.least * len(split) // len(data.train), rng)
            if part == "train":
                self._check_least(owner[of], len(patients), names)
            if split.patients is not None:  # a user may have accepted one that is in two splits
                pairs = zip(patients.tolist(), owner.tolist(), strict=True)
                owner = np.array([home.setdefault(patient, k) for patient, k in pairs], np.int64)
            owners.append(owner[of])
        return _sites(data, names, owners)

    def _repair(self, owner: np.ndarray, size: np.ndarray, least: int, rng: np.random.Generator) -> None:
        """Give each hospital its least rows, in place, as far as it goes; `owner` and `size` (rows) are by patient."""
        held = np.bincount(owner, size, self.sites).astype(np.int64)
        while held.min() < least:
            poor = held.argmin()
            # who gives keeps its own least, so each move brings the end nearer
            spare = (np.flatnonzero((owner == rich) & (size <= held[rich] - least))
                     for rich in np.argsort(-held, kind="stable"))
            moved = next((rng.choice(patients) for patients in spare if len(patients)), None)
            if moved is None:
                return
            held[owner[moved]] -= size[moved]
            held[poor] += size[moved]
            owner[moved] = poor

    def _check_least(self, owner: np.ndarray, patients: int, names: list[str]) -> None:
        """`owner` is by training row."""
        held = np.bincount(owner, minlength=self.sites)
        if held.min() < self.least:
            of = f" of {patients} patients" if patients < len(owner) else ""
            raise InputError(f"{len(owner)} training rows{of} cannot give {self.sites} hospitals {self.least} each: "
                             f"{names[held.argmin()]} has {held.min()} and none can spare a patient; ask for fewer "
                             "hospitals, or for a smaller least")


@dataclass(frozen=True)
class IID(Dealt):
    """Hospitals that differ by chance only: equally many rows each (to a patient), drawn from all."""

    info: ClassVar[Info] = Info("dealt evenly at random", "none")

    def shares(self, rng: np.random.Generator, classes: int) -> np.ndarray:
        return np.full((self.sites, 1), 1 / self.sites)


@dataclass(frozen=True)
class Skewed(Dealt):
    """Base of partitions whose shares are drawn from a symmetric Dirichlet distribution.

    Attributes:
        alpha: Its concentration, positive: 100 is almost even, 0.1 leaves most to a few hospitals.
    """

    alpha: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < np.inf:
            raise InputError(f"{type(self).__name__}: alpha must be positive and finite, got {self.alpha!r}")


@dataclass(frozen=True)
class Dirichlet(Skewed):
    """Hospitals that see different diseases (Hsu, Qi and Brown 2019, arXiv 1909.06335).

    Departs from the paper, which draws the label mix of each hospital and gives all equally many rows: that leaves
    rows over. As usual since (Yurochkin et al. 2019, arXiv 1905.12022), the hospitals' shares of each class are drawn,
    so all rows are used and sizes differ too. A patient with rows of several classes counts as of the rarest of them.
    The rows that a small hospital is given to reach `least` are of any class.
    """

    info: ClassVar[Info] = Info("dealt unevenly by label (Dirichlet)", "Hsu, Qi and Brown 2019, arXiv 1909.06335")

    def shares(self, rng: np.random.Generator, classes: int) -> np.ndarray:
        return rng.dirichlet(np.full(self.sites, self.alpha), classes).T


@dataclass(frozen=True)
class Quantity(Skewed):
    """Hospitals of different size and the same kind of patients; sizes are Dirichlet (Li et al. 2021, arXiv
    2102.02079)."""

    info: ClassVar[Info] = Info("dealt unevenly by quantity (Dirichlet)", "Li et al. 2021, arXiv 2102.02079")

    def shares(self, rng: np.random.Generator, classes: int) -> np.ndarray:
        return rng.dirichlet(np.full(self.sites, self.alpha))[:, None]


@dataclass(frozen=True)
class FeatureShift(IID):
    """The hospitals of `IID` (of the same seed, the same rows), each with a scanner or laboratory of its own.

    Strengths are spread evenly over the hospitals in random order, the order of each kind by itself, so that with
    little or many hospitals both ends occur. Images are blurred, multiplied and made noisy, in this order. In tables
    each column that can be measured otherwise is offset; columns of the schema that never change (age, sex) stay, and
    codes (the kind of pain) do unless the offset reaches over half their distance. All inputs are then snapped to
    possible ones, which cuts off what lies beyond their bounds. Validation and test rows are from the same scanner.

    Attributes:
        gain: Images: intensities are multiplied by 1 - gain to 1 + gain. Tables: columns are offset by -gain to gain,
            in units of the space's scale, the hospitals in another order in each column.
        noise: Standard deviation of Gaussian noise of each pixel or cell, from 0 to this; in units of scale.
        blur: Standard deviation of a Gaussian blur in pixels, from 0 to this. Images only.
    """

    info: ClassVar[Info] = Info("dealt evenly, each with a scanner of its own (simulated)",
                                "Li et al. 2021, arXiv 2102.02079")
    gain: Decay = 0.2
    noise: NonNegative = 0.02
    blur: NonNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("gain", 1.0), ("noise", np.inf), ("blur", np.inf)):
            if not 0 <= getattr(self, name) < most:
                raise InputError(f"FeatureShift: {name} must be at least 0 and below {most:g}, got "
                                 f"{getattr(self, name)!r}")
        if self.sites < 2:
            raise InputError("FeatureShift: needs at least 2 sites, which differ from each other")

    def __call__(self, data: Dataset, seed: int = 0) -> tuple[Site, ...]:
        """As of `Dealt`, with shifted inputs.

        Raises:
            InputError: Also when `blur` is asked of tables.
        """
        images = data.train.x.ndim == 4
        if self.blur and not images:
            raise InputError(f"FeatureShift: blur is for images, and {data.name} holds none; set it to 0")
        rng = np.random.default_rng([seed, 1])
        columns = 1 if images else data.train.x.shape[1]
        gains = np.stack([rng.permutation(np.linspace(-self.gain, self.gain, self.sites)) for _ in range(columns)], 1)
        noises, blurs = (rng.permutation(np.linspace(0, most, self.sites)) for most in (self.noise, self.blur))
        scanners = zip(super().__call__(data, seed), gains, noises, blurs, strict=True)
        return tuple(replace(site, **{part: self._shifted(getattr(site, part), *scanner, rng) for part in PARTS})
                     for site, *scanner in scanners)

    @staticmethod
    def _shifted(split: Split, gain: np.ndarray, noise: float, blur: float, rng: np.random.Generator) -> Split:
        x, scale = split.x, split.space.scale.numpy()
        z = gaussian_filter(x, (0, 0, blur, blur)) * (1 + gain) if x.ndim == 4 else x + gain * scale
        z = z + noise * scale * rng.standard_normal(x.shape)
        snapped = split.space.snap(torch.from_numpy(z.astype(np.float32)), torch.from_numpy(x))
        return split.with_data(snapped.numpy(), split.y)


def _deal(split: Split, patient: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(patients,) int64: the hospital of each patient; `patient` is the number of each row's."""
    size = np.bincount(patient)
    stratum = np.zeros(len(size), np.int64)
    if shares.shape[1] > 1:
        holds = np.zeros((len(size), shares.shape[1]), np.int64)
        np.add.at(holds, (patient, split.y), 1)
        stratum = np.where(holds > 0, holds.sum(0), len(split) + 1).argmin(1)
    owner = np.empty(len(size), np.int64)
    for label, share in enumerate(shares.T):
        members = rng.permutation(np.flatnonzero(stratum == label))
        rows = size[members]
        # a patient goes to whom the middle of its rows falls to, so shares are met to half a patient
        owner[members] = np.searchsorted(share.cumsum()[:-1] * rows.sum(), rows.cumsum() - rows / 2)
    return owner


def _sites(data: Dataset, names: Sequence[str], owners: Sequence[np.ndarray]) -> tuple[Site, ...]:
    """The hospitals, when `owners` says of each row of train, val and test whose it is."""
    return tuple(Site(name, *(getattr(data, part).take(np.flatnonzero(owner == k))
                              for part, owner in zip(PARTS, owners, strict=True)), features=data.features)
                 for k, name in enumerate(names))
