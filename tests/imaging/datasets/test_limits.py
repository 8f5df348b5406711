"""Hostile files of images: refused in one line that names the file, before anything large is decoded."""

import os
import struct
import zipfile
import zlib

import numpy as np
import pytest

from imaging.datasets import intensity as pixels
from imaging.datasets import limits
from imaging.datasets.folder import read_folder
from imaging.datasets.npz import load, read_npz
from suite.audit.plan import Images
from suite.base.errors import InputError
from suite.core.data import Provenance
from tests.support.image_files import arrays, save_npz, save_picture


def refusal(read, path):
    with pytest.raises(InputError) as error:
        read(path)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    return str(error.value)


@pytest.fixture
def scans(tmp_path):
    for name in ("healthy", "ill"):
        for i in range(10):
            save_picture(tmp_path / "scans" / name / f"{i}.png", seed=i)
    return tmp_path / "scans"


def _png(width, height):
    """A PNG of that size by its header, and hardly any data."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))


def _npy(shape, data=b"", header=None):
    """An array's bytes with a header of one's own."""
    text = (header or f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n").encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


def _zip(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return path


def _saved(path, **changed):
    """An `.npz` in which some members are bytes of one's own."""
    save_npz(path)
    with zipfile.ZipFile(path) as zipped:
        there = {name: zipped.read(name) for name in zipped.namelist()}
    return _zip(path, **(there | {f"{k}.npy": v for k, v in changed.items()}))


def test_postscript_in_a_png_never_reaches_its_interpreter(scans, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("ran Ghostscript"))
    (scans / "ill" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 12\n"
                                          b"%%EndComments\nshowpage\n")
    assert "ill/0.png cannot be read" in refusal(read_folder, scans)


def test_a_picture_that_would_fill_the_memory(scans):
    (scans / "ill" / "0.png").write_bytes(_png(60_000, 60_000))
    assert "ill/0.png" in refusal(read_folder, scans)
    (scans / "ill" / "0.png").write_bytes(_png(12_000, 12_000))  # below what the decoder itself refuses
    assert "ill/0.png has 12000 x 12000 pixels, and at most 64 million are read" in refusal(read_folder, scans)


def test_all_pictures_of_a_folder_together(scans, monkeypatch):
    first = read_folder(scans)
    each = first.train.x[0].size
    monkeypatch.setattr(limits.check_size, "__defaults__", (20 * each * 4, 4))
    assert len(read_folder(scans).train) == len(first.train)
    monkeypatch.setattr(limits.check_size, "__defaults__", (20 * each * 4 - 1, 4))
    said = refusal(read_folder, scans)
    assert f"would take {80 * each / 1024:.1f} KB once decoded" in said


def test_numbers_count_as_what_they_become(tmp_path):
    """4.7 MB of zeros in an .npz became 16 GB of float32, and as much again in a copy."""
    from imaging.datasets.npz import _arrays

    path = save_npz(tmp_path / "x.npz")
    stored = sum(array.size for array in arrays().values())
    assert len(_arrays(path, 4 * stored)) == 6
    with pytest.raises(InputError, match=r"would take .* once decoded, and at most .* are read; give smaller"):
        _arrays(path, 4 * stored - 1)


def test_images_that_a_size_would_blow_up(tmp_path, monkeypatch):
    path, n = save_npz(tmp_path / "x.npz"), sum(len(v) for k, v in arrays().items() if k.endswith("images"))
    provenance = Provenance("x", "x", "x", "0", 0, False)
    monkeypatch.setattr(pixels, "fit", lambda *_: pytest.fail("resized"))
    with pytest.raises(InputError, match=r"x\.npz: would take .* once decoded"):
        load(path, None, provenance, Images(size=64, channels=3), "x", most=n * 64 * 64 * 3 * 4 - 1)


@pytest.mark.parametrize("kind", ["out", "pipe", "folder", "lost"])
def test_only_regular_files_inside_the_folder(scans, tmp_path, kind):
    file = scans / "ill" / "0.png"
    file.unlink()
    if kind == "out":
        file.symlink_to(save_picture(tmp_path / "secret.png"))
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(scans / "gone.png")
    said = refusal(read_folder, scans)
    assert "ill/0.png" in said
    assert {"out": "leads out of the folder", "lost": "no such file"}.get(kind, "no regular file") in said


