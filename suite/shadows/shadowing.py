"""Shadow models: the target's recipe behind the target's defense, trained on other choices of patients.

They tell how sure a model is of a row that it has learned from, and how sure of the same row when it has not. Of each
only its answers about the scored rows are kept, and training rows are gathered as they are needed, so memory does not
grow with their number.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import islice, tee
from pathlib import Path

import numpy as np
import torch

from suite.base.errors import InputError
from suite.base.progress import advance
from suite.core.classifier import Classifier
from suite.core.data import Split, joined, patients_of
from suite.core.defense import Defense, Front
from suite.core.odds import Shadows, log_odds
from suite.core.recipe import Recipe
from suite.results.seal import keep, read_kept
from suite.training.stack import fit_many

LIBRARIES = ("torch", "scikit-learn", "xgboost", "opacus")
"""Another version of these may train other models."""


@dataclass(frozen=True)
class Shadowing:
    """How shadow models of one target are trained: half of the scored rows, and all rows that are not scored.

    Each scored row is known to exactly half of the models; all rows of its patient are, or none. Where each patient has
    one row, each model learns from as many rows as the target did. The attacker thus knows the rest of the training
    data: the worst case.

    Attributes:
        recipe, defense: As those of the target.
        members, others: The scored rows, of as many members as others. The odds are in this order.
        train, outside: Where they are from: the target's training split, and one that it has not seen.
        val: For early stopping, as that of the target.
        seed: Of the choice of rows, and of the trainings.
        device: Where they are trained.
        shelf: Folder in which answers are kept for other attacks on the same target; None for nowhere.
    """

    recipe: Recipe
    defense: Defense
    members: np.ndarray
    others: np.ndarray
    train: Split
    outside: Split
    val: Split
    seed: int = 0
    device: str = "cpu"
    shelf: Path | None = None

    def __call__(self, count: int) -> Shadows:
        """The answers of `count` models, an even number of at least 2: of those on the shelf first, then of new ones.

        Of a larger number, the first are the models of a smaller one.
        """
        if count < 2 or count % 2:
            raise InputError(f"shadow models come in pairs, as each row is in one of two: {count} is no number of them")
        n = len(self.members) + len(self.others)
        inside, owner = halves(count, n, self.seed), self._further()[1]
        odds = self._kept()[:count]
        if len(odds) < count:
            odds = self._trained(inside, odds)
        return Shadows(inside, odds[:, :n], odds[:, n:], owner) if len(owner) else Shadows(inside, odds)

    def further_rows(self) -> Split:
        """The f other rows of the scored patients."""
        more, cut = self._further()[0], len(self.train)
        return joined(self.train.take(more[more < cut]), self.outside.take(more[more >= cut] - cut))

    def _further(self) -> tuple[np.ndarray, np.ndarray]:
        """(f,) positions of these, counted as by `_scored`, and (f,) which of the scored rows is of the same patient.
        """
        if self.train.patients is None or self.outside.patients is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        scored, people = self._scored(), np.concatenate([self.train.patients, self.outside.patients])
        known, first = np.unique(people[scored], return_index=True)
        more = np.setdiff1d(np.flatnonzero(np.isin(people, known)), scored)
        return more, first[np.searchsorted(known, people[more])]

    def _scored(self) -> np.ndarray:
        """(n,) positions of the scored rows, those of the outside split counted after those of the training split."""
        return np.concatenate([self.members, len(self.train) + self.others])

    def _trained(self, inside: np.ndarray, odds: np.ndarray) -> np.ndarray:
        """The answers of all models, of which the first are there; each is put on the shelf as it comes."""
        scored = joined(self.train.take(self.members), self.outside.take(self.others), self.further_rows())
        seeds = [int(s) for s in np.random.SeedSequence([self.seed, 2]).generate_state(len(inside)) % 2**31]
        models = trained(self.recipe, self.defense, self._splits(inside[len(odds):]), self.val, seeds[len(odds):],
                         self.device)
        while len(odds) < len(inside):
            number = f"shadow model {len(odds) + 1}"
            try:
                answers = log_odds(next(models), scored.x, scored.y)
            except ValueError as e:
                raise InputError(f"{number}: {e}") from e
            if not np.isfinite(answers).all():
                raise InputError(f"{number} answers with numbers that are not finite")
            odds = np.concatenate([odds, answers[None]])
            self._keep(odds)
            advance("shadow models", len(odds), len(inside))
        return odds

    @property
    def _file(self) -> Path | None:
        return self.shelf and self.shelf / f"{self._key()}.npy"

    def _kept(self) -> np.ndarray:
        """(k, n) what is on the shelf, of k >= 0 models; none of it where it is not as it was put there."""
        n = len(self.members) + len(self.others) + len(self._further()[0])
        found = read_kept(self._file) if self._file else None
        usable = found is not None and found.ndim == 2 and found.shape[1] == n and np.isfinite(found).all()
        return found if usable else np.empty((0, n))

    def _keep(self, odds: np.ndarray) -> None:
        """Put answers on the shelf, unless more are there: another process may have the same target."""
        if self._file and len(self._kept()) < len(odds):
            keep(self._file, odds)

    def _splits(self, inside: np.ndarray) -> Iterator[Split]:
        """What each model learns from."""
        pool = joined(self.train, self.outside)
        people = patients_of(pool)
        scored = self._scored()
        rest = np.flatnonzero(~np.isin(people[:len(self.train)], people[scored]))
        rows = [np.flatnonzero(people == people[i]) for i in scored]
        for chosen in inside:
            yield pool.take(np.sort(np.concatenate([rest, *(rows[i] for i in np.flatnonzero(chosen))])))

    def _key(self) -> str:
        """A digest of everything that the answers depend on, the code that trains among it."""
        digest = hashlib.sha256(repr((self.recipe, self.defense, self.seed, torch.device(self.device).type,
                                      [f"{name} {version(name)}" for name in LIBRARIES])).encode())
        for split in (self.train, self.outside, self.val):
            bounds = [v.cpu().numpy() for _, v in sorted(vars(split.space).items()) if isinstance(v, torch.Tensor)]
            digest.update(repr((split.classes, split.modality, type(split.space))).encode())
            for array in (split.x, split.y, patients_of(split), *bounds):
                digest.update(np.ascontiguousarray(array))
        for array in (self.members, self.others):
            digest.update(array.tobytes())
        for made in (self.recipe, self.defense):
            digest.update(_code(type(made).__module__))
        return digest.hexdigest()[:32]


def trained(recipe: Recipe, defense: Defense, trains: Iterable[Split], val: Split, seeds: Iterable[int],
            device: str = "cpu") -> Iterator[Classifier]:
    """What the defense returns for each split and seed, in order; in stacks, or threads, where that is the same.

    No more splits are taken than are trained at once, and one more.
    """
    if (plain := defense.as_recipe(recipe)) is None:
        for train, seed in zip(trains, seeds, strict=True):
            yield defense(recipe, train, val, seed, device)
        return
    own, theirs = tee(trains)
    made = _in_threads if "trees" in plain.offers else fit_many  # trees let go of the interpreter's lock
    # the models come first, as they take many splits at once
    for found, train in zip(made(plain, theirs, val, seeds, device), own, strict=True):
        yield defense.wrap(found, train, val) if isinstance(defense, Front) else found


def _in_threads(recipe: Recipe, trains: Iterable[Split], val: Split, seeds: Iterable[int],
                device: str) -> Iterator[Classifier]:
    """As `fit_many`, as many at once as there are threads, while whoever takes one is busy with it, too."""
    pairs, threads = zip(trains, seeds, strict=True), torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        def begun(most: int) -> list[Future[Classifier]]:
            return [pool.submit(recipe.asked, train, val, seed, device) for train, seed in islice(pairs, most)]

        coming = deque(begun(threads))
        while coming:
            found = coming.popleft().result()
            coming += begun(1)
            yield found


def halves(count: int, n: int, seed: int) -> np.ndarray:
    """(count, n) bool: random halves of n rows and, after each, its other half."""
    rng = np.random.default_rng([seed, 1])
    first = np.stack([rng.permutation(n) < n // 2 for _ in range(count // 2)])
    return np.stack([first, ~first], 1).reshape(count, n)


@cache
def _code(module: str) -> bytes:
    """Digest of the source of this package and of the one that a module belongs to, or of the file that it is."""
    files = set(Path(__file__).parents[1].rglob("*.py"))
    top = sys.modules.get(module.partition(".")[0]) if "." in module else None
    if top is not None and getattr(top, "__path__", None):
        files |= {file for folder in top.__path__ for file in Path(folder).rglob("*.py")}
    else:
        files.add(Path(inspect.getsourcefile(sys.modules[module])))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.digest()
