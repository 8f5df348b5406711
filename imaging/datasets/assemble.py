"""From images to a dataset: the split, the check that no patient is on both sides of it, and the data card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from imaging.space import ImageSpace
from suite.base.errors import InputError
from suite.core.data import Dataset, Provenance, Split, patient_numbers
from suite.datasets import csv
from suite.datasets.split import PARTS, WORDS, all_single, not_a_patient, shared, split, with_validation
from suite.datasets.subgroups import subgroup

USUAL_SUBGROUPS = ("age", "sex", "gender", "site", "hospital", "view", "laterality", "localization")
"""Columns of these names become subgroups by themselves."""

USUAL_PATIENTS = ("patient", "patientid", "subject", "subjectid", "groupid", "lesionid", "caseid", "studyid", "mrn")
"""Columns of these names, in whatever case and with whatever between the words, say whose image it is."""


@dataclass(frozen=True)
class Pictures:
    """All images of a source, in its order.

    Attributes:
        x: (n, channels, height, width) float32 in [0, 1].
        y: (n,) int64 labels.
        classes: Names of the labels.
        part: (n,) int64: 0 for training, 1 for validation, 2 for test; None where the source gives no split.
        patients: (n,) str; None where nobody knows.
        patients_by: Column of the labels that names them; "" where something else does.
        disease: For the data card: which class is the disease, and how that is known.
        subgroups: Name -> (n,) str.
        modality: Their kind, as of `Split`.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    part: np.ndarray | None = None
    patients: np.ndarray | None = None
    subgroups: Mapping[str, np.ndarray] = field(default_factory=dict)
    modality: str = ""
    patients_by: str = ""
    disease: str = ""


def build(pictures: Pictures, provenance: Provenance, card: Mapping[str, str], *, allow_leakage: bool = False,
          seed: int = 0) -> Dataset:
    """Split images where their source has not, check the split, and describe it.

    Args:
        pictures: The images.
        provenance: Of their source; `rows` and what the note says of leakage are filled in here.
        card: What else is to be told, such as where the file was found.
        allow_leakage: Accept a patient in two splits; the card and the provenance then say so.
        seed: Of the split.

    Raises:
        InputError: A class that a split lacks, fewer than two classes, or a patient in two splits.
    """
    y, classes = pictures.y, pictures.classes
    if len(classes) < 2:
        raise InputError(f"there is one class only: '{classes[0]}'" if classes else "there is no class")
    twins = _twins(pictures.x)
    patients = None if pictures.patients is None else np.unique(pictures.patients, return_inverse=True)[1]
    together, by = [twins] if patients is None else [twins, patients], "image" if patients is None else "patient"
    if pictures.part is None:
        parts, declared = split(y, together, classes, seed, "image"), ()
        how = f"60, 20 and 20 % of each class, by {by} (seed {seed})"
    else:
        part, declared = with_validation(pictures.part, y, together, classes, seed, "image"), _named(pictures.part)
        parts = tuple(np.flatnonzero(part == i) for i in range(3))
        how = "as the source gives it" + ("" if "val" in declared else
                                          f"; validation is 20 % of the training images, by {by} (seed {seed})")
    counts = np.array([np.bincount(y[index], minlength=len(classes)) for index in parts])
    for row in (0, 2):  # models are trained on the one and measured on the other
        if (counts[row] == 0).any():
            raise InputError(f"class '{classes[int((counts[row] == 0).argmax())]}' has no image in {WORDS[row]}")
    leak = "" if patients is None else _leak(pictures.patients, parts, allow_leakage)
    _, channels, height, width = pictures.x.shape
    twice = _shared(twins, parts)
    doubt = [not_a_patient(pictures.patients_by)] if pictures.patients_by and all_single(patients) else []
    whose = "not known: images of one patient may stand in several splits" if patients is None else "; ".join([
        f"{patients.max() + 1}" + (f" by column '{pictures.patients_by}'" if pictures.patients_by else ""),
        "see leakage" if leak else "each in one split only", *doubt])
    own = {
        "rows": f"{len(y)} images: {', '.join(f'{len(i)} {word}' for i, word in zip(parts, WORDS, strict=True))}",
        "images": f"{width} x {height} pixels, {'grey' if channels == 1 else 'colour'}, values from 0 to 1",
        "modality": pictures.modality or "not known, so that training shifts images and no more; say it "
                                         "with --modality",
        "classes": "; ".join(f"{name} {'/'.join(map(str, count))} ({count.sum() / len(y):.1%})"
                             for name, count in zip(classes, counts.T, strict=True)) + ", training/validation/test",
        "disease": pictures.disease,
        "patients": whose,
        "split": how,
        "leakage": leak,
        "identical images": f"{twice} images of validation and test are also in another split" if twice else "",
    }
    numbers = None if patients is None else patient_numbers(pictures.patients)
    whole = Split(pictures.x, y, ImageSpace(), classes, np.arange(len(y)), pictures.subgroups, numbers,
                  pictures.modality)
    note = "; ".join(filter(None, (provenance.note, leak)))
    return Dataset(provenance.name, *(whole.take(index) for index in parts),
                   replace(provenance, rows=len(y), note=note),
                   card={key: text for key, text in (own | dict(card)).items() if text}, declared=declared,
                   cautions=tuple(doubt))