def test_labels_that_are_a_link_out_of_the_folder(scans, tmp_path):
    """They would be read, and cells of them quoted in a message."""
    secret = tmp_path / "secret.csv"
    secret.write_text("file\nKarl Mueller\n")
    (scans / "labels.csv").symlink_to(secret)
    with pytest.raises(InputError, match=r"labels\.csv: is a link that leads out of the folder") as error:
        read_folder(scans)
    assert "Mueller" not in str(error.value)
    (scans / "labels.csv").unlink()
    inside = scans / "other.csv"
    inside.write_text("".join(["file,label\n", *(f"{kind}/{i}.png,{kind}\n" for kind in ("healthy", "ill")
                                                 for i in range(10))]))
    (scans / "labels.csv").symlink_to(inside)
    assert len(read_folder(scans).train)
    (tmp_path / "own.csv").symlink_to(inside)
    assert len(read_folder(scans, Images(labels=tmp_path / "own.csv")).train), "who names a file may mean any"


def test_a_link_inside_the_folder_is_read(scans):
    (scans / "ill" / "0.png").unlink()
    (scans / "ill" / "0.png").symlink_to(scans / "ill" / "1.png")
    assert len(read_folder(scans).train)


def test_a_picture_whose_name_is_not_utf8(scans):
    (scans / "ill" / "0.png").rename(scans / "ill" / "p\udce9.png")
    said = refusal(read_folder, scans)
    assert "not UTF-8; rename it" in said
    said.encode()


@pytest.mark.parametrize(("member", "message"), [
    (_npy((100_000, 400, 400)), "damaged"),
    (_npy((), b"\0"), "is a single value"),
    (_npy(None, header="x" * 50_000), "has a header of 50000 bytes"),
    (_npy(None, header="{'shape': " + "(" * 3_000 + "}\n"), "damaged"),
    (_npy((-1, 8, 8)), "damaged"), (b"\x93NUM", "damaged"), (b"", "damaged")])
def test_a_broken_array(tmp_path, member, message):
    assert message in refusal(read_npz, _saved(tmp_path / "x.npz", train_images=member))


def test_the_size_of_arrays_is_checked_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    most = 40_000_000
    n = most // 100 + 1
    save_npz(path, train_images=np.zeros((1, 10, 10), np.uint8))
    path = _saved(path, train_images=_npy((n, 10, 10), bytes(n * 100)))
    assert path.stat().st_size < most / 100
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("unpacked"))
    from imaging.datasets.npz import _arrays

    with pytest.raises(InputError, match=r"would take 152.6 MB once decoded, and at most 38.1 MB are read"):
        _arrays(path, most)


def test_an_encrypted_member(tmp_path):
    path = save_npz(tmp_path / "x.npz")
    data = bytearray(path.read_bytes())
    for sign, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := data.find(sign, at + 1)) >= 0:
            data[at + flags] |= 1
    path.write_bytes(bytes(data))
    assert "is encrypted" in refusal(read_npz, path)


def test_what_is_no_npz_at_all(tmp_path):
    path = tmp_path / "x.npz"
    for value in (np.zeros(3), np.array(3.0)):
        with path.open("wb") as stream:
            np.save(stream, value)
        assert "is a single array" in refusal(read_npz, path)
    assert "has no 'train_images'; it has no array" in refusal(read_npz, _zip(path, train_images=b"1", x="y"))
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in refusal(read_npz, path)


def test_dicom_and_nifti_by_their_headers(tmp_path, monkeypatch):
    import nibabel
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    monkeypatch.setattr("monai.data.PydicomReader.read", lambda *_: pytest.fail("decoded"))
    for uid, sides, message in (
            (ExplicitVRLittleEndian, 60_000, "has 60000 x 60000 pixels"),
            (ExplicitVRLittleEndian, 64, "holds 20000 images; only single images"),
            (DeflatedExplicitVRLittleEndian, 60_000, "is deflated")):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = uid, SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = "1.2.3"
        scan = FileDataset(str(tmp_path), {}, file_meta=meta, preamble=bytes(128))
        scan.Rows = scan.Columns = sides
        scan.NumberOfFrames, scan.SamplesPerPixel, scan.BitsAllocated = 20_000, 1, 16
        (tmp_path / "a" / "x").mkdir(parents=True, exist_ok=True)
        scan.save_as(tmp_path / "a" / "x" / "0.dcm", enforce_file_format=True)
        assert f"x/0.dcm {message}" in refusal(read_folder, tmp_path / "a")
    header = nibabel.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 10))
    header.set_data_dtype(np.float32)
    import gzip

    (tmp_path / "b" / "x").mkdir(parents=True)
    with gzip.open(tmp_path / "b" / "x" / "0.nii.gz", "wb") as stream:
        header["magic"], header["vox_offset"] = b"n+1", 352
        stream.write(header.binaryblock + bytes(4))
    assert "x/0.nii.gz would take" in refusal(read_folder, tmp_path / "b")


def test_good_files_are_read_as_before(tmp_path):
    there = arrays()
    assert len(read_npz(save_npz(tmp_path / "x.npz", **there)).train) == len(there["train_images"])
