"""PATE: differential privacy for any kind of model, trees among them, by a vote of teachers who share no patient."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from suite.base.bounds import Count, Positive, ProperShare, Several
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.progress import advance
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.defense import Defense
from suite.core.recipe import Recipe
from suite.defenses.private.accounting import claim, noise_multiplier, usual_delta
from suite.defenses.private.sizes import known_size


@dataclass(frozen=True)
class PATE(Defense):
    """A student that learns from noisy votes of teachers, each of whom has seen a part of the training rows.

    Which teacher a row goes to depends on that row and the seed alone or, where patients are known, on the patient's
    number, which is a digest of the patient's own identifier (`suite.core.data.patient_numbers`), and rows of one
    patient go to the same. So a row, or all rows of a patient, added or removed, changes one vote a question: counts
    move by an L2 distance of sqrt(2) at most, and the answers to all questions are a composition of Gaussian
    mechanisms. Epsilon is that of these, whatever the votes are.

    The student asks about validation rows, and knows their inputs and the noisy answers: these inputs are public here
    and not protected, and their labels are not looked at. Nor does epsilon cover what was decided from the training
    rows before: medians filled in, hyper-parameters tuned on the same patients. The noise comes from a seeded
    generator, so that results can be repeated; a model that is to be published needs noise that nobody can repeat.

    Many teachers outvote the noise and know few rows each; few questions need little noise and teach the student
    little. `medsec audit privacy --data pima --model random-forest --defenses pate` shows the price on Pima.

    `notes` holds what `suite.defenses.private.dpsgd.DPSGD` notes, a step being a question. The unit is a patient where
    patients are known.

    Attributes:
        epsilon: Target, positive.
        delta: Target, in (0, 1); None takes the largest power of ten below one over the number of rows, or patients.
        teachers: How many the training rows are dealt out to.
        questions: Validation rows that are asked about at most.
        public_rows: How many rows, or patients, are publicly known to be there, about, where `delta` is None; None
            rounds their number down. Nothing else depends on it.
    """

    info: ClassVar[Info] = Info(
        "PATE", "Papernot, Abadi, Erlingsson, Goodfellow and Talwar 2017, arXiv 1610.05755; Gaussian votes: Papernot "
        "et al. 2018, arXiv 1802.08908", threats=("membership",),
        cost="`teachers` trainings on a part of the rows each, one on the voted labels, and some seconds to calibrate",
        departs="epsilon for any votes, not for those that were cast; every question is answered; the student is of "
                "the same kind as the teachers")
    epsilon: Positive = 3.0
    delta: ProperShare | None = None
    teachers: Several = 30
    questions: Count = 100
    public_rows: Count | None = None

    def __post_init__(self) -> None:
        if not self.epsilon > 0 or not (self.delta is None or 0 < self.delta < 1):
            raise InputError(f"PATE: needs epsilon > 0 and delta in (0, 1), got {self.epsilon} and {self.delta}")
        if self.teachers < 2 or self.questions < 1:
            raise InputError(f"PATE: needs 2 teachers and 1 question at least, got {self.teachers} and "
                             f"{self.questions}")

    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        units = len(train) if train.patients is None else len(np.unique(train.patients))
        public = known_size(units, self.public_rows, usual_delta) if self.delta is None else None
        delta = usual_delta(public.number) if public else self.delta
        rng = np.random.default_rng([seed, 4])
        asked = val.take(np.sort(rng.permutation(len(val))[:self.questions]))
        try:
            sigma = noise_multiplier(self.epsilon, delta, 1.0, len(asked))
        except InputError:
            raise InputError(f"PATE: epsilon {self.epsilon:g} at delta {delta:g} is out of reach of {len(asked)} "
                             "questions: take a larger epsilon, or fewer questions") from None

        counts = self.votes(recipe, train, asked.x, seed, device)
        noisy = counts + rng.normal(0, sigma * 2**0.5, counts.shape)
        voted = asked.with_data(asked.x, noisy.argmax(1))
        for label in np.flatnonzero(np.bincount(voted.y, minlength=len(train.classes)) == 0):
            raise InputError(f"PATE: none of {len(asked)} answers is '{train.classes[label]}', so no student can learn "
                             "it; a larger epsilon or other numbers of teachers and questions may help")
        student = recipe.fit(voted, voted, seed, device)
        student.notes |= claim(sigma, delta, 1.0, len(asked), "row" if train.patients is None else "patient",
                               public)
        return student

    def votes(self, recipe: Recipe, train: Split, x: np.ndarray, seed: int, device: str = "cpu") -> np.ndarray:
        """(n, classes) int64: for how many teachers each class is the likeliest of each of (n, ...) inputs.

        A teacher without rows does not vote, and one who knows a single class votes for it.
        """
        counts = np.zeros((len(x), len(train.classes)), np.int64)
        teacher = dealt(train, self.teachers, seed)
        seeds = [int(s) for s in np.random.SeedSequence([seed, 5]).generate_state(self.teachers) % 2**31]
        for k in range(self.teachers):
            part = train.take(teacher == k)
            known, labels = np.unique(part.y, return_inverse=True)
            if len(known) > 1:  # labels without a gap, as some learners want them
                part = replace(part, y=labels.astype(np.int64), classes=tuple(train.classes[c] for c in known))
                said = recipe.fit(part, part, seeds[k], device).predict(x)
                counts[np.arange(len(x)), known[said]] += 1
            elif len(known):
                counts[:, known[0]] += 1
            advance("teachers", k + 1, self.teachers)
        return counts


def dealt(split: Split, parts: int, seed: int) -> np.ndarray:
    """(n,) int64 in [0, parts): a part for each row, by a digest of its patient or, where nobody knows them, of itself.

    No other row has a say, so that adding one leaves all others where they are.
    """
    keys = ([row.tobytes() + label.tobytes() for row, label in zip(split.x, split.y, strict=True)]
            if split.patients is None else [patient.tobytes() for patient in split.patients.astype(np.int64)])
    salt = str(seed).encode()
    return np.array([int.from_bytes(hashlib.blake2b(key, key=salt, digest_size=8).digest()) % parts for key in keys],
                    np.int64)
