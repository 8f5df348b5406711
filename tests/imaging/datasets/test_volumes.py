"""DICOM and NIfTI files, written here with known values."""

import nibabel
import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from imaging.datasets import volumes
from imaging.datasets.folder import read_folder
from suite.audit.plan import Images
from suite.base.errors import InputError


def save_dicom(path, stored, patient="", **tags):
    """A DICOM file of unsigned 16-bit values (or of 8-bit colours)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.PatientID, file.Modality = patient, "CR"
    colour = stored.ndim == 3 and stored.shape[-1] == 3
    file.SamplesPerPixel, file.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        file.PlanarConfiguration = 0
    elif stored.ndim == 3:
        file.NumberOfFrames = len(stored)
    file.Rows, file.Columns = stored.shape[:2] if colour or stored.ndim == 2 else stored.shape[1:]
    file.BitsAllocated = file.BitsStored = 8 * stored.itemsize
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, 0
    file.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(120, dtype=np.uint16).reshape(12, 10) * 10


def test_a_window_is_in_units_after_rescaling(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", RAMP, "7", RescaleSlope=2, RescaleIntercept=-1000)
    image, patient = volumes.dicom(path, (0, 1000))
    np.testing.assert_allclose(image, ((RAMP * 2.0 - 1000 + 500) / 1000).clip(0, 1), atol=1e-6)
    assert patient == "7" and image.shape == (12, 10) and image.dtype == np.float32


def test_without_a_window_percentiles_and_slope_does_not_matter(tmp_path):
    plain, _ = volumes.dicom(save_dicom(tmp_path / "a.dcm", RAMP))
    scaled, _ = volumes.dicom(save_dicom(tmp_path / "b.dcm", RAMP, RescaleSlope=3, RescaleIntercept=5))
    low, high = np.percentile(RAMP, (0.5, 99.5))
    np.testing.assert_allclose(plain, ((RAMP - low) / (high - low)).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(plain, scaled, atol=1e-6)


def test_monochrome1_is_turned_over_and_colour_is_kept(tmp_path):
    image, _ = volumes.dicom(save_dicom(tmp_path / "a.dcm", RAMP), (600, 1200))
    path = save_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")
    turned, _ = volumes.dicom(path, (600, 1200))
    np.testing.assert_allclose(turned, 1 - image, atol=1e-6)
    colour = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    found, _ = volumes.dicom(save_dicom(tmp_path / "c.dcm", colour))
    np.testing.assert_allclose(found, colour / 255, atol=1e-6)


def test_places_in_a_table_become_its_colours(tmp_path):
    table = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    tags = {f"{name}PaletteColorLookupTable{what}": value for i, name in enumerate(("Red", "Green", "Blue"))
            for what, value in (("Descriptor", [256, 0, 8]), ("Data", table[:, i].tobytes()))}
    places = np.arange(120, dtype=np.uint8).reshape(12, 10)
    image, _ = volumes.dicom(save_dicom(tmp_path / "a.dcm", places, PhotometricInterpretation="PALETTE COLOR", **tags))
    np.testing.assert_allclose(image, table[places] / 255, atol=1e-6)


def test_middle_slices_of_a_volume_front_up_whatever_its_axes(tmp_path):
    volume = np.random.default_rng(0).random((10, 12, 7)).astype(np.float32)  # right, front, up
    affine = np.diag([2.0, 2, 3, 1])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "a.nii")
    mirrored = affine.copy()
    mirrored[0, 0] = -2
    nibabel.save(nibabel.Nifti1Image(volume[::-1], mirrored), tmp_path / "b.nii.gz")
    for name in ("a.nii", "b.nii.gz"):
        found = volumes.nifti(tmp_path / name, 3, (0.5, 1))
        assert found.shape == (3, 12, 10)
        for i, z in enumerate((2, 3, 4)):
            np.testing.assert_allclose(found[i], volume[:, ::-1, z].T, atol=1e-6)
    with pytest.raises(InputError, match="has 7 axial slices, and 8 are asked for"):
        volumes.nifti(tmp_path / "a.nii", 8)


def test_what_is_no_single_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="only single images are read"):
        volumes.dicom(save_dicom(tmp_path / "a.dcm", np.stack([RAMP] * 4)))
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4, 3), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match="only volumes are read"):
        volumes.nifti(tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((8, 8, 4), np.nan, np.float32), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(InputError, match="not finite"):
        volumes.nifti(tmp_path / "b.nii")


def test_a_folder_of_dicom_is_split_by_the_patient_that_the_files_name(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        save_dicom(tmp_path / "scans" / ("ill" if i % 8 < 4 else "well") / f"{i}.dcm",
                   rng.integers(0, 4000, (12, 10), dtype=np.uint16), f"MRN{i // 4}")
    dataset = read_folder(tmp_path / "scans", Images(positive="ill"))
    held = [set(s.patients.tolist()) for s in (dataset.train, dataset.val, dataset.test)]
    assert len(set().union(*held)) == sum(map(len, held)) == 6
    assert dataset.card["intensity"] == "scans: 0.5th to 99.5th percentile of each"
    assert "MRN" not in str(dataset.card)
    good = (tmp_path / "scans/ill/1.dcm").read_bytes()
    for content in (b"hello", good[:300], good[:-40]):
        (tmp_path / "scans/ill/1.dcm").write_bytes(content)
        with pytest.raises(InputError, match=r"^scans: ill/1\.dcm cannot be read: ") as error:
            read_folder(tmp_path / "scans")
        assert "\n" not in str(error.value)


def test_one_file_without_a_patient_among_others_is_named(tmp_path):
    for i in range(4):
        save_dicom(tmp_path / "scans" / "ab"[i % 2] / f"{i}.dcm", RAMP + i, "" if i == 2 else f"P{i}")
    with pytest.raises(InputError, match=r"^scans: a/2\.dcm names no patient, and others do; name them in a CSV"):
        read_folder(tmp_path / "scans")


def test_a_folder_of_volumes_keeps_the_slices_of_one_together(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        file = tmp_path / "scans" / ("ill" if i % 2 else "well") / f"{i}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(rng.random((10, 12, 9)).astype(np.float32), np.eye(4)), file)
    dataset = read_folder(tmp_path / "scans", Images(slices=3, window=(0.5, 1)))
    assert dataset.provenance.rows == 36
    assert dataset.card["patients"] == "not known; taken to be one a volume: 12; each in one split only"
    for split in (dataset.train, dataset.val, dataset.test):
        assert set(np.unique(split.patients, return_counts=True)[1]) == {3}
    assert dataset.card["intensity"] == "scans: window with center 0.5 and width 1"
    for i in range(12):  # two volumes of each subject
        name = tmp_path / "scans" / ("ill" if i % 2 else "well") / f"{i}.nii.gz"
        name.rename(name.with_name(f"sub-{i // 4}{i % 2}_ses-{i // 2 % 2}_T1w.nii.gz"))
    assert read_folder(tmp_path / "scans").card["patients"] == "6; each in one split only"
    name.with_name("1.nii.gz").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"^scans: ill/1\.nii\.gz cannot be read: "):
        read_folder(tmp_path / "scans")
