"""Images in the format of MedMNIST: one `.npz` file with three splits, and a CSV beside it that says more of them.

The keys are `train_images`, `train_labels`, `val_images`, `val_labels`, `test_images` and `test_labels`; others are
ignored. Images are uint8 (or float from 0 to 1) of shape (n, height, width) or (n, height, width, 3); labels (n, 1), or
(n, findings) of 0 and 1 where each image has several. The CSV has one line for each image: `split`, `index` in that
split, and where known `label`, `label_name`, `patient` and columns for subgroups.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from imaging.datasets import intensity as pixels
from imaging.datasets import limits
from imaging.datasets.assemble import Pictures, build, patients_of, subgroups_of
from suite.audit.plan import Images
from suite.base.errors import InputError
from suite.core.data import Dataset, Provenance
from suite.datasets import cache, csv
from suite.datasets.positive import disease_last
from suite.datasets.split import PARTS, parts_of

DEFAULTS = Images()
MOST_CLASSES = 256


def read_npz(path: Path, images: Images = DEFAULTS) -> Dataset:
    """Images of your own in MedMNIST's format: an .npz file with three splits, and a .csv beside it where there is one.

    Raises:
        InputError: One line naming the file and what is wrong with it.
    """
    path = Path(path)
    images.refuse(f"{path.name}: its pixels are taken as they are", "window", "slices")
    beside = images.labels or path.with_suffix(".csv")
    for file in (path, *((beside,) if beside.exists() else ())):  # before a checksum, which would wait for a pipe
        try:
            limits.check_regular(file)
        except InputError as e:
            raise InputError(f"{file.name}: {e}") from None
    provenance = Provenance(path.stem, "the user's file", "not stated", cache.sha256_of(path), 0, False)
    return load(path, beside if images.labels or beside.exists() else None, provenance, images,
                f"the file {path.name}", own=True)


def load(path: Path, sidecar: Path | None, provenance: Provenance, images: Images, read_from: str,
         names: Sequence[str] = (), known: Sequence[int] | None = None, *, own: bool = False,
         most: int | None = limits.MAX_DECODED) -> Dataset:
    """A dataset from an `.npz` file.

    Args:
        path: The file.
        sidecar: The CSV that belongs to it.
        provenance: Of the file; its checksum becomes that of both files.
        images: How to read it.
        read_from: Where the file was found, in words.
        names: Of the classes, or of the findings where there are several; from the sidecar where they are left out.
        known: New label of each label, where classes are put together; `names` are those of the new ones.
        own: The file is a user's, so that it is not known whether what it calls patients are patients.
        most: Bytes that its arrays may take as float32; None for a file whose checksum has vouched for it.
    """
    try:
        arrays = _arrays(path, most)
        limits.check_size(_numbers(arrays, images), most)
        x = np.concatenate([_images(arrays, split, images) for split in PARTS])
        y, part = _labels(arrays)
    except InputError as e:
        raise InputError(f"{path.name}: {e}") from None
    try:
        frame = pd.DataFrame(index=np.arange(len(y))) if sidecar is None else _sidecar(sidecar, part, y)
        patients, by = patients_of(frame, images.patient)
        groups = subgroups_of(frame, images.subgroups)
    except InputError as e:
        raise InputError(f"{(sidecar or path).name}: {e}") from None
    if sidecar is not None:
        both = f"{provenance.sha256}\n{cache.sha256_of(sidecar)}".encode()
        provenance = replace(provenance, sha256=hashlib.sha256(both).hexdigest())
    try:
        y, classes = _classes(y, names or _named(frame, y), images.finding, known)
        y, classes, disease = disease_last(y, classes, images.positive)
        pictures = Pictures(x, y, classes, part, patients, groups, images.modality or "", by if own else "",
                            disease)
        stored = next(iter(arrays.values())).shape[1:3]
        card = {"read from": read_from, "intensity": "as stored",
                "resized": f"from {stored[1]} x {stored[0]} pixels, bicubic, antialiased"
                if x.shape[2:] != stored else ""}
        return build(pictures, provenance, card, allow_leakage=images.allow_leakage)
    except InputError as e:
        raise InputError(f"{path.name}: {e}") from None


def _arrays(path: Path, most: int | None) -> dict[str, np.ndarray]:
    """The six arrays, images before labels; of at most so many bytes, as their headers say before they are read."""
    wanted = [f"{split}_{what}" for what in ("images", "labels") for split in PARTS]
    try:
        with zipfile.ZipFile(path) as zipped:
            members = {m.filename.removesuffix(".npy"): m for m in zipped.infolist() if m.filename.endswith(".npy")}
            if missing := [name for name in wanted if name not in members]:
                raise InputError(f"has no '{missing[0]}'; it has {csv.listed(list(members)) or 'no array'}")
            limits.check_size(sum(limits.npy_numbers(zipped, members[name]) for name in wanted), most)
            found = {}
            for name in wanted:
                with zipped.open(members[name]) as stream:
                    found[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return found
    except InputError:
        raise
    except OSError as e:
        raise InputError((e.strerror or "is damaged").lower()) from None
    except Exception:  # whatever zip, its compressions and NumPy raise on damaged bytes
        with path.open("rb") as stream:
            if stream.read(6) == np.lib.format.MAGIC_PREFIX:
                raise InputError("is a single array, not an .npz file; store the splits with numpy.savez") from None
        raise InputError("is damaged, or no .npz file") from None


def _numbers(arrays: dict[str, np.ndarray], images: Images) -> int:
    """Numbers in all images of the size and channels that are asked for."""
    stored = [arrays[f"{split}_images"] for split in PARTS]
    shape = (*stored[0].shape[1:], 1, 1, 1)  # what is no image is told apart later
    sides = shape[0] * shape[1] if images.size is None else images.size**2
    return sum(map(len, stored)) * sides * (images.channels or shape[2])


def _images(arrays: dict[str, np.ndarray], split: str, images: Images) -> np.ndarray:
    """The images of a split, as asked for."""
    name = f"{split}_images"
    if arrays[name].shape[1:] != arrays["train_images"].shape[1:]:
        raise InputError(f"'{name}' has the shape {arrays[name].shape}, but 'train_images' "
                         f"{arrays['train_images'].shape}")
    try:
        if not len(arrays[name]):
            raise InputError("is empty")
        return pixels.fit(pixels.unit(arrays[name]), images.size, images.channels)
    except InputError as e:
        raise InputError(f"'{name}' {e}") from None


def _labels(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(n, labels) int64 of all splits, and (n,) int64 which split each image is of."""
    found = []
    for split in PARTS:
        name = f"{split}_labels"
        labels = arrays[name][:, None] if arrays[name].ndim == 1 else arrays[name]
        if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
            raise InputError(f"'{name}' holds {labels.dtype}; labels are whole numbers")
        if labels.ndim != 2 or len(labels) != len(arrays[f"{split}_images"]) or not labels.shape[1]:
            raise InputError(f"'{name}' has the shape {labels.shape} for {len(arrays[f'{split}_images'])} images; "
                             "labels are (n, 1), or (n, findings)")
        for label in (labels.min(), labels.max()):
            if not 0 <= label < MOST_CLASSES:
                raise InputError(f"'{name}' holds the label {label}; labels count the classes, from 0 to "
                                 f"{MOST_CLASSES - 1} at most")
        if found and labels.shape[1] != found[0].shape[1]:
            raise InputError(f"'{name}' has {labels.shape[1]} labels for each image, 'train_labels' "
                             f"{found[0].shape[1]}")
        found.append(labels.astype(np.int64))
        if unknown := (set(labels.flat) - set(found[0].flat) if labels.shape[1] == 1 else ()):
            raise InputError(f"'{name}' holds the label {min(unknown)}, which training does not have (it has "
                             f"{csv.listed(sorted(map(str, np.unique(found[0])), key=int))})")
    return np.concatenate(found), np.repeat(np.arange(3), [len(labels) for labels in found])


