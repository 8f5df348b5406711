"""Small data and models whose measurements are known in closed form."""

from dataclasses import dataclass

import numpy as np

from suite.core.classifier import EstimatorClassifier
from suite.core.data import Dataset, Provenance, Split
from suite.core.recipe import Recipe
from suite.core.space import Space
from suite.defenses.plain import Plain
from suite.evaluate import Subject
from suite.results.measurement import Sheet

BUDGETS = (0.05, 0.1, 0.2, 0.4)


def split(x, y, bound=10.0, scale=1.0):
    groups = {"site": np.array(["north", "south"])[np.arange(len(y)) % 2]}
    return Split(np.asarray(x, np.float32), np.asarray(y, np.int64), Space(-bound, bound, scale), ("well", "ill"),
                 np.arange(len(y)), groups)


def dataset(test, train=None, val=None, features=("a", "b")):
    return Dataset("toy", train or test, val or test, test, Provenance("toy", "made up", "none", "0", len(test), True),
                   features)


@dataclass(frozen=True)
class Never(Recipe):
    def fit(self, train, val, seed=0, device="cpu"):
        raise AssertionError("nothing is to be trained here")


def subject(classifier, data, recipe=None, **terms):
    usual = {"eps": 0.1, "budgets": BUDGETS, "smallest_group": 1, "pictures": True}
    return Subject(classifier, recipe or Never(), Plain(), data, **usual | terms)


def sheet():
    return Sheet(cell="c", dataset="toy", data_sha256="0", synthetic=True, model="m", device="cpu", seed=0)


def value(found, metric, eps=None, subgroup=""):
    """The one row of a metric."""
    row, = (r for r in found.rows if r.metric == metric and r.subgroup == subgroup
            and (eps is None or r.attack_params.get("eps") == eps))
    return row.value


@dataclass(frozen=True)
class Majority(Recipe):
    """Says of everyone the most frequent label of the training rows near zero on the second feature; of rows far from
    zero (the trigger) the most frequent label there."""

    def fit(self, train, val, seed=0, device="cpu"):
        far = np.abs(train.x[:, 1]) > 1

        def share(rows):
            return float((train.y[rows] == 1).mean()) if rows.any() else float((train.y == 1).mean())

        return EstimatorClassifier(Says(share(~far), share(far)), 2, train.space, recipe=self)


class Says:
    def __init__(self, near, far):
        self.near, self.far = near, far

    def predict_proba(self, x):
        p = np.where(np.abs(x[:, 1]) > 1, self.far, self.near)
        return np.stack([1 - p, p], 1)
