"""What is checked of a file of images before anything in it is decoded: that it is one, and how large it would become.

A file can be small and its content huge: 5 MB of zeros in an `.npz` unpack to 10 GB. So sizes come from headers.
"""

from __future__ import annotations

import math
import stat
import zipfile
from pathlib import Path

import numpy as np

from suite.base.errors import InputError

MAX_DECODED = 4 * 2**30
"""Bytes that the numbers of one file, or of one folder, may take as they are computed with: float32, or what decoders
of scans work in, float64. Reading takes up to twice as much for a moment."""
MAX_PIXELS = 64 * 2**20
"""Pixels of one picture or one two-dimensional scan."""
MAX_NPY_HEADER = 10_000
"""Bytes of the header of an array; NumPy's own limit, checked before they are read."""


def check_regular(path: Path, inside: Path | None = None) -> None:
    """`InputError`, in words that follow the file's name, unless it is a regular file, and `inside` that folder."""
    if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
        raise InputError("is a link that leads out of the folder; copy the file into it")
    try:
        mode = path.stat().st_mode
    except OSError as e:
        raise InputError((e.strerror or str(e)).lower()) from None
    if not stat.S_ISREG(mode):
        raise InputError("is no regular file (a folder, pipe, device or socket); remove it or copy the file itself")


def check_size(numbers: int, most: int | None = MAX_DECODED, each: int = 4) -> None:
    """`InputError`, in words that follow the file's name, where so many numbers would take more than `most` bytes."""
    if most is not None and numbers * each > most:
        raise InputError(f"would take {_words(numbers * each)} once decoded, and at most {_words(most)} are read; give "
                         "smaller or fewer images")


def check_picture(width: int, height: int) -> None:
    """`InputError`, in words that follow the file's name, where one picture has too many pixels."""
    if width * height > MAX_PIXELS:
        raise InputError(f"has {width} x {height} pixels, and at most {MAX_PIXELS / 2**20:g} million are read of one "
                         "picture; store it smaller")


def _words(size: int) -> str:
    """Bytes for people."""
    unit = next((k for k in (3, 2, 1) if size >= 1024**k), 0)
    return f"{round(size / 1024**unit, 1):g} {('bytes', 'KB', 'MB', 'GB')[unit]}"


def npy_numbers(zipped: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Numbers in the array of a member of an `.npz` file, by its own header.

    Raises:
        InputError: It is encrypted, holds Python objects, or is larger than the zip file declares.
        ValueError: It is no array.
    """
    name = member.filename.removesuffix(".npy")
    if member.flag_bits & 1:
        raise InputError("is encrypted; store it without a password")
    with zipped.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        width = 2 if version[0] == 1 else 4
        length = int.from_bytes(stream.read(width), "little")
        if length > MAX_NPY_HEADER:
            raise InputError(f"'{name}' has a header of {length} bytes, and it may have {MAX_NPY_HEADER}; store the "
                             "array again with numpy.savez")
    with zipped.open(member) as stream:
        np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(stream, max_header_size=MAX_NPY_HEADER)
    if dtype.hasobject:
        raise InputError("holds Python objects, which could run any code, or is no .npz file")
    if not shape:
        raise InputError(f"'{name}' is a single value, not an array of images or labels")
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError("the header declares more than there is")
    return math.prod(shape) * max(1, dtype.itemsize // 4)  # of float64, each counts for two
