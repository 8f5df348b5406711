"""A small file of patients, and what a dataset read from it holds."""

import numpy as np
import pandas as pd

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


def parts(dataset):
    return dataset.train, dataset.val, dataset.test


def whole(dataset, what="x"):
    order = np.concatenate([p.rows for p in parts(dataset)]).argsort()
    return np.concatenate([getattr(p, what) for p in parts(dataset)])[order]
