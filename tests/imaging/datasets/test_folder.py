"""Folders of images: classes by folder or by CSV, patients kept together, and bad files refused by name."""

import numpy as np
import pytest
from PIL import Image

from imaging.datasets import assemble
from imaging.datasets.folder import read_folder
from suite.audit.plan import Images
from suite.base.errors import InputError
from tests.support.image_files import save_picture


@pytest.fixture
def scans(tmp_path):
    """Ten PNGs of each of two classes, healthy and ill."""
    for k, name in enumerate(("healthy", "ill")):
        for i in range(10):
            save_picture(tmp_path / "scans" / name / f"{i}.png", seed=100 * k + i)
    return tmp_path / "scans"


def lines(scans, **columns):
    """A CSV with one line for each image, in the order of the files' names."""
    files = sorted(p.relative_to(scans).as_posix() for p in scans.rglob("*.png"))
    rows = [",".join(["file", *columns]), *(",".join([f, *(str(v[i]) for v in columns.values())])
                                            for i, f in enumerate(files))]
    (scans / "labels.csv").write_text("\n".join(rows) + "\n")
    return scans / "labels.csv"


def refusal(*args):
    with pytest.raises(InputError) as error:
        read_folder(*args)
    assert "\n" not in str(error.value) and str(error.value).startswith("scans: ")
    return str(error.value)


def splits(dataset):
    return dataset.train, dataset.val, dataset.test


def test_folders_are_classes_and_the_split_is_by_image_and_says_so(scans):
    save_picture(scans / "ill" / "again.png", seed=0)  # the same as healthy/0.png
    dataset = read_folder(scans)
    assert dataset.classes == ("healthy", "ill") and not dataset.provenance.synthetic
    assert sum(map(len, splits(dataset))) == 21 and abs(len(dataset.test) - 4) <= 1
    assert "not known" in dataset.card["patients"] and "by image" in dataset.card["split"]
    first = np.asarray(Image.open(scans / "healthy/0.png"), np.float32) / 255
    holds = [(s.x[:, 0] == first).all((1, 2)).sum() for s in splits(dataset)]
    assert sorted(holds) == [0, 0, 2]  # twins stay together, whatever their labels
    assert sorted(np.concatenate([s.rows for s in splits(dataset)]).tolist()) == list(range(21))


def test_the_checksum_is_of_names_pixels_and_labels(scans):
    first = read_folder(scans).provenance.sha256
    assert read_folder(scans).provenance.sha256 == first
    lines(scans, age=[40] * 20)
    second = read_folder(scans).provenance.sha256
    save_picture(scans / "ill" / "3.png", seed=999)
    assert len({first, second, read_folder(scans).provenance.sha256}) == 3


def test_a_csv_gives_patients_labels_and_subgroups(scans):
    patients = [f"p{i // 2}" for i in range(20)]
    lines(scans, patient=patients, label=["well", "well", "sick", "sick"] * 5, sex=["f", "m"] * 10)
    dataset = read_folder(scans, Images(positive="sick"))
    assert dataset.classes == ("well", "sick") and set(dataset.train.subgroups) == {"sex"}
    held = [set(s.patients.tolist()) for s in splits(dataset)]
    assert len(set().union(*held)) == sum(map(len, held)) == 10
    assert "by patient" in dataset.card["split"]
    for split in splits(dataset):  # the label is the patient's
        assert all(len(set(split.y[split.patients == p])) == 1 for p in set(split.patients))


def test_a_split_in_the_csv_is_kept_and_a_patient_on_both_sides_is_refused(scans):
    part = ["train", "train", "train", "train", "train", "train", "val", "val", "test", "test"] * 2
    patients = [f"p{i}" for i in range(20)]
    lines(scans, split=part, patient=patients)
    dataset = read_folder(scans)
    assert tuple(map(len, splits(dataset))) == (12, 4, 4) and dataset.test.rows.tolist() == [8, 9, 18, 19]
    lines(scans, split=part, patient=["p8", *patients[1:]])
    text = refusal(scans)
    assert "patient 'p8' is in training and in test" in text
    allowed = read_folder(scans, Images(allow_leakage=True))
    assert allowed.card["leakage"].startswith("LEAKAGE: 1 of 19") and "LEAKAGE" in allowed.provenance.note


@pytest.mark.parametrize(("a", "b", "words"), [(0, 8, "training and in test"), (0, 6, "training and in validation"),
                                               (6, 8, "validation and in test")])
