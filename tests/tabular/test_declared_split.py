"""Splits that a table brings itself, and patients in them."""

import numpy as np
import pandas as pd
import pytest

from suite.base.errors import InputError
from suite.datasets import cache
from tabular.data import from_csv
from tests.support.patients import GLUCOSE, changed, parts, table, whole

PART = ["train", "train", "train", "train", "test", "test"] * 10


def test_a_column_gives_the_split(tmp_path):
    dataset = from_csv(table(tmp_path, part=PART), "Outcome", split="part", group="patient_no", drop=("Site",))
    assert dataset.features == ("Age", "Glucose", "Smoker") and dataset.declared == ("train", "test")
    assert dataset.test.rows.tolist() == [i for i in range(60) if PART[i] == "test"]
    assert len(dataset.val) == 8 and not set(dataset.val.patients) & set(dataset.train.patients)
    assert "column 'part' gives it; validation is 20 % of the training rows, by patient" in dataset.card["split"]
    three = ["train", "train", "val", "val", "test", "test"] * 10
    given = from_csv(table(tmp_path, part=three), "Outcome", split="part")
    assert [p.rows.tolist() for p in parts(given)] == [[i for i in range(60) if three[i] == k]
                                                       for k in ("train", "val", "test")]
    assert from_csv(table(tmp_path), "Outcome").declared == ()


def test_a_patient_on_both_sides_of_a_given_split_is_refused(tmp_path):
    path = table(tmp_path, part=changed(PART, 3, "test"))
    with pytest.raises(InputError, match=r"^patients.csv: column 'patient_no': patient '1' is in \w+ and in test"):
        from_csv(path, "Outcome", split="part", group="patient_no")
    assert from_csv(path, "Outcome", split="part").train.patients is None  # nobody can tell
    with pytest.raises(InputError, match="column 'part': class '1' has no test row"):
        from_csv(table(tmp_path, part=PART, Outcome=[int(PART[i] == "train" and i % 4 == 0) for i in range(60)]),
                 "Outcome", split="part")


def test_two_files_give_the_split(tmp_path):
    frame = pd.read_csv(table(tmp_path))
    learn, test = tmp_path / "learn.csv", tmp_path / "held.csv"
    frame[:40].to_csv(learn, index=False)
    frame[40:][frame.columns[::-1]].to_csv(test, index=False)  # columns in any order
    dataset = from_csv(learn, "Outcome", test=test)
    assert dataset.test.rows.tolist() == list(range(40, 60)) and dataset.declared == ("train", "test")
    np.testing.assert_array_equal(whole(dataset)[:, dataset.features.index("Glucose")], list(GLUCOSE))
    assert "as the two files give it" in dataset.card["split"] and "held.csv" in dataset.card["read from"]
    sums = {dataset.provenance.sha256, from_csv(learn, "Outcome").provenance.sha256, cache.sha256_of(test)}
    assert len(sums) == 3
    frame[40:].assign(Glucose=["high", *range(19)]).to_csv(test, index=False)
    with pytest.raises(InputError, match=r"^learn.csv: column 'Glucose' line 2 of held.csv: 'high' is not a number"):
        from_csv(learn, "Outcome", test=test)
    frame[40:].drop(columns="Age").to_csv(test, index=False)
    with pytest.raises(InputError, match=r"column 'Age' is not in held.csv"):
        from_csv(learn, "Outcome", test=test)
    with pytest.raises(InputError, match="not both"):
        from_csv(learn, "Outcome", test=test, split="Site")


def test_patients_of_one_row_each_look_like_rows(tmp_path):
    several = from_csv(table(tmp_path), "Outcome", group="patient_no")
    assert several.card["patients"] == "30 by column 'patient_no', each in one split only" and not several.cautions
    single = from_csv(table(tmp_path, patient_no=list(range(60))), "Outcome", group="patient_no")
    warning = "every value of column 'patient_no' is unique: it does not look like a patient id"
    assert single.cautions == (warning,) and single.card["patients"].endswith(warning)
