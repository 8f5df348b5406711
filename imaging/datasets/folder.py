"""A folder of images: one folder for each class, or a CSV that says what each image shows and whose it is."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from imaging.datasets import intensity as pixels
from imaging.datasets import limits, volumes
from imaging.datasets.assemble import Pictures, build, patients_of, subgroups_of
from imaging.datasets.npz import DEFAULTS
from suite.audit.plan import Images
from suite.base.errors import InputError
from suite.core.data import Dataset, Provenance
from suite.datasets import cache, csv
from suite.datasets.positive import disease_last
from suite.datasets.split import parts_of

PICTURES, DICOM, NIFTI = (".png", ".jpg", ".jpeg"), (".dcm",), (".nii", ".nii.gz")
SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")
"""Whose volume it is, in the names of BIDS."""
LARGEST = 1024
"""Pixels a side, as of `suite.audit.plan.Images.size`: more of them than a few would fill the memory."""


@dataclass(frozen=True)
class _Read:
    """What one file holds.

    Attributes:
        x: (n, c, h, w) float32 in [0, 1].
        patient: Whom the file names, or "".
        deep: The largest value of a picture with 16 bits, from 0 to 1; else 0.
    """

    name: str
    x: np.ndarray
    patient: str
    deep: float


def read_folder(path: Path, images: Images = DEFAULTS) -> Dataset:
    """A folder of images of your own, PNG, JPEG, DICOM or NIfTI: one folder for each class, or a CSV of labels.

    Without a CSV, DICOM files are told apart by their PatientID, and NIfTI volumes by the `sub-XX` in their names; one
    without is taken for a patient of its own. Where patients are not known, the split is by image. The data card says
    so. Identical images are kept in one split.

    Raises:
        InputError: One line naming the folder and the file, class, column or line that is wrong.
    """
    path = Path(path)
    try:
        return _read_folder(path, images)
    except InputError as e:
        raise InputError(f"{path.name}: {e}") from None


def _read_folder(path: Path, images: Images) -> Dataset:
    images.refuse("each image of a folder has one label", "finding")
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*")
                   if _kind(p) and not any(part.startswith(".") for part in p.relative_to(path).parts))
    for name in names:
        if not name.isprintable():  # nor half of a surrogate pair, which stands for bytes that are no UTF-8
            raise InputError(f"{name!r}: the file's name has control characters or is not UTF-8; rename it")
    if not names:
        raise InputError(f"holds no image ({', '.join((*PICTURES, *DICOM, *NIFTI))})")
    if all(_kind(Path(name)) in PICTURES for name in names):
        images.refuse("pictures are taken as they are", "window", "slices")
    beside = images.labels or path / "labels.csv"
    if images.labels or beside.exists():
        try:
            limits.check_regular(beside, None if images.labels else path)
        except InputError as e:
            raise InputError(f"{beside.name}: {e}") from None
    frame = _lines(beside, names) if images.labels or beside.exists() else None
    if frame is not None and "label" in frame.columns:
        labels = csv.words(frame["label"])
        if (empty := np.isin(np.char.lower(labels), csv.EMPTY)).any():
            raise InputError(f"{beside.name}: column 'label' {csv.place(frame, int(empty.argmax()))} is empty")
    else:
        labels = _folders(path, names)
    try:
        about = pd.DataFrame(index=range(len(names))) if frame is None else frame
        patients, by = patients_of(about, images.patient)
        groups = subgroups_of(about, images.subgroups)
        part = parts_of(about, "split") if "split" in about.columns else None
    except InputError as e:
        raise InputError(f"{beside.name}: {e}" if frame is not None else str(e)) from None

    read, numbers = [], 0
    for name in names:
        read.append(_read(path, name, images))
        numbers += read[-1].x.size
        limits.check_size(numbers)
    _check_alike(read)
    counts = [len(r.x) for r in read]
    x = np.concatenate([r.x for r in read])
    guessed = patients is None and any(_kind(Path(name)) in NIFTI and not SUBJECT.search(name) for name in names)
    if patients is None:
        patients = _named(read)
    kinds = sorted(set(labels.tolist()))
    if all(name.isdecimal() for name in kinds):  # 2 before 10
        kinds.sort(key=int)
    y = np.array([kinds.index(label) for label in labels.tolist()], np.int64)
    y, classes, disease = disease_last(y, tuple(kinds), images.positive)
    spread = [None if v is None else np.repeat(v, counts) for v in (part, patients)]
    pictures = Pictures(x, np.repeat(y, counts), classes, *spread, {k: np.repeat(v, counts) for k, v in groups.items()},
                        images.modality or "", by, disease)
    card = {"read from": f"the folder {path.name}, {len(names)} files", "intensity": _intensity(names, images),
            "resized": f"to {images.size} x {images.size} pixels, bicubic, antialiased" if images.size else ""}
    provenance = Provenance(path.name, "the user's files", "not stated", _sha256(path, names, beside), 0, False,
                            "" if frame is None else f"labels from {beside.name}")
    data = build(pictures, provenance, card, allow_leakage=images.allow_leakage)
    if guessed:
        told = f"not known; taken to be one a volume: {data.card['patients']}"
        return replace(data, card={**data.card, "patients": told})
    return data


def _kind(path: Path) -> str:
    """The suffix of an image, or ""."""
    name = path.name.lower()
    return next((suffix for suffix in (*PICTURES, *DICOM, *NIFTI) if name.endswith(suffix)), "")


def _folders(path: Path, names: list[str]) -> np.ndarray:
    """(n,) str: the class of each image by the folder it is in."""
    labels = np.array([name.split("/")[0] if "/" in name else "" for name in names])
    if (labels == "").any():
        raise InputError(f"{names[int((labels == '').argmax())]} is in no folder of a class; put it into one, or name "
                         "its label in a CSV (--labels)")
    there = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    for name in there:
        if name not in labels:
            raise InputError(f"class folder '{name}' holds no image")
    if {name.lower() for name in there} <= {"train", "training", "val", "valid", "validation", "test"}:
        raise InputError(f"its folders are splits ({', '.join(there)}), not classes; name label and split of each file "
                         "in a CSV (--labels)")
    return labels


def _lines(path: Path, names: list[str]) -> pd.DataFrame:
    """The lines of the CSV of labels, in the order of the files."""
    try:
        frame = csv.read(path)
        csv.check_column(frame, "file")
        files = [name.replace("\\", "/").removeprefix("./") for name in csv.words(frame["file"]).tolist()]
        line = {}
        for row, name in enumerate(files):
            if name in line:
                raise InputError(f"column 'file' {csv.place(frame, row)}: '{name}' is there twice")
            line[name] = row
        for name in names:
            if name not in line:
                raise InputError(f"has no line for the image {name}")
        if lost := line.keys() - set(names):
            name = min(lost, key=line.get)
            raise InputError(f"column 'file' {csv.place(frame, line[name])}: '{name}' is no image of the folder")
        return frame.iloc[[line[name] for name in names]]
    except InputError as e:
        raise InputError(f"{path.name}: {e}") from None


def _read(folder: Path, name: str, images: Images) -> _Read:
    """One file as images in [0, 1], as asked for."""
    path, kind, patient = folder / name, _kind(Path(name)), ""
    try:
        limits.check_regular(path, folder)
        if kind in DICOM:
            image, patient = volumes.dicom(path, images.window)
            stored = image[None]
        elif kind in NIFTI:
            stored, subject = volumes.nifti(path, images.slices, images.window), SUBJECT.search(name)
            patient = subject.group(1) if subject else name
        else:
            stored = _picture(path)[None]
        height, width = stored.shape[1:3]
        if images.size is None and max(height, width) > LARGEST:
            raise InputError(f"has {width} x {height} pixels; beyond {LARGEST} a side give a size to resize all images "
                             "to (--size)")
        deep = float(stored.max()) if kind in PICTURES and stored.dtype != np.uint8 else 0.0
        return _Read(name, pixels.fit(pixels.unit(stored), images.size, images.channels), patient, deep)
    except InputError as e:
        raise InputError(f"{name} {e}") from None
    except Exception as e:  # whatever the decoders of four formats raise on damaged files
        reason = str(e).splitlines()
        raise InputError(f"{name} cannot be read: {reason[0] if reason else type(e).__name__}") from None


def _picture(path: Path) -> np.ndarray:
    """(h, w) or (h, w, 3), uint8 or, of 16-bit images, float32 in [0, 1]; transparency is dropped."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=("PNG", "JPEG")) as stored:  # a name says little: others run whole interpreters
        limits.check_picture(stored.width, stored.height)
        image = ImageOps.exif_transpose(stored)  # a camera held sideways notes that, and stores the pixels as they come
        if image.mode.startswith("I"):
            return np.asarray(image, np.float32) / 65535
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _check_alike(read: list[_Read]) -> None:
    """`InputError` naming two files that differ in their size or channels, or where 16 bits hold 12."""
    first = read[0]
    for other in read:
        (_, c, h, w), (_, channels, height, width) = first.x.shape, other.x.shape
        if (h, w) != (height, width):
            raise InputError(f"{first.name} has {w} x {h} pixels and {other.name} {width} x {height}; give a size to "
                             "resize all images to (--size)")
        if c != channels:
            raise InputError(f"{first.name} is {_hue(c)} and {other.name} {_hue(channels)}; give --channels 1 or "
                             "--channels 3")
    deepest = max(read, key=lambda r: r.deep)
    if 0 < deepest.deep < 4096 / 65536:
        raise InputError(f"its pictures have 16 bits, but no value above {65535 * deepest.deep:.0f} ({deepest.name}), "
                         "so that all would be nearly black; if they are of 12 bits, multiply them by 16")