def test_a_patient_in_any_two_splits_is_refused(scans, a, b, words):
    patients = [f"p{i}" for i in range(20)]
    patients[b] = patients[a]
    lines(scans, split=[*["train"] * 6, *["val"] * 2, *["test"] * 2] * 2, patient=patients)
    assert f"patient 'p{a}' is in {words}" in refusal(scans)


def test_patients_of_one_image_each_look_like_images(scans):
    lines(scans, patient=[f"p{i}" for i in range(20)])
    dataset = read_folder(scans)
    assert dataset.cautions == ("every value of column 'patient' is unique: it does not look like a patient id",)
    assert dataset.card["patients"].endswith(dataset.cautions[0])
    lines(scans, patient=[f"p{i // 2}" for i in range(20)])
    assert read_folder(scans).cautions == ()


def test_a_split_without_validation_takes_it_from_training(scans):
    lines(scans, split=[*["training"] * 8, *["test"] * 2] * 2)
    dataset = read_folder(scans)
    assert tuple(map(len, splits(dataset))) == (12, 4, 4) and dataset.declared == ("train", "test")
    assert "validation is 20 % of the training images, by image" in dataset.card["split"]


def test_which_folder_is_the_disease_is_recognized_or_asked_for(scans):
    assert "“ill” is the disease and “healthy” is not" in read_folder(scans).card["disease"]
    (scans / "healthy").rename(scans / "zzz")
    assert read_folder(scans).classes == ("zzz", "ill")
    (scans / "ill").rename(scans / "aaa")
    assert "'aaa' and 'zzz'" in refusal(scans)