def _named(part: np.ndarray) -> tuple[str, ...]:
    """Which splits a source names."""
    return tuple(name for i, name in enumerate(PARTS) if (part == i).any())


def resplit(data: Dataset, by: Literal["patient", "image"], seed: int = 0) -> Dataset:
    """The same images in another 60/20/20 split; by image is what must not be done, and the dataset then says so.

    Raises:
        InputError: By patient, and nobody knows them.
    """
    splits = (data.train, data.val, data.test)
    order = np.argsort(np.concatenate([s.rows for s in splits]))
    x, y = (np.concatenate([getattr(s, name) for s in splits])[order] for name in ("x", "y"))
    if data.train.patients is None:
        if by == "patient":
            raise InputError(f"{data.name}: patients are not known")
        patients = None
    else:
        patients = np.unique(np.concatenate([s.patients for s in splits])[order], return_inverse=True)[1]
    subgroups = {name: np.concatenate([s.subgroups[name] for s in splits])[order] for name in data.train.subgroups}
    part = np.empty(len(y), np.int64)
    for i, index in enumerate(split(y, [patients] if by == "patient" else [], data.classes, seed, "image")):
        part[index] = i
    named = None if patients is None else patients.astype(str)
    kept = {key: text for key, text in data.card.items() if key in ("read from", "intensity", "resized", "disease")}
    made = build(Pictures(x, y, data.classes, part, named, subgroups, data.train.modality), data.provenance,
                 kept | {"split": f"60, 20 and 20 % of each class, by {by} (seed {seed})"}, allow_leakage=True)
    return replace(made, declared=())


def patients_of(frame: pd.DataFrame, column: str | None) -> tuple[np.ndarray | None, str]:
    """(n,) str: whose image each line of a CSV is, and the column that says so; None and "" where none does.

    Raises:
        InputError: No such column, an empty cell in it, or several columns that could be meant.
    """
    if column is None:
        usual = [name for name in frame.columns if re.sub(r"[\s_-]", "", name.lower()) in USUAL_PATIENTS]
        if not usual:
            return None, ""
        if len(usual) > 1:
            raise InputError(f"columns {', '.join(usual)} may each name the patient; say which with --group")
        column = usual[0]
    _check_column(frame, column)
    names = csv.words(frame[column])
    if (nobody := np.isin(np.char.lower(names), csv.EMPTY)).any():
        raise InputError(f"column '{column}' {csv.place(frame, int(nobody.argmax()))}: no patient")
    return names, column


def subgroups_of(frame: pd.DataFrame, more: Sequence[str]) -> dict[str, np.ndarray]:
    """The usual columns of a CSV and those asked for as subgroups, (n,) str each."""
    for name in more:
        _check_column(frame, name)
    usual = [name for name in frame.columns if name.lower() in USUAL_SUBGROUPS]
    return {name.lower() if name in usual else name: subgroup(frame[name]) for name in dict.fromkeys([*usual, *more])}


def _check_column(frame: pd.DataFrame, name: str) -> None:
    if frame.columns.empty:
        raise InputError(f"no column '{name}', as there is no CSV beside the images (--labels names one)")
    csv.check_column(frame, name)


def _leak(patients: np.ndarray, parts: Sequence[np.ndarray], allowed: bool) -> str:
    """In words how many patients stand in several splits; refused unless allowed."""
    spread, first = shared(patients, parts)
    if not spread:
        return ""
    if not allowed:
        raise InputError(f"{first}, so that results would be those of patients the model has learned from; put all "
                         "images of a patient into one split, or accept it with --allow-leakage")
    return (f"LEAKAGE: {len(spread)} of {len(np.unique(patients))} patients stand in more than one split, so that "
            "results look better than they are")


def _twins(x: np.ndarray) -> np.ndarray:
    """(n,) int64: equal for equal images."""
    digests = [hashlib.blake2b(np.ascontiguousarray(image), digest_size=8).digest() for image in x]
    return np.unique(np.frombuffer(b"".join(digests), np.int64), return_inverse=True)[1]


def _shared(twins: np.ndarray, parts: Sequence[np.ndarray]) -> int:
    """How many images of validation and test are also in an earlier split."""
    train, val, test = (twins[index] for index in parts)
    return int(np.isin(val, train).sum() + np.isin(test, np.concatenate([train, val])).sum())
