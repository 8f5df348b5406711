"""Synthetic patients with the summary statistics of Pima Indians Diabetes, for where the real file may not go.

Everything below is an aggregate of the 768 patients by class: quantiles, rank correlations (as the matching normal
correlations) and shares of missing values. No row of the real table is stored, and none is reproduced. Per class, a
Gaussian copula joins the columns; structure beyond pairs of columns is lost, so results on these patients show that an
audit runs, not how safe a model of real patients is.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr

COLUMNS = ("Pregnancies", "Glucose", "BloodPressure", "SkinThickness", "Insulin", "BMI", "DiabetesPedigreeFunction",
           "Age")
DECIMALS = (0, 0, 0, 0, 0, 1, 3, 0)

PREVALENCE = 268 / 768

LEVELS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)

# One line per column, values at LEVELS among those measured; the ends are those of both classes together.
QUANTILES = {
    0: ((0, 0, 0, 0, 1, 2, 5, 8, 10, 12, 17),
        (44, 62, 75.8, 83, 93, 107, 125, 143.4, 154, 183, 199),
        (24, 44, 52, 56, 62, 70, 78, 86, 90, 101, 122),
        (7, 10, 12, 15, 19, 27, 33, 41, 44, 52, 63),
        (14, 18, 38.3, 48, 66, 102.5, 161, 250, 326, 507, 846),
        (18.2, 19.3, 21.2, 23, 25.6, 30.1, 35.3, 39.4, 42.5, 46.5, 67.1),
        (0.078, 0.089, 0.136, 0.158, 0.23, 0.336, 0.562, 0.801, 0.962, 1.6, 2.42),
        (21, 21, 21, 21, 23, 27, 37, 48, 58, 67, 81)),
    1: ((0, 0, 0, 0, 1.75, 4, 8, 10, 11, 14, 17),
        (44, 84.7, 97.8, 104.5, 119, 140, 167, 183.5, 189.8, 197, 199),
        (24, 49, 55, 62, 68, 74.5, 84, 90, 94, 109, 122),
        (7, 12.8, 18, 21, 27, 32, 39, 45, 47, 57.5, 63),
        (14, 31, 71.8, 91, 127.5, 169.5, 239, 372, 495, 594, 846),
        (18.2, 23.5, 26.5, 28, 30.9, 34.3, 38.9, 43.8, 46.6, 53.8, 67.1),
        (0.078, 0.127, 0.152, 0.202, 0.262, 0.449, 0.728, 1.04, 1.22, 1.97, 2.42),
        (21, 21, 22, 24, 28, 36, 44, 52, 57.7, 66, 81)),
}

# Below the diagonal, one line per column from the second on.
CORRELATIONS = {
    0: ((0.08,),
        (0.18, 0.23),
        (0.10, 0.15, 0.26),
        (0.02, 0.69, 0.09, 0.20),
        (0.01, 0.11, 0.29, 0.71, 0.26),
        (-0.10, 0.01, -0.04, -0.01, 0.10, 0.08),
        (0.63, 0.19, 0.38, 0.29, 0.13, 0.13, 0.02)),
    1: ((-0.05,),
        (0.14, 0.09),
        (-0.09, 0.04, 0.14),
        (0.10, 0.44, -0.02, 0.12),
        (-0.16, 0.10, 0.25, 0.58, 0.14),
        (-0.03, 0.00, 0.01, 0.09, -0.03, 0.10),
        (0.55, 0.09, 0.29, -0.18, 0.21, -0.16, -0.07)),
}

# Who lacks the skin fold lacks insulin, too, and so on: shares of patients by what was not measured.
NESTED = ((), ("Insulin",), ("Insulin", "SkinThickness"), ("Insulin", "SkinThickness", "BloodPressure"),
          ("Insulin", "SkinThickness", "BloodPressure", "BMI"))
MISSING = {0: (0.528, 0.19, 0.242, 0.026, 0.014), 1: (0.485, 0.183, 0.269, 0.056, 0.007)}
GLUCOSE_MISSING = {0: 0.006, 1: 0.007}


def generate(rows: int = 768, seed: int = 0) -> pd.DataFrame:
    """Synthetic patients in the format of the Pima file: 8 columns and `Outcome`, zeros where nothing was measured.

    Args:
        rows: How many; 34.9 % of them with diabetes.
        seed: The same seed gives the same table.
    """
    rng = np.random.default_rng(seed)
    sick = round(rows * PREVALENCE)
    table = np.concatenate([_patients(rows - sick, 0, rng), _patients(sick, 1, rng)])
    frame = pd.DataFrame(table[rng.permutation(rows)], columns=[*COLUMNS, "Outcome"])
    whole = [name for name, decimals in zip(COLUMNS, DECIMALS, strict=True) if not decimals]
    return frame.astype(dict.fromkeys([*whole, "Outcome"], np.int64))


def _patients(n: int, label: int, rng: np.random.Generator) -> np.ndarray:
    latent = rng.standard_normal((n, len(COLUMNS))) @ np.linalg.cholesky(_correlation(label)).T
    values = np.column_stack([np.round(np.interp(ndtr(z), LEVELS, quantiles), decimals)
                              for z, quantiles, decimals in zip(latent.T, QUANTILES[label], DECIMALS, strict=True)])
    for names, rows in zip(NESTED, _shared_out(n, MISSING[label], rng), strict=True):
        values[np.ix_(rows, [COLUMNS.index(name) for name in names])] = 0
    _, rows = _shared_out(n, (1 - GLUCOSE_MISSING[label], GLUCOSE_MISSING[label]), rng)
    values[rows, COLUMNS.index("Glucose")] = 0
    return np.column_stack([values, np.full(n, label)])


def _correlation(label: int) -> np.ndarray:
    below = np.zeros((len(COLUMNS), len(COLUMNS)))
    below[np.tril_indices(len(COLUMNS), -1)] = np.concatenate(CORRELATIONS[label])
    return below + below.T + np.eye(len(COLUMNS))


def _shared_out(n: int, shares: tuple[float, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """All rows in random order, cut into these shares as exactly as whole rows allow."""
    ends = np.round(np.cumsum(shares) * n).astype(int)
    return np.split(rng.permutation(n), ends[:-1])
