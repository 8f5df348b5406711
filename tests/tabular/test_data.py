"""Tables: what a dataset holds, how it is split and imputed, and how bad files are refused."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from suite.base.errors import InputError
from suite.datasets import cache, csv
from tabular import data
from tabular.data import from_csv
from tabular.schema import Schema
from tests.support.patients import GLUCOSE, changed, parts, table, whole

real = pytest.mark.skipif(not (Path(os.environ.get("MEDSEC_DATA", "/nowhere")) / data.PIMA.path).is_file(),
                          reason="needs the real tables in $MEDSEC_DATA")


def possible(dataset):
    return all(bool(p.space.possible(torch.from_numpy(p.x)).all()) for p in parts(dataset))


# --- the registered tables ------------------------------------------------------------------------------------------

@real
def test_pima():
    dataset = data.pima()
    assert [len(p) for p in parts(dataset)] == [460, 154, 154]
    assert [int(p.y.sum()) for p in parts(dataset)] == [160, 54, 54]
    assert dataset.classes == ("no diabetes", "diabetes")
    assert possible(dataset)
    raw = pd.read_csv(Path(os.environ["MEDSEC_DATA"]) / data.PIMA.path)
    x, column = whole(dataset), list(raw).index("Insulin")
    train = raw.iloc[dataset.train.rows].Insulin
    median = np.quantile(train[train > 0], 0.5, method="lower")
    np.testing.assert_array_equal(x[:, column], raw.Insulin.where(raw.Insulin > 0, median))
    np.testing.assert_array_equal(whole(dataset, "y"), raw.Outcome)
    assert "Insulin 374 (48.7%)" in dataset.card["missing values"]
    assert dataset.card["read from"] == "$MEDSEC_DATA"
    assert dataset.provenance.rows == 768
    assert not dataset.provenance.synthetic
    assert set(dataset.test.subgroups["age"]) == {"<30", "30-44", "45-59", "60+"}


@real
def test_heart_cleveland():
    dataset = data.heart_cleveland()
    assert sum(int(p.y.sum()) for p in parts(dataset)) == 55 + 36 + 35 + 13
    assert possible(dataset)
    assert set(dataset.train.subgroups["sex"]) == {"Female", "Male"}


@real
def test_heart_4sites_has_the_site_as_subgroup_only_and_no_cholesterol_of_zero():
    dataset = data.heart_4sites()
    assert dataset.features == data.heart_cleveland().features
    assert possible(dataset)
    assert (whole(dataset)[:, dataset.features.index("chol")] >= 85).all()
    site = np.concatenate([p.subgroups["site"] for p in parts(dataset)])
    assert dict(zip(*np.unique(site, return_counts=True), strict=True)) == {
        "Cleveland": 303, "Hungary": 294, "Switzerland": 123, "VA Long Beach": 200}
    # Cleveland's text categories are coded as Cleveland's own file codes them
    four, one = whole(dataset), whole(data.heart_cleveland())
    for name in ("sex", "cp", "fbs", "restecg", "exang"):
        column = dataset.features.index(name)
        assert (four[:303, column] == one[:, column]).mean() > 0.95


def test_breast_cancer():
    dataset = data.breast_cancer()
    assert dataset.classes[1] == "malignant"
    assert sum(int(p.y.sum()) for p in parts(dataset)) == 212
    assert len(dataset.features) == 30
    assert possible(dataset)
    assert len(dataset.space.limits) == 10
    with pytest.raises(InputError, match="ships with scikit-learn"):
        data.breast_cancer(path=Path("x.csv"))


@real
def test_a_changed_file_is_refused(tmp_path):
    copy = tmp_path / "pima.csv"
    copy.write_bytes((Path(os.environ["MEDSEC_DATA"]) / data.PIMA.path).read_bytes() + b"\n")
    with pytest.raises(InputError, match="wrong checksum"):
        data.pima(copy)


def test_the_plan_of_the_demo_says_that_it_runs_on_synthetic_data(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDSEC_DATA", raising=False)
    monkeypatch.setenv("MEDSEC_CACHE", str(tmp_path))
    dataset, reason = cache.first_available({"pima": data.pima, "pima-synthetic": data.pima_synthetic}, seed=0)
    assert reason.startswith("pima-synthetic: SYNTHETIC, because pima is not available: pima_diabetes.csv is not on")
    assert dataset.provenance.synthetic
    assert reason in dataset.provenance.note


@pytest.mark.parametrize("name", ["pima", "heart-cleveland", "heart-4sites", "breast-cancer"])
def test_shipped_schemas_are_readable_and_their_budget_too(name):
    schema = data.shipped_schema(name)
    assert schema.space().describe(0.05)
    for column in schema.columns.values():
        assert column.change == "any" or column.change == "never"


# --- CSV files of users ---------------------------------------------------------------------------------------------

def test_a_users_file_without_a_schema(tmp_path):
    dataset = from_csv(table(tmp_path), "Outcome", group="patient_no", drop=("Site",), subgroups=("Site", "Smoker"))
    assert dataset.features == ("Age", "Glucose", "Smoker")
    smoker = dataset.space.schema.columns["Smoker"]
    assert (smoker.values, smoker.labels) == ((0, 1), ("no", "yes"))
    assert dataset.classes == ("0", "1")
    assert sorted(dataset.test.subgroups) == ["Smoker", "age", "site"]
    np.testing.assert_array_equal(whole(dataset)[:, 1], list(GLUCOSE))
    for part in parts(dataset):
        assert (part.rows.reshape(-1, 2) // 2 % 1 == 0).all()
        assert {r // 2 * 2 for r in part.rows.tolist()} | {r // 2 * 2 + 1 for r in part.rows.tolist()} == set(
            part.rows.tolist())


def test_a_row_without_a_patient_number_is_refused(tmp_path):
    with pytest.raises(InputError, match="'patient_no' line 6: no patient number"):
        from_csv(table(tmp_path, patient_no=changed(range(60), 4, None)), "Outcome", group="patient_no")


def test_age_bands(tmp_path):
    dataset = from_csv(table(tmp_path), "Outcome")
    age = whole(dataset)[:, 1]
    bands = np.select([age < 30, age < 45, age < 60], ["<30", "30-44", "45-59"], "60+")
    order = np.concatenate([p.rows for p in parts(dataset)]).argsort()
    np.testing.assert_array_equal(np.concatenate([p.subgroups["age"] for p in parts(dataset)])[order], bands)


def test_positive_names_the_disease(tmp_path):
    path = table(tmp_path, Outcome=["sick", "well", "well"] * 20)
    assert from_csv(path, "Outcome", positive="well").classes == ("sick", "well")
    dataset = from_csv(path, "Outcome", positive="sick")
    assert dataset.classes == ("well", "sick") and "--positive" in dataset.card["disease"]
    assert sum(int(p.y.sum()) for p in parts(dataset)) == 20
    with pytest.raises(InputError, match="'ill' is not one of two classes"):
        from_csv(path, "Outcome", positive="ill")


def test_the_disease_is_recognized_by_its_name_or_asked_for(tmp_path):
    path = table(tmp_path, Outcome=["ckd", "notckd", "notckd"] * 20)
    dataset = from_csv(path, "Outcome")
    assert dataset.classes == ("notckd", "ckd") and whole(dataset, "y").tolist() == [1, 0, 0] * 20
    assert "“ckd” is the disease" in dataset.card["disease"] and "notckd" in dataset.card["disease"]
    with pytest.raises(InputError, match=r"^patients.csv: .* of 'Outcome' are 'alpha' and 'beta'.*--positive alpha"):
        from_csv(table(tmp_path, Outcome=["alpha", "beta"] * 30), "Outcome")


def test_missing_values_become_the_training_median_of_their_column(tmp_path):
    path = table(tmp_path, Glucose=[v if i % 4 else None for i, v in enumerate(GLUCOSE)])
    dataset = from_csv(path, "Outcome")
    column = dataset.features.index("Glucose")
    rows = np.arange(60)
    known = np.array(GLUCOSE)[dataset.train.rows[dataset.train.rows % 4 > 0]]
    expected = np.where(rows % 4 > 0, np.array(GLUCOSE), np.sort(known)[(len(known) - 1) // 2])
    np.testing.assert_array_equal(whole(dataset)[:, column], expected)
    assert "Glucose 15 (25.0%)" in dataset.card["missing values"]


def test_repeated_rows_stay_together(tmp_path):
    path = table(tmp_path, patient_no=None, Age=[20 + i // 3 for i in range(60)], Glucose=[100] * 60,
                 Smoker=["no"] * 60, Site=None, Outcome=[i // 3 % 2 for i in range(60)])
    dataset = from_csv(path, "Outcome")
    ages = [set(p.x[:, 0].tolist()) for p in parts(dataset)]
    assert not ages[0] & ages[1] | ages[0] & ages[2] | ages[1] & ages[2]
    assert dataset.card["repeated rows"].startswith("40")


SCHEMA = {"columns": {"Age": {"min": 0, "max": 120, "integer": True}, "Glucose": {"min": 50, "max": 300}}}


def with_schema(path, edit=None, **kwargs):
    schema = Schema.model_validate({**SCHEMA, "columns": SCHEMA["columns"] | (edit or {})} | kwargs.pop("more", {}))
    return from_csv(path, "Outcome", schema, drop=kwargs.pop("drop", ("patient_no", "Smoker", "Site")), **kwargs)


def test_what_is_left_out_is_left_out_of_the_schema_too(tmp_path):
    path, more = table(tmp_path), {"patient_no": {"min": 0, "max": 999}}
    assert with_schema(path, more, drop=("Smoker", "Site")).features == ("Age", "Glucose", "patient_no")
    assert with_schema(path, more).features == ("Age", "Glucose")
    assert with_schema(path, more, drop=("Smoker", "Site"), group="patient_no").features == ("Age", "Glucose")
    relation = {"relations": [{"name": "sugar", "terms": {"Glucose": 1, "Age": -1}, "max": 500}]}
    with pytest.raises(InputError, match=r"'Glucose' cannot be left out: .* relation 'sugar' needs it"):
        with_schema(path, more=relation, drop=("patient_no", "Smoker", "Site", "Glucose"))
    with pytest.raises(InputError, match="no column of the schema is left"):
        with_schema(path, drop=("patient_no", "Smoker", "Site", "Glucose", "Age"))


def test_the_schema_says_what_zero_means(tmp_path):
    path = table(tmp_path, Glucose=changed(GLUCOSE, 3, 0))
    with pytest.raises(InputError, match=r"patients.csv: column 'Glucose' line 5: '0' is outside .* 50 to 300"):
        with_schema(path)
    edit = {"Glucose": {"min": 50, "max": 300, "missing": [0]}}
    assert with_schema(path, edit).card["missing values"] == "Glucose 1 (1.7%)"


@pytest.mark.parametrize(("columns", "edit", "message"), [
    ({"Glucose": changed(GLUCOSE, 7, "high")}, {}, r"'Glucose' line 9: 'high' is not a number"),
    ({"Glucose": changed(GLUCOSE, 7, "inf")}, {}, r"'Glucose' line 9: 'inf' is not a number"),
    ({"Glucose": changed(GLUCOSE, 7, None)}, {}, r"'Glucose' line 9: is empty"),
    ({"Glucose": changed(GLUCOSE, 7, 301)}, {}, r"'Glucose' line 9: '301.*' is outside the schema's range 50 to 300"),
    ({"Age": changed(range(20, 80), 2, 33.5)}, {}, r"'Age' line 4: '33.5' is not a whole number"),
    ({}, {"Age": {"min": 0, "max": 120, "values": [20, 21]}}, r"'Age' line 4: '22' is not among 20, 21"),
    ({}, {"Gluccose": {"min": 0, "max": 1}}, r"no column 'Gluccose'; did you mean 'Glucose'\?"),
    ({"BMI": [30] * 60}, {}, r"column 'BMI' is not in the schema"),
    ({}, {"Outcome": {"min": 0, "max": 1}}, r"target column 'Outcome' must not be in the schema"),
])
def test_cells_that_break_the_schema_are_named(tmp_path, columns, edit, message):
    with pytest.raises(InputError, match=rf"^patients.csv: .*{message}") as error:
        with_schema(table(tmp_path, **columns), edit)
    assert "\n" not in str(error.value)


def test_a_broken_relation_names_the_line(tmp_path):
    relation = {"relations": [{"name": "sugar", "terms": {"Glucose": 1, "Age": -1}, "max": 60}]}
    assert with_schema(table(tmp_path), more=relation)
    with pytest.raises(InputError, match=r"line 12 breaks the relation 'sugar': 119 is above 60$"):
        with_schema(table(tmp_path, Glucose=changed(GLUCOSE, 10, 149)), more=relation)


@pytest.mark.parametrize(("columns", "message"), [
    ({"Outcome": [1] * 60}, "one class only: '1'"),
    ({"Outcome": list(range(60))}, "60 different values; there may be at most 50 classes"),
    ({"Outcome": [i / 7 for i in range(60)]}, "is continuous"),
    ({"Outcome": changed([0, 1] * 30, 4, None)}, "target column 'Outcome' line 6 is empty"),
    ({"Outcome": [0] * 59 + [1]}, "class '1' has 1 row; at least 3"),
    ({"Glucose": changed(GLUCOSE, 7, "high")}, "'Glucose' line 9: 'high' is not a number"),
    ({"Glucose": [None] * 60}, "column 'Glucose' is empty"),
    ({"Site": [f"ward {i}" for i in range(60)]}, "'Site' holds text with 60 different values, like an identifier"),
])
def test_bad_columns_without_a_schema(tmp_path, columns, message):
    with pytest.raises(InputError, match=rf"^patients.csv: .*{message}") as error:
        from_csv(table(tmp_path, **columns), "Outcome")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kwargs", [{"target": "outcome"}, {"group": "patient"}, {"drop": ("Sight",)},
                                    {"subgroups": ("Smokers",)}])
def test_unknown_columns_get_a_suggestion(tmp_path, kwargs):
    with pytest.raises(InputError, match=r"no column '\w+'; did you mean '\w+'\?"):
        from_csv(table(tmp_path), **({"target": "Outcome"} | kwargs))


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"  \n\n", "the file is empty"),
    (b"a,b,Outcome\n", "a header, but no rows"),
    (b"\x89PNG\r\n\x1a\n\x00\x00", "not a CSV file"),
    (b"PK\x03\x04\x00\x00", "binary"),
    (b"a;b;Outcome\n1;2;0\n", "commas, not by semicolons"),
    (b"Outcome\n1\n", "one column only"),
    (b"a,b,Outcome\n1,2,0\n1,2\n", "line 3: 2 cells, but the header has 3"),
    (b"a,b,Outcome\n1,2,0\n1,2,0,5\n", "line 3: 4 cells"),
    (b"a,a,Outcome\n1,2,0\n", "column 'a' appears twice"),
    (b"a,,Outcome\n1,2,0\n", "column 2 has no name"),
    (b"6,148,1\n1,85,0\n", "holds numbers, not column names"),
    (b"a\x1b[31m,b,Outcome\n1,2,0\n", r"the name of column 1, 'a\\x1b\[31m', holds control characters"),
    (b"a," + b"b" * 300 + b",Outcome\n1,2,0\n", "the name of column 2, .* is longer than 200 characters"),
    (b",".join(b"c%d" % i for i in range(30000)) + b"\n", "line 1: more than 20,000 columns, the most that is read"),
    (b"a,b,Outcome\n1," + b"2" * (9 * 2**20), "a line is longer than 8,388,608 bytes, the most that is read"),
])
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        from_csv(path, "Outcome")
    assert str(error.value).startswith("t.csv: ")
    assert "\n" not in str(error.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"^t.csv: no such file"):
        from_csv(tmp_path / "t.csv", "Outcome")
    with pytest.raises(InputError, match="is a directory"):
        from_csv(tmp_path, "Outcome")


def test_quotes_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "t.csv"
    lines = [f'{i},"a, ""b""",{i % 2}' for i in range(20)]
    path.write_bytes(b"\xef\xbb\xbfx,note,Outcome\r\n\r\n" + "\r\n".join(lines).encode())
    dataset = from_csv(path, "Outcome")
    assert dataset.space.schema.columns["note"].labels == ('a, "b"',)
    np.testing.assert_array_equal(whole(dataset)[:, 0], range(20))


def test_a_table_that_is_too_large_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("was parsed")

    path = tmp_path / "t.csv"
    path.touch()
    os.truncate(path, 2**40)  # a terabyte of zeros, none of which is on the disk
    monkeypatch.setattr(csv.csv, "reader", never)
    with pytest.raises(InputError, match="a line is longer than"):
        csv.read(path)
    monkeypatch.setattr(csv, "MAX_BYTES", 10**6)
    path.write_bytes(b"a,b\n" + b"1,2\n" * 10**6)
    with pytest.raises(InputError, match="more than 1,000,000 bytes"):
        csv.read(path)
    os.mkfifo(tmp_path / "f.csv")
    with pytest.raises(InputError, match="is not a regular file"):
        csv.read(tmp_path / "f.csv")
    monkeypatch.undo()
    monkeypatch.setattr(csv, "MAX_CELLS", 1000)
    with pytest.raises(InputError, match="line 501: more than 1,000 cells"):
        csv.read(path)
