"""DICOM images and middle slices of NIfTI volumes, through MONAI's readers."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np

from imaging.datasets import limits
from imaging.datasets.intensity import ends, scaled
from suite.base.errors import InputError

Window = tuple[float, float] | None


def dicom(path: Path, window: Window = None) -> tuple[np.ndarray, str]:
    """A two-dimensional DICOM image, bright where the scanner says so, and the patient's number, if it has one.

    Args:
        path: The file.
        window: See `imaging.datasets.intensity.ends`; in units after rescaling by slope and intercept.

    Returns:
        (height, width) or (height, width, 3) float32 in [0, 1], and the tag PatientID, which may be empty.
    """
    from monai.data import PydicomReader

    _check_dicom(path)
    reader = PydicomReader(swap_ij=False)
    with warnings.catch_warnings():  # about tags that are of no use here
        warnings.simplefilter("ignore")
        header = reader.read(path)
        stored, _ = reader.get_data(header)
    colour = stored.ndim == 3 and stored.shape[2] == 3
    if stored.ndim != 2 and not colour:
        raise InputError(f"holds an array of shape {stored.shape}; only single images are read, not series of them")
    _check(stored)
    meaning = header.get("PhotometricInterpretation")
    if meaning == "PALETTE COLOR":  # what is stored are places in a table of colours
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(header.pixel_array, header)[..., :3]
        image = colours.astype(np.float32) / np.iinfo(colours.dtype).max
    elif colour:
        image = stored.astype(np.float32) / (2 ** int(header.BitsStored) - 1)
    else:
        image = scaled(stored, *ends(stored, window))
    if meaning == "MONOCHROME1":  # its lowest value is white
        image = 1 - image
    return image, str(header.get("PatientID") or "").strip()


def nifti(path: Path, slices: int = 1, window: Window = None) -> np.ndarray:
    """The middle axial slices of a NIfTI volume, front up and the patient's left on the left.

    Args:
        path: The file.
        slices: How many.
        window: See `imaging.datasets.intensity.ends`; percentiles are those of the volume.

    Returns:
        (slices, height, width) float32 in [0, 1].
    """
    from monai.data import NibabelReader

    _check_nifti(path)
    reader = NibabelReader(as_closest_canonical=True, squeeze_non_spatial_dims=True)
    volume, _ = reader.get_data(reader.read(path))
    if volume.ndim == 2:
        volume = volume[..., None]
    if volume.ndim != 3:
        raise InputError(f"holds an array of shape {volume.shape}; only volumes are read, not series of them")
    depth = volume.shape[2]
    if depth < slices:
        raise InputError(f"has {depth} axial slice{'s' * (depth > 1)}, and {slices} are asked for")
    _check(volume)
    first = (depth - slices) // 2
    low, high = ends(volume, window)  # before the copy of a few slices, as one of the whole volume may be large
    middle = scaled(volume[:, :, first : first + slices], low, high)
    return np.ascontiguousarray(middle.transpose(2, 1, 0)[:, ::-1])  # axes are right, front, up


def _check_dicom(path: Path) -> None:
    """`InputError` where the pixels that a header announces are too many, or the header itself is compressed."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise InputError("is deflated as a whole, so that its size is not known; store it as explicit little endian")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dcmread(path, stop_before_pixels=True)
        sizes = [int(header.get(tag) or 1) for tag in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")]
    limits.check_picture(sizes[1], sizes[0])
    if sizes[2] > 1:
        raise InputError(f"holds {sizes[2]} images; only single images are read, not series of them")
    limits.check_size(math.prod(sizes), each=8)


def _check_nifti(path: Path) -> None:
    """`InputError` where the volume that a header announces is too large; only the first bytes are unpacked."""
    import nibabel

    header = nibabel.load(path).header
    limits.check_size(math.prod(int(side) for side in header.get_data_shape()), each=8)


def _check(stored: np.ndarray) -> None:
    if not np.isfinite(stored).all():
        raise InputError("holds a value that is not finite")
