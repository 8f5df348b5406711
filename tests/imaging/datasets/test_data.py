"""Image sets from `.npz` files: what is read, how it is split, and how bad files are refused."""

import hashlib
import re
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from imaging.datasets import assemble, data, folder, medmnist
from imaging.datasets import intensity as pixels
from imaging.datasets.npz import read_npz
from imaging.space import ImageSpace
from suite.audit.plan import Images
from suite.base import registry
from suite.base.errors import InputError
from suite.datasets import cache
from tests.support.image_files import arrays, save_npz, sidecar


def splits(dataset):
    return dataset.train, dataset.val, dataset.test


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as error:
        read_npz(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what is read ---------------------------------------------------------------------------------------------------

def test_an_npz_becomes_three_splits_of_float_images(tmp_path):
    there = arrays()
    dataset = read_npz(save_npz(tmp_path / "scans.npz"))
    for split, name in zip(splits(dataset), ("train", "val", "test"), strict=True):
        assert split.x.dtype == np.float32 and split.y.dtype == np.int64 and isinstance(split.space, ImageSpace)
        np.testing.assert_array_equal(split.x[:, 0], there[f"{name}_images"].astype(np.float32) / 255)
        np.testing.assert_array_equal(split.y, there[f"{name}_labels"][:, 0])
        assert split.x.shape[1:] == (1, 12, 10) and split.patients is None
    assert np.concatenate([s.rows for s in splits(dataset)]).tolist() == list(range(22))
    source = dataset.provenance
    assert (source.name, source.rows, source.synthetic) == ("scans", 22, False)
    assert source.sha256 == hashlib.sha256((tmp_path / "scans.npz").read_bytes()).hexdigest()
    assert dataset.features == () and dataset.classes == ("0", "1")
    assert dataset.card["rows"] == "22 images: 12 training, 4 validation, 6 test"
    assert dataset.card["patients"].startswith("not known") and "10 x 12 pixels, grey" in dataset.card["images"]
    assert "0 6/2/3 (50.0%)" in dataset.card["classes"]


def test_colour_is_put_first_and_floats_are_taken_as_they_are(tmp_path):
    there = arrays(shape=(12, 10, 3))
    floats = {k: v / 255 if k.endswith("images") else v for k, v in there.items()}
    ours = [read_npz(save_npz(tmp_path / f"{i}.npz", **given)).train.x for i, given in enumerate((there, floats))]
    np.testing.assert_array_equal(ours[0], there["train_images"].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    np.testing.assert_allclose(ours[0], ours[1], atol=1e-7)


def test_a_sidecar_names_classes_patients_and_subgroups_in_any_order(tmp_path):
    there = arrays()
    ages = [20, 30, 45, 60, ""] * 5
    head, *lines = sidecar(there, age=ages, view=["AP", "PA"] * 11).splitlines()
    save_npz(tmp_path / "s.npz", **there)
    (tmp_path / "s.csv").write_text("\n".join([head, *lines[::-1]]))
    dataset = read_npz(tmp_path / "s.npz")
    assert dataset.classes == ("healthy", "sick lung")
    assert dataset.train.subgroups["age"][:5].tolist() == ["<30", "30-44", "45-59", "60+", "unknown"]
    assert dataset.train.subgroups["view"][:3].tolist() == ["AP", "PA", "AP"]
    assert len(np.unique(np.concatenate([s.patients for s in splits(dataset)]))) == 22
    assert dataset.card["patients"].startswith("22 by column 'group_id'; each in one split only")
    (tmp_path / "s.csv").write_text("\n".join([head, *lines]))  # the checksum is of both files
    sums = [read_npz(tmp_path / "s.npz").provenance.sha256 for _ in range(2)]
    assert sums[0] == sums[1] != dataset.provenance.sha256
    asked = read_npz(tmp_path / "s.npz", Images(positive="healthy"))
    assert asked.classes == ("sick lung", "healthy")
    np.testing.assert_array_equal(asked.test.y, 1 - dataset.test.y)


def test_one_of_several_findings_makes_two_classes(tmp_path):
    several = {f"{s}_labels": np.resize([[0, 1], [1, 1], [1, 0], [0, 0]], (n, 2))
               for s, n in (("train", 12), ("val", 4), ("test", 6))}
    path = save_npz(tmp_path / "m.npz", **several)
    dataset = read_npz(path, Images(finding="1"))
    assert dataset.classes == ("no 1", "1")
    np.testing.assert_array_equal(dataset.train.y, several["train_labels"][:, 1])
    assert "2 findings for each image; say which with --finding: 0, 1" in refusal(path)
    assert "'edema' is none of them" in refusal(path, Images(finding="edema"))
    assert "no findings to choose from" in refusal(save_npz(tmp_path / "s.npz"), Images(finding="1"))


def test_resizing_is_antialiased_as_in_pillow_and_channels_are_converted(tmp_path):
    smooth = (np.indices((40, 40)).sum(0) * 3 + 8).astype(np.uint8)
    smooth[10:20, 12:25] = 200
    ours = pixels.fit(pixels.unit(smooth[None]), 16, 3)
    theirs = np.asarray(Image.fromarray(smooth).resize((16, 16), Image.Resampling.LANCZOS), np.float32) / 255
    assert ours.shape == (1, 3, 16, 16) and np.abs(ours[0, 0] - theirs).max() < 0.04
    assert (ours[:, 0] == ours[:, 2]).all()
    colour = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    grey = pixels.fit(pixels.unit(colour[None]), None, 1)[0, 0]
    assert np.abs(grey * 255 - np.asarray(Image.fromarray(colour).convert("L"), np.float32)).max() < 1
    dataset = read_npz(save_npz(tmp_path / "s.npz"), Images(size=16))
    assert dataset.train.x.shape == (12, 1, 16, 16)
    assert dataset.train.x.min() >= 0 and dataset.train.x.max() <= 1
    assert "from 10 x 12 pixels" in dataset.card["resized"]


# --- patients -------------------------------------------------------------------------------------------------------

def leaking(tmp_path):
    there = arrays()
    save_npz(tmp_path / "s.npz", **there)
    (tmp_path / "s.csv").write_text(sidecar(there, ["p0", *(f"p{i}" for i in range(1, 21)), "p0"]))
    return tmp_path / "s.npz"


def test_a_patient_in_two_splits_is_refused_by_name_unless_allowed_and_then_told(tmp_path):
    text = refusal(leaking(tmp_path))
    assert "patient 'p0' is in training and in test" in text and "--allow-leakage" in text
    dataset = read_npz(tmp_path / "s.npz", Images(allow_leakage=True))
    for said in (dataset.card["leakage"], dataset.provenance.note):
        assert said.startswith("LEAKAGE: 1 of 21 patients")
    assert dataset.train.patients[0] == dataset.test.patients[-1]


def test_identical_images_in_two_splits_are_counted(tmp_path):
    there = arrays()
    there["test_images"][:2] = there["train_images"][3]
    dataset = read_npz(save_npz(tmp_path / "s.npz", **there))
    assert dataset.card["identical images"].startswith("2 images")


def test_splitting_again_by_image_leaks_and_by_patient_does_not():
    dataset = data.chest_phantom(images=Images(size=8))
    for seed in (0, 1):
        apart, leaky = (assemble.resplit(dataset, by, seed) for by in ("patient", "image"))
        held = [set(s.patients.tolist()) for s in splits(apart)]
        assert not held[0] & held[2] and not held[0] & held[1] and not held[1] & held[2]
        assert "leakage" not in apart.card and "LEAKAGE" not in apart.provenance.note
        assert len(set(leaky.train.patients.tolist()) & set(leaky.test.patients.tolist())) > 100
        assert "LEAKAGE" in leaky.card["leakage"] and "LEAKAGE" in leaky.provenance.note
        assert "by image" in leaky.card["split"]
        for other in (apart, leaky):  # the same images with the same labels
            there = {row: (x.tobytes(), y) for s in splits(other) for row, x, y in zip(s.rows, s.x, s.y, strict=True)}
            same = zip(dataset.test.rows, dataset.test.x, dataset.test.y, strict=True)
            assert all(there[row] == (x.tobytes(), y) for row, x, y in same)
    unknown = replace(dataset, **{n: replace(getattr(dataset, n), patients=None) for n in ("train", "val", "test")})
    with pytest.raises(InputError, match="patients are not known"):
        assemble.resplit(unknown, "patient")


# --- bad files ------------------------------------------------------------------------------------------------------

FLOATS = arrays()["val_images"].astype(np.float32)
WITH_NAN = np.where(np.arange(480).reshape(4, 12, 10) == 130, np.nan, 0.5)


@pytest.mark.parametrize(("changed", "message"), [
    ({"val_labels": None}, "has no 'val_labels'; it has train_images"),
    ({"val_images": FLOATS}, "has float values from 0 to 255, and they must be from 0 to 1; divide by 255"),
    ({"val_images": FLOATS * 9 - 5}, "and they must be from 0 to 1"),
    ({"val_images": FLOATS * 300}, "from 0 to 76500, and they must be from 0 to 1; divide by the largest value"),
    ({"val_images": WITH_NAN}, "'val_images' image 1 holds a value that is not finite"),
    ({"val_images": FLOATS.astype(np.uint16)}, "'val_images' holds uint16; images are uint8"),
    ({"val_images": np.zeros((4, 12, 9), np.uint8)}, "'val_images' has the shape (4, 12, 9), but 'train_images'"),
    ({f"{s}_images": np.zeros((n, 12, 10, 4), np.uint8) for s, n in (("train", 12), ("val", 4), ("test", 6))},
     "has 4 channels; images have 1 or 3"),
    ({f"{s}_images": np.zeros((n, 12, 7), np.uint8) for s, n in (("train", 12), ("val", 4), ("test", 6))},
     "images of 7 x 12 pixels; they need at least 8 x 8"),
    ({"test_labels": np.array([[0], [1]] * 2)}, "'test_labels' has the shape (4, 1) for 6 images"),
    ({"test_labels": np.array([[0], [1]] * 3) - 1}, "'test_labels' holds the label -1"),
    ({"test_labels": np.array([[0], [999]] * 3)}, "'test_labels' holds the label 999"),
    ({"test_labels": np.array([[0], [9]] * 3)},
     "'test_labels' holds the label 9, which training does not have (it has 0, 1)"),
    ({"test_labels": np.array([[0.0], [1.0]] * 3)}, "'test_labels' holds float64; labels are whole numbers"),
    ({"test_labels": np.zeros((6, 1), int)}, "class '1' has no image in test"),
    ({"val_images": np.zeros((0, 12, 10), np.uint8), "val_labels": np.zeros((0, 1), int)}, "'val_images' is empty"),
    ({f"{s}_labels": np.zeros((n, 1), int) for s, n in (("train", 12), ("val", 4), ("test", 6))}, "one class only"),
    ({"val_labels": np.array([[None]] * 4)}, "holds Python objects"),
])
def test_what_is_wrong_with_an_npz_is_one_line_that_names_it(tmp_path, changed, message):
    text = refusal(save_npz(tmp_path / "scans.npz", **changed))
    assert message in text and text.startswith("scans.npz: ")


def test_damaged_and_missing_files_are_one_line(tmp_path):
    whole = save_npz(tmp_path / "s.npz").read_bytes()
    for name, content in (("half", whole[:900]), ("text", b"hello"), ("empty", b"")):
        (tmp_path / f"{name}.npz").write_bytes(content)
        assert f"{name}.npz: " in refusal(tmp_path / f"{name}.npz")
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 255
    (tmp_path / "bit.npz").write_bytes(changed)
    assert "bit.npz: is damaged" in refusal(tmp_path / "bit.npz")
    assert "none.npz: no such file" in refusal(tmp_path / "none.npz")


@pytest.mark.parametrize(("edit", "message"), [
    (lambda t: t.replace("split,", "part,"), "no column 'split'"),
    (lambda t: t.replace("train,3,", "train,99,"), "'99' is no image of train, which has 12"),
    (lambda t: t.replace("train,3,", "train,2,"), "has 2 lines for image 2 of train"),
    (lambda t: "\n".join(t.splitlines()[:-1]), "has no line for image 5 of test"),
    (lambda t: t.replace("val,0,0", "val,0,1"), "has the label '1', but the image has 0"),
    (lambda t: t.replace("val,0,", "dev,0,"), "'dev' is none of train, val and test"),
    (lambda t: t.replace(",p3\n", ",\n"), "column 'group_id' line 5: no patient"),
])
def test_what_is_wrong_with_a_sidecar_is_one_line_that_names_it(tmp_path, edit, message):
    there = arrays()
    save_npz(tmp_path / "s.npz", **there)
    (tmp_path / "s.csv").write_text(edit(sidecar(there)))
    assert message in refusal(tmp_path / "s.npz")


def test_columns_that_are_asked_for_must_be_there(tmp_path):
    there = arrays()
    save_npz(tmp_path / "s.npz", **there)
    assert refusal(tmp_path / "s.npz", Images(patient="nobody")) == (
        "s.npz: no column 'nobody', as there is no CSV beside the images (--labels names one)")
    (tmp_path / "s.csv").write_text(sidecar(there))
    assert "s.csv: no column 'group'; did you mean 'group_id'?" in refusal(tmp_path / "s.npz", Images(patient="group"))
    assert "no column 'scanner'" in refusal(tmp_path / "s.npz", Images(subgroups=("scanner",)))
    assert "'ill' is not one of two classes" in refusal(tmp_path / "s.npz", Images(positive="ill"))
    assert "none.csv: no such file" in refusal(tmp_path / "s.npz", Images(labels=tmp_path / "none.csv"))


@pytest.mark.parametrize(("read", "asked", "message"), [
    (data.chest_phantom, {"labels": "x.csv"}, "chest-phantom is generated, so that 'labels' means nothing"),
    (data.chest_phantom, {"positive": "ill"}, "'ill' is not one of two classes (normal, opacity)"),
    (data.ham10000, {"slices": 3}, "ham10000 is read from files of its own, so that 'slices' means nothing"),
    (medmnist.breastmnist, {"labels": "x.csv"}, "medmnist-breast is read from a file of its own, so that 'labels' me"),
    (lambda images: read_npz("a.npz", images), {"window": (40, 80)}, "a.npz: its pixels are taken as they are, so tha"),
    (lambda images: folder.read_folder("b", images), {"finding": "x"}, "b: each image of a folder has one label, so t"),
])
def test_what_a_set_does_not_take_is_refused(read, asked, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read(images=Images(**asked))


# --- sets by name ---------------------------------------------------------------------------------------------------

SETS = {
    "pneumoniamnist": ((4708, 524, 624), (1, 28, 28), ("normal", "pneumonia"), None),
    "pneumonia-cxr": ((420, 60, 120), (1, 128, 128), ("normal", "pneumonia"), 600),
    "covid-cxr": ((437, 62, 125), (1, 128, 128), ("no findings", "covid19", "pneumonia"), 478),
    "alzheimer-mri": ((895, 124, 260), (1, 128, 128), ("non demented", "demented"), 200),
    "alzheimer-mri-grades": ((895, 124, 260), (1, 128, 128), ("non demented", "very mild", "mild", "moderate"), 200),
    "tuberculosis-cxr": ((349, 49, 100), (1, 128, 128), ("normal", "tuberculosis"), 498),
    "breast-ultrasound": ((545, 80, 155), (1, 128, 128), ("normal", "benign", "malignant"), 615),
    "breast-ultrasound-28": ((545, 80, 155), (1, 28, 28), ("normal or benign", "malignant"), 615),
    "ham10000": ((7008, 1004, 2003), (3, 28, 28), ("actinic keratosis", "basal cell carcinoma", "benign keratosis",
                                                   "dermatofibroma", "melanoma", "nevus", "vascular lesion"), 7470),
}


@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize("name", SETS)
def test_real_sets_have_the_counts_labels_and_patients_of_their_source(name):
    counts, shape, classes, patients = SETS[name]
    dataset = registry.load("datasets", name)()
    assert tuple(map(len, splits(dataset))) == counts and dataset.train.x.shape[1:] == shape
    assert dataset.classes == classes and dataset.provenance.rows == sum(counts) and not dataset.provenance.synthetic
    assert dataset.card["modality"] == dataset.train.modality != ""
    if patients is None:
        assert dataset.train.patients is None
    else:
        held = [set(s.patients.tolist()) for s in splits(dataset)]
        assert len(set().union(*held)) == sum(map(len, held)) == patients
    if name in ("ham10000", "covid-cxr"):
        assert {"age", "sex"} <= set(dataset.test.subgroups)
    if name == "tuberculosis-cxr":
        sites = np.concatenate([s.subgroups["site"] for s in splits(dataset)])
        assert ((sites == "Montgomery").sum(), (sites == "Shenzhen").sum()) == (138, 360)


def test_malignant_is_the_disease_and_not_knowing_patients_is_said(real_data):
    dataset = data.breast_ultrasound_28()
    assert sum(int(s.y.sum()) for s in splits(dataset)) == 210  # malignant, as in BUSI
    assert dataset.card["patients"].startswith("not known; of groups of near-duplicates: 615")


def test_a_copy_with_other_bytes_is_refused(real_data, tmp_path):
    (tmp_path / "c.npz").write_bytes((real_data / data.PNEUMONIAMNIST.path).read_bytes() + b"x")
    with pytest.raises(InputError, match="wrong checksum, expected sha256 ce8250bf5deb"):
        data.pneumoniamnist(tmp_path / "c.npz")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def zenodo(tmp_path, monkeypatch):
    """A server that has some sets of MedMNIST, whose checksums are made to fit."""
    (tmp_path / "www").mkdir()
    monkeypatch.setenv("MEDSEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MEDSEC_DATA", raising=False)
    several = {f"{s}_labels": np.indices((n, 14)).sum(0) % 2 for s, n in (("train", 12), ("val", 4), ("test", 6))}
    facts = medmnist.FACTS["sets"]
    for name, size, changed in (("breastmnist", 28, {}), ("breastmnist", 64, {}), ("chestmnist", 28, several)):
        file = tmp_path / "www" / medmnist.remote(name, size).path.removeprefix("medmnist/")
        save_npz(file, **arrays(shape=(size, size)) | changed)
        monkeypatch.setitem(facts[name]["md5"], str(size), hashlib.md5(file.read_bytes()).hexdigest())
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=tmp_path / "www")) as httpd:
        monkeypatch.setitem(medmnist.FACTS, "url", f"http://127.0.0.1:{httpd.server_port}/{{file}}")
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield tmp_path
        httpd.shutdown()
        thread.join()


def test_official_sets_are_downloaded_verified_and_known_by_their_labels(zenodo):
    dataset = medmnist.breastmnist()
    assert dataset.classes == ("normal, benign", "malignant")
    np.testing.assert_array_equal(dataset.train.y, 1 - arrays()["train_labels"][:, 0])
    assert (zenodo / "cache/medmnist/breastmnist.npz").is_file()
    assert dataset.provenance.licence == "CC BY 4.0 (MedMNIST)" and len(dataset.provenance.sha256) == 64
    assert dataset.card["read from"] == "the download cache" and dataset.test.modality == "ultrasound"
    assert medmnist.breastmnist(images=Images(size=64)).train.x.shape == (12, 1, 64, 64)
    assert (zenodo / "cache/medmnist/breastmnist_64.npz").is_file()
    with pytest.raises(InputError, match="14 findings for each image; say which with --finding: atelectasis, card"):
        medmnist.chestmnist()
    assert medmnist.chestmnist(images=Images(finding="effusion")).classes == ("no effusion", "effusion")
    (zenodo / "www/breastmnist.npz").write_bytes(b"other")
    (zenodo / "cache/medmnist/breastmnist.npz").unlink()
    with pytest.raises(InputError, match=r"breastmnist\.npz: wrong checksum from http.*expected md5 "):
        medmnist.breastmnist()


def test_every_official_set_has_a_file_for_each_size_and_a_description():
    named = [name for name in registry.names("datasets") if name.startswith("medmnist-")]
    assert len(named) == len(medmnist.FACTS["sets"]) == 12
    for name, facts in medmnist.FACTS["sets"].items():
        files = [medmnist.remote(name, size) for size in medmnist.SIZES]
        assert len({f.path for f in files}) == len({f.digest for f in files}) == 4
        assert all(len(f.digest) == 36 and f.url.startswith("https://") for f in files)
        assert len(facts["images"]) == 3 and facts["channels"] in (1, 3)
        assert registry.load("datasets", f"medmnist-{name.removesuffix('mnist')}").__doc__.startswith("MedMNIST's")


def test_a_set_that_is_not_here_is_passed_over_for_the_phantom(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDSEC_DATA", raising=False)
    monkeypatch.setenv("MEDSEC_CACHE", str(tmp_path))
    builders = {"pneumoniamnist": data.pneumoniamnist, "phantom": lambda: data.chest_phantom(images=Images(size=8))}
    dataset, reason = cache.first_available(builders)
    assert reason.startswith("phantom: SYNTHETIC, because pneumoniamnist is not available")
    assert dataset.provenance.synthetic