def _classes(y: np.ndarray, names: Sequence[str], finding: str | None,
             known: Sequence[int] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n,) labels and class names, of the one finding where there are several."""
    if y.shape[1] > 1:
        findings = tuple(names) or tuple(map(str, range(y.shape[1])))
        numbered = {str(i): i for i in range(y.shape[1])} | {name: i for i, name in enumerate(findings)}
        if finding not in numbered:
            said = "" if finding is None else f", and '{finding}' is none of them"
            raise InputError(f"has {len(findings)} findings for each image{said}; say which with --finding: "
                             f"{csv.listed(findings, 20)}")
        y, name = y[:, numbered[finding]], findings[numbered[finding]]
        names = (f"no {name}", name)
    elif finding is not None:
        raise InputError(f"has one label for each image and no findings to choose from, so that '{finding}' means "
                         "nothing")
    else:
        y = y[:, 0]
        if known is not None and y.max() < len(known):
            y = np.asarray(known, np.int64)[y]
    names = tuple(names) or tuple(map(str, range(y.max() + 1)))
    if y.max() >= len(names):
        raise InputError(f"holds the label {y.max()}, but there are {len(names)} classes ({csv.listed(names)})")
    return y, names


def _sidecar(path: Path, part: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """The lines of the CSV, in the order of the images."""
    frame = csv.read(path)
    for name in ("split", "index"):
        csv.check_column(frame, name)
    start = np.searchsorted(part, np.arange(3))
    index, counts = csv.numbers(frame["index"])[0], np.bincount(part, minlength=3)
    which = parts_of(frame, "split")
    outside = ~((index >= 0) & (index < counts[which]) & (index == np.round(index)))
    if outside.any():
        row = int(outside.argmax())
        raise InputError(f"column 'index' {csv.place(frame, row)}: '{frame['index'].iloc[row]}' is no image of "
                         f"{PARTS[which[row]]}, which has {counts[which[row]]}")
    position = start[which] + index.astype(np.int64)
    times = np.bincount(position, minlength=len(part))
    if (times != 1).any():
        row = int((times != 1).argmax())
        many = f"{times[row]} lines" if times[row] else "no line"
        raise InputError(f"has {many} for image {row - start[part[row]]} of {PARTS[part[row]]}")
    frame = frame.iloc[np.argsort(position)]
    if "label" in frame.columns and y.shape[1] == 1:
        wrong = csv.numbers(frame["label"])[0] != y[:, 0]
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(f"{csv.place(frame, row)} has the label '{frame['label'].iloc[row]}', but the image has "
                             f"{y[row, 0]}")
    return frame


def _named(frame: pd.DataFrame, y: np.ndarray) -> tuple[str, ...]:
    """Class names by the column `label_name`, where each label has exactly one."""
    if "label_name" not in frame.columns or y.shape[1] > 1:
        return ()
    pairs = sorted(set(zip(y[:, 0].tolist(), csv.words(frame["label_name"]).tolist(), strict=True)))
    if [label for label, _ in pairs] != list(range(y.max() + 1)):
        return ()
    return tuple(name.replace("_", " ") for _, name in pairs)
