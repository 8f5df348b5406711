"""Database reconstruction: the one training row that an attacker lacks, from the model and all the other rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from sklearn.naive_bayes import GaussianNB

from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.attack import ReconstructionAttack
from suite.core.classifier import Classifier, EstimatorClassifier
from suite.core.data import Split
from suite.core.space import Kind


@dataclass(frozen=True)
class DatabaseReconstruction(ReconstructionAttack):
    """Solves the class means of Gaussian naive Bayes for the missing row: a mean times its count is a sum, and the row
    is what the sum of the known rows lacks. Which class has one row more than the attacker knows is its label.
    """

    needs: ClassVar[Literal["class means"]] = "class means"
    info: ClassVar[Info] = Info(
        "Database reconstruction", "Balle, Cherubin and Hayes 2022, arXiv 2201.04845; as in ART", "white-box",
        ("reconstruction",), "one sum over the known rows",
        "in closed form, by the means and counts of the classes; ART fits means and variances of each label, by "
        "finite differences. The rest of the paper, which learns to invert other models, is left out", strong=True)
    inputs: ClassVar[Kind] = "table"

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        if not (isinstance(classifier, EstimatorClassifier) and isinstance(classifier.estimator, GaussianNB)):
            raise NotApplicable("DatabaseReconstruction solves the class means of scikit-learn's GaussianNB, and this "
                                "model has none")

    def __call__(self, classifier: EstimatorClassifier, known: Split, seed: int = 0) -> tuple[np.ndarray, int]:
        """As `ReconstructionAttack`; raises `InputError` where the model has not learned from one row more."""
        self.check(classifier)
        model = classifier.estimator
        more = model.class_count_ - np.bincount(known.y, minlength=len(model.class_count_))
        if sorted(more) != [0] * (len(more) - 1) + [1]:
            raise InputError("database reconstruction needs all training rows but one, and the model has learned from "
                             f"{model.class_count_.sum():g} rows, of which {len(known)} are known")
        label = int(more.argmax())
        lacks = model.class_count_[label] * model.theta_[label] - known.x[known.y == label].sum(0, dtype=np.float64)
        return lacks.astype(np.float32), label
