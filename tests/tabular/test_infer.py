"""Schemas read off the data: ranges, scales, categories, and what cannot change."""

import numpy as np
import pandas as pd
import pytest
import torch

from tabular.data import from_csv
from tabular.infer import infer
from tabular.schema import Schema


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
