"""Synthetic Pima patients: reproducible, possible, alike in distribution, and nobody's copy."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tabular import data, synthetic

PATH = Path(os.environ.get("MEDSEC_DATA", "/nowhere")) / data.PIMA.path
MEASURED = ["Glucose", "BloodPressure", "SkinThickness", "Insulin", "BMI"]


@pytest.fixture(scope="module")
def real():
    if not PATH.is_file():
        pytest.skip("needs the real Pima table in $MEDSEC_DATA")
    return pd.read_csv(PATH)


def blank(frame):
    return frame.assign(**{name: frame[name].where(frame[name] != 0) for name in MEASURED})


def test_same_seed_same_bytes():
    a, b, other = (data.pima_synthetic(seed=seed) for seed in (0, 0, 1))
    assert a.provenance.sha256 == b.provenance.sha256 != other.provenance.sha256
    assert (a.test.x == b.test.x).all()


def test_it_says_what_it_is_and_is_possible():
    dataset = data.pima_synthetic()
    assert dataset.provenance.synthetic
    assert "SYNTHETIC" in dataset.provenance.note
    assert [len(p) for p in (dataset.train, dataset.val, dataset.test)] == [460, 154, 154]
    assert dataset.space.possible(torch.from_numpy(dataset.train.x)).all()


def test_known_statistics():
    frame = synthetic.generate(rows=20_000, seed=3)
    assert frame.Outcome.mean() == pytest.approx(268 / 768, abs=1e-4)
    for label, group in blank(frame).groupby("Outcome"):
        for name, quantiles in zip(synthetic.COLUMNS, synthetic.QUANTILES[label], strict=True):
            spread = quantiles[6] - quantiles[4]
            for level, expected in list(zip(synthetic.LEVELS, quantiles, strict=True))[3:8]:
                assert group[name].quantile(level) == pytest.approx(expected, abs=0.06 * spread + 0.5 * (spread > 2))
        normal = 2 * np.sin(np.pi / 6 * group[list(synthetic.COLUMNS)].corr("spearman").to_numpy())
        np.testing.assert_allclose(normal, synthetic._correlation(label), atol=0.04)


def test_the_constants_are_those_of_the_real_table(real):
    for label, group in blank(real).groupby("Outcome"):
        made = blank(synthetic.generate(seed=0)).query(f"Outcome == {label}")
        assert len(made) == len(group)
        for name in synthetic.COLUMNS:
            spread = group[name].quantile(0.75) - group[name].quantile(0.25)
            for level in (0.25, 0.5, 0.75):
                assert abs(made[name].quantile(level) - group[name].quantile(level)) < 0.3 * spread, (name, level)
            assert abs(int(made[name].isna().sum()) - int(group[name].isna().sum())) <= 4, name


def test_no_row_is_a_real_patient(real):
    patients = set(real[list(synthetic.COLUMNS)].itertuples(index=False, name=None))
    for seed in range(3):
        made = synthetic.generate(seed=seed)[list(synthetic.COLUMNS)]
        assert not patients & set(made.itertuples(index=False, name=None))


def test_a_model_of_synthetic_patients_works_on_real_ones_but_a_model_of_shuffled_labels_does_not(real):
    made, target = data.pima_synthetic().train, data.pima()
    x = np.concatenate([p.x for p in (target.train, target.val, target.test)])
    y = np.concatenate([p.y for p in (target.train, target.val, target.test)])

    def auc(labels):
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(made.x, labels)
        return roc_auc_score(y, model.predict_proba(x)[:, 1])

    assert auc(made.y) > 0.78
    assert auc(np.random.default_rng(0).permutation(made.y)) < 0.7
