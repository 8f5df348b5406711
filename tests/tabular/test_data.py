"""Tables: what a dataset holds, how it is split and imputed, and how bad files are refused."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from suite import cache, csv
from suite.errors import InputError
from tabular import data
from tabular.data import from_csv
from tabular.infer import infer
from tabular.schema import Schema

real = pytest.mark.skipif(not (Path(os.environ.get("MEDSEC_DATA", "/nowhere")) / data.PIMA.path).is_file(),
                          reason="needs the real tables in $MEDSEC_DATA")


def parts(dataset):
    return dataset.train, dataset.val, dataset.test


def whole(dataset, what="x"):
    order = np.concatenate([p.rows for p in parts(dataset)]).argsort()
    return np.concatenate([getattr(p, what) for p in parts(dataset)])[order]


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

GLUCOSE = range(80, 140)


def table(tmp_path, **columns):
    """60 rows: patient, Age, Glucose, Smoker, Site, Outcome; a column given as None is left out."""
    rows = {"patient_no": [i // 2 for i in range(60)], "Age": [20 + i for i in range(60)], "Glucose": list(GLUCOSE),
            "Smoker": ["yes", "no", "no"] * 20, "Site": ["A", "B"] * 30, "Outcome": [0, 1, 1, 0] * 15}
    rows = {name: values for name, values in (rows | columns).items() if values is not None}
    path = tmp_path / "patients.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def changed(values, row, value):
    return [value if i == row else v for i, v in enumerate(values)]


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


# --- inference ------------------------------------------------------------------------------------------------------

def test_infer_known_answer(tmp_path):
    frame = pd.DataFrame({"Age": [20, 70], "DiabetesPedigreeFunction": [0.1, 2.1], "lipid_dosage": [0.0, 3.7],
                          "grade": [1, 4], "PatientID": [1000, 9000], "male": [True, False], "constant": [5.5, 5.5],
                          "balance": [-100.0, 100.0], "Outcome": [0, 1]})
    schema = infer(frame, "Outcome")
    columns = schema.columns
    assert "Outcome" not in columns
    assert (columns["Age"].min, columns["Age"].max, columns["Age"].integer) == (17, 73, True)
    assert (columns["grade"].min, columns["grade"].max) == (1, 4)
    assert columns["lipid_dosage"].min == 0
    assert columns["lipid_dosage"].max == pytest.approx(3.9)
    assert not columns["lipid_dosage"].integer
    assert columns["male"].labels == ("False", "True")
    assert (columns["balance"].min, columns["balance"].max) == (-110, 110)
    assert columns["constant"].min < 5.5 < columns["constant"].max
    assert {n for n, c in columns.items() if c.change == "never"} == {"Age", "DiabetesPedigreeFunction", "PatientID"}
    schema.save(tmp_path / "s.toml")
    assert Schema.load(tmp_path / "s.toml") == schema


def test_outliers_widen_what_is_possible_and_not_what_a_budget_is_worth():
    """Creatinine of 400 patients around 1 mg/dL, of whom 8 are on dialysis."""
    rng = np.random.default_rng(0)
    usual = rng.normal(1.0, 0.2, 392).clip(0.3)
    few = pd.DataFrame({"creatinine": usual, "dose": np.where(np.arange(392) < 12, usual * 100, 0.0)})
    outliers = pd.DataFrame({"creatinine": np.linspace(10, 76, 8), "dose": np.zeros(8)})
    plain, wild = infer(few), infer(pd.concat([few, outliers]))
    assert wild.columns["creatinine"].max > 76 and plain.columns["creatinine"].max < 2
    assert wild.space().possible(torch.tensor(pd.concat([few, outliers]).to_numpy(np.float32))).all()
    scale = plain.columns["creatinine"].scale
    assert scale == pytest.approx(2 * 1.645 * 0.2, rel=0.15)
    assert wild.columns["creatinine"].scale == pytest.approx(scale, rel=0.2)
    assert 0.05 * wild.space().scale[0] < 0.05  # mg/dL; of the range it would be 4
    assert wild.columns["dose"].scale == infer(few[few.dose > 0]).columns["dose"].scale  # of those who are given any
    grades = infer(pd.DataFrame({"stage": [1, 2, 3, 4] * 10})).columns["stage"]
    assert grades.scale is None and (grades.min, grades.max) == (1, 4)


@pytest.mark.parametrize("seed", range(5))
def test_inferred_ranges_hold_the_data(seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-6, 7, 8)
    frame = pd.DataFrame(rng.normal(rng.normal(0, 3, 8), 1, (50, 8)) * scale, columns=list("stuvwxyz"))
    x = torch.tensor(frame.to_numpy(np.float32))
    assert infer(frame).space().possible(x).all()


def test_what_was_taken_from_the_patients_is_said(tmp_path):
    frame = pd.DataFrame({"a": [f"{v}" for v in range(40)], "y": ["0", "1"] * 20})
    frame.to_csv(tmp_path / "full.csv", index=False)
    frame.loc[3, "a"] = ""
    frame.to_csv(tmp_path / "holes.csv", index=False)
    given = Schema.model_validate({"columns": {"a": {"min": 0, "max": 50, "may_miss": True}}})
    ranges, medians = "the range and scale of each column", "the medians filled in for missing values"
    assert from_csv(tmp_path / "full.csv", "y", given).fitted == ()
    assert from_csv(tmp_path / "full.csv", "y").fitted == (ranges,)
    assert from_csv(tmp_path / "holes.csv", "y", given).fitted == (medians,)
    assert from_csv(tmp_path / "holes.csv", "y").fitted == (ranges, medians)