def _named(read: list[_Read]) -> np.ndarray | None:
    """(n,) str: the patients that the files name; None where none of them does.

    Raises:
        InputError: Some do and some do not.
    """
    silent = next((r.name for r in read if not r.patient), None)
    if silent is None:
        return np.array([r.patient for r in read])
    if any(r.patient for r in read):
        raise InputError(f"{silent} names no patient, and others do; name them in a CSV (--labels)")
    return None


def _hue(channels: int) -> str:
    return "grey" if channels == 1 else "in colour"


def _intensity(names: list[str], images: Images) -> str:
    """How stored values became those from 0 to 1."""
    kinds = {_kind(Path(name)) for name in names}
    said = ["pictures: full range of their bits"] if kinds & set(PICTURES) else []
    if kinds & {*DICOM, *NIFTI}:
        said.append("scans: " + (f"window with center {images.window[0]:g} and width {images.window[1]:g}"
                                 if images.window else "0.5th to 99.5th percentile of each"))
    return "; ".join(said)


def _sha256(path: Path, names: list[str], labels: Path) -> str:
    """Of all names and contents, and of the labels."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n{cache.sha256_of(path / name)}\n".encode())
    if labels.exists():
        digest.update(cache.sha256_of(labels).encode())
    return digest.hexdigest()