def test_other_formats_and_depths(tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(("normal", "other")):
        for i in range(4):
            save_picture(tmp_path / "scans" / name / f"{i}.jpeg", 40 * k + 5 * i + 20)
            wide = rng.integers(0, 65536, (12, 10), dtype=np.uint16)
            Image.fromarray(wide).save(tmp_path / "scans" / name / f"{i}.png")
            Image.fromarray(rng.integers(0, 256, (12, 10, 2), dtype=np.uint8), "LA").save(
                tmp_path / "scans" / name / f"{i}-alpha.png")
    dataset = read_folder(tmp_path / "scans")
    assert sum(map(len, splits(dataset))) == 24 and dataset.train.x.shape[1:] == (1, 12, 10)
    assert np.concatenate([s.x for s in splits(dataset)]).max() <= 1
    assert any((np.abs(s.x * 65535 - wide) < 0.01).all((1, 2, 3)).any() for s in splits(dataset))


def test_a_picture_taken_sideways_is_turned_up(scans):
    turned = Image.Exif()
    turned[0x0112] = 6  # its first column is the top
    with Image.open(scans / "ill/3.png") as image:
        upright = np.asarray(image.copy(), np.float32) / 255
        image.transpose(Image.Transpose.ROTATE_90).save(scans / "ill/3.png", exif=turned)
    assert any((s.x[:, 0] == upright).all((1, 2)).any() for s in splits(read_folder(scans)))


def test_twelve_bits_in_sixteen_are_refused_and_one_bright_picture_is_enough(scans):
    for i in range(10):
        Image.fromarray(np.full((12, 10), 4000 + i, np.uint16)).save(scans / "ill" / f"{i}.png")
    assert "no value above 4009 (ill/9.png)" in refusal(scans)
    Image.fromarray(np.full((12, 10), 50000, np.uint16)).save(scans / "ill/3.png")
    assert read_folder(scans).test.x.shape[1] == 1


def test_large_images_need_a_size(scans):
    save_picture(scans / "healthy" / "0.png", shape=(12, 1025))
    assert "healthy/0.png has 1025 x 12 pixels; beyond 1024 a side give a size" in refusal(scans)
    assert read_folder(scans, Images(size=16)).train.x.shape[1:] == (1, 16, 16)


def test_the_kind_of_image_is_the_plans_or_not_known(scans):
    assert read_folder(scans).train.modality == "" and "not known" in read_folder(scans).card["modality"]
    said = read_folder(scans, Images(modality="mri"))
    assert {s.modality for s in splits(said)} == {said.card["modality"]} == {"mri"}
    assert assemble.resplit(said, "image").train.modality == "mri"


def test_mixed_sizes_are_refused_by_name_and_resizing_cures_it(scans):
    save_picture(scans / "ill" / "3.png", shape=(20, 16))
    text = refusal(scans)
    assert "healthy/0.png has 10 x 12 pixels and ill/3.png 16 x 20" in text and "--size" in text
    assert read_folder(scans, Images(size=16)).train.x.shape[1:] == (1, 16, 16)


def test_mixed_colours_are_refused_by_name_and_channels_cure_it(scans):
    save_picture(scans / "ill" / "3.png", shape=(12, 10, 3))
    assert "healthy/0.png is grey and ill/3.png in colour" in refusal(scans)
    assert read_folder(scans, Images(channels=3)).train.x.shape[1:] == (3, 12, 10)
    assert read_folder(scans, Images(channels=1)).train.x.shape[1:] == (1, 12, 10)


def test_damaged_small_and_missing_images_are_named(scans, tmp_path):
    good = (scans / "ill/3.png").read_bytes()
    for content in (b"", b"not a picture", good[: len(good) // 2]):
        (scans / "ill/3.png").write_bytes(content)
        assert "ill/3.png cannot be read: " in refusal(scans)
    save_picture(scans / "ill" / "3.png", shape=(7, 10))
    assert "ill/3.png has images of 10 x 7 pixels; they need at least 8 x 8" in refusal(scans)
    (tmp_path / "other" / "scans").mkdir(parents=True)
    assert "holds no image" in refusal(tmp_path / "other" / "scans")


def test_classes_are_checked(scans):
    (scans / "empty").mkdir()
    assert "class folder 'empty' holds no image" in refusal(scans)
    (scans / "empty").rmdir()
    save_picture(scans / "loose.png")
    assert "loose.png is in no folder of a class" in refusal(scans)
    (scans / "loose.png").unlink()
    save_picture(scans / "rare" / "0.png", seed=7)
    assert "class 'rare' has 1 image; at least 3 are needed" in refusal(scans)
    (scans / "rare/0.png").unlink()
    (scans / "rare").rmdir()
    (scans / "healthy").rename(scans / "train")
    (scans / "ill").rename(scans / "test")
    assert "its folders are splits (test, train), not classes" in refusal(scans)


@pytest.mark.parametrize(("edit", "message"), [
    (lambda t: t.replace("file,", "name,"), "labels.csv: no column 'file'"),
    (lambda t: t.replace("healthy/3.png", "healthy/33.png"), "labels.csv: has no line for the image healthy/3.png"),
    (lambda t: t + "ill/77.png,p9\n", "column 'file' line 22: 'ill/77.png' is no image of the folder"),
    (lambda t: t + "ill/7.png,p9\n", "column 'file' line 22: 'ill/7.png' is there twice"),
    (lambda t: t.replace(",p4\n", ",\n"), "labels.csv: column 'patient' line 6: no patient"),
    (lambda t: t.replace("patient", "split"), "column 'split' line 2: 'p0' is none of train, val and test"),
    (lambda t: t.replace("patient", "label").replace(",p4\n", ",\n"), "column 'label' line 6 is empty"),
    (lambda t: "", "labels.csv: the file is empty"),
])
def test_what_is_wrong_with_the_labels_is_one_line_that_names_it(scans, edit, message):
    file = lines(scans, patient=[f"p{i}" for i in range(20)])
    file.write_text(edit(file.read_text()))
    assert message in refusal(scans)


@pytest.mark.parametrize("column", ["patient", "patient_id", "PatientID", "Subject", "subject-id", "Lesion ID", "MRN"])
def test_the_column_of_patients_is_found_however_it_is_spelled(scans, column):
    lines(scans, **{column: [f"p{i // 2}" for i in range(20)]})
    assert read_folder(scans).card["patients"] == f"10 by column '{column}'; each in one split only"


def test_of_two_columns_of_patients_one_must_be_said(scans):
    lines(scans, patient=[f"p{i // 2}" for i in range(20)], Study_ID=[f"s{i}" for i in range(20)])
    assert "columns patient, Study_ID may each name the patient; say which with --group" in refusal(scans)
    assert read_folder(scans, Images(patient="Study_ID")).card["patients"].startswith("20 by column 'Study_ID';")


def test_numbered_classes_are_in_the_order_of_their_numbers(scans):
    lines(scans, label=[(2, 10, 1, 0)[i % 4] for i in range(20)])
    dataset = read_folder(scans)
    assert dataset.classes == ("0", "1", "2", "10")
    assert {int(s.rows[i]) % 4 for s in splits(dataset) for i in np.flatnonzero(s.y == 2)} == {0}


def test_options_that_need_a_csv_or_another_column(scans):
    assert "no column 'person'" in refusal(scans, Images(patient="person"))
    lines(scans, patients=[f"p{i}" for i in range(20)])
    assert "no column 'patient'; did you mean 'patients'?" in refusal(scans, Images(patient="patient"))
    assert "pictures are taken as they are, so that 'slices' means nothing" in refusal(scans, Images(slices=2))
    assert "no.csv: no such file" in refusal(scans, Images(labels=scans / "no.csv"))
