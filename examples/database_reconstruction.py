"""Database reconstruction: all rows but one and the model's means give the last patient away, value by value.

Threat: of a shared table somebody knows everything but one patient: an insider whose own hospital gave the others, or a
patient who was taken out of a later release. A naive Bayes model that learned from all says, per class, the mean of
each column. Mean times count is a sum, and what the known rows lack to it is the patient. Means that are published with
two or three digits leave less. The yardstick is the mean of the other patients of the class.

Run: python examples/database_reconstruction.py [DATASET]
"""

from copy import deepcopy

import numpy as np
from common import console, load_data, percent, show

from privacy.reconstruction import DatabaseReconstruction
from suite.core.classifier import EstimatorClassifier
from suite.results.metrics import Estimate, proportion
from tabular.models import GaussianNB

data = load_data()
train, scale = data.train, data.space.scale.numpy()
chosen = np.random.default_rng(0).permutation(len(train))[:100]
known = [train.take(np.delete(np.arange(len(train)), i)) for i in chosen]


def rounded(model: EstimatorClassifier, digits: int) -> EstimatorClassifier:
    """The model as a paper would print it: means with so many significant digits."""
    told = deepcopy(model.estimator)
    told.theta_ = np.vectorize(lambda v: float(f"{v:.{digits}g}"))(told.theta_)
    return EstimatorClassifier(told, len(train.classes), train.space)


def rebuilt(x: np.ndarray, columns: slice | int = slice(None)) -> Estimate:
    """How many are within 1 % of the scale of every one of some columns."""
    near = np.abs(x - train.x[chosen]) / scale <= 0.01
    return proportion(near[:, columns].reshape(len(x), -1).all(1))


model = GaussianNB().fit(train, data.val)
told = {"as stored": model} | {f"{digits} digits": rounded(model, digits) for digits in (6, 5, 4, 3)}
found = {"mean of the class": np.stack([k.x[k.y == y].mean(0) for k, y in zip(known, train.y[chosen], strict=True)])}
found |= {name: np.stack([DatabaseReconstruction()(m, k)[0] for k in known]) for name, m in told.items()}
show("Share of left-out patients whose values are rebuilt within 1% of scale", ["Means", "All columns"],
     [[name, percent(rebuilt(x))] for name, x in found.items()])
show("The same by column, of means with 4 digits", ["Column", "Rebuilt", "By the mean of the class"],
     [[name, percent(rebuilt(found["4 digits"], i)), percent(rebuilt(found["mean of the class"], i))]
      for i, name in enumerate(data.features)])
whole = rebuilt(found["as stored"])
console.print(f"From the means as they are stored, {percent(whole)} of {len(chosen)} patients are rebuilt in all "
              f"{len(data.features)} columns; with 3 digits, {percent(rebuilt(found['3 digits']))}.")
