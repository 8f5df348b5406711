"""Leakage: one patient on both sides of the split, and a model that knows the patient looks as if it knew the disease.

Threat: nobody attacks here; the evaluation does. Each patient has several images that hardly differ, such as
neighbouring slices of one brain. Split by image, most test patients have other images in training, and recognizing them
is enough. Split by patient, as a model is used later, it must tell the disease. Intervals draw patients, not images.

Run: python examples/imaging_leakage.py [DATASET]
"""

import numpy as np
import torch
from common import console, decimal, load_data, show
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import adaptive_avg_pool2d

from imaging.datasets.assemble import resplit
from suite.results.metrics import auroc, bootstrap

data = load_data("alzheimer-mri", "chest-phantom")
models = {"forest": ExtraTreesClassifier(200, min_samples_leaf=2, random_state=0),
          "PCA, logistic": make_pipeline(PCA(60, random_state=0), StandardScaler(), LogisticRegression(max_iter=1000))}


def reduced(split):
    return adaptive_avg_pool2d(torch.from_numpy(split.x), 32).flatten(1).numpy()


def area(proba, test):
    """The AUROC of test images with its interval: those of one patient are drawn together."""
    images = [np.flatnonzero(test.patients == patient) for patient in np.unique(test.patients)]

    def of(patients):
        rows = np.concatenate([images[patient] for patient in patients])
        return auroc(proba[rows, 1], test.y[rows] == 1)

    return bootstrap(of, len(images))


rows, found = [], {}
for by in ("image", "patient"):
    split = resplit(data, by)
    known = np.isin(split.test.patients, split.train.patients).mean()
    for name, model in models.items():
        proba = model.fit(reduced(split.train), split.train.y).predict_proba(reduced(split.test))
        found[name, by] = area(proba, split.test)
        rows.append([f"{name}, by {by}", f"{known:.0%}", decimal(found[name, by])])
show(f"'{data.classes[1]}' told on test images, by how the images were split",
     ["Model, split", "Patient known", "AUROC"], rows)

leaked, honest = found["forest", "image"], found["forest", "patient"]
verdict = "what it knows are patients" if leaked.low > honest.high else "too little to be told from chance"
console.print(f"The forest reaches {decimal(leaked)} when split by image and {decimal(honest)} when split by patient: "
              f"{verdict}.")
