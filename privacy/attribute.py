"""Attribute inference: guessing a hidden column of a patient, against an imputation that never asks the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from suite.art import art_fence, estimator_over
from suite.attack import AttributeAttack, Info
from suite.classifier import Classifier
from suite.data import Split
from suite.errors import NotApplicable
from suite.space import Kind


@dataclass(frozen=True)
class AttributeBlackBox(AttributeAttack):
    """Learns the hidden column from the other columns and the model's label (ART).

    The baseline is the same attack on a model that always answers the same: same learner, features and scaling.
    The gain of the guesses over the baseline is therefore what the model's answer gives away, and nothing else.

    Attributes:
        learner: The attack model: random forest, gradient boosting, logistic regression, tree, nearest neighbours.
    """

    info: ClassVar[Info] = Info(
        "Black-box attribute inference", "Fredrikson, Jha and Ristenpart 2015, doi 10.1145/2810103.2813677; as in ART",
        "label-only", ("attribute",), "one query a row, two small fits",
        "guesses one bit, above the median of the known rows; the model is asked about the true row, where ART would "
        "ask about the row with that bit in the column's place; the attacker does not see the true label")
    inputs: ClassVar[Kind] = "table"
    learner: Literal["rf", "gb", "lr", "dt", "knn"] = "rf"

    def __call__(self, classifier: Classifier, known: Split, victims: Split, column: int,
                 seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        if known.x.ndim != 2:
            raise NotApplicable("attribute inference needs a table, and these inputs are no rows of columns")
        bits = known.x[:, column] > np.median(known.x[:, column])
        if bits.all() or not bits.any():  # no value above the median: nothing to learn, for either of the two
            constant = np.full(len(victims), int(bits[0]), np.int64)
            return constant, constant.copy()
        table = known.x.copy()
        table[:, column] = bits
        others = np.delete(victims.x, column, axis=1)
        answers = classifier.predict(known.x), classifier.predict(victims.x)
        silence = np.zeros_like(answers[0]), np.zeros_like(answers[1])
        options = len(classifier.classes_) + 1
        guesses, baseline = (self._guess(table, others, column, a, options, seed) for a in (answers, silence))
        return guesses, baseline

    def _guess(self, table: np.ndarray, others: np.ndarray, column: int, answers: tuple[np.ndarray, np.ndarray],
               options: int, seed: int) -> np.ndarray:
        """Run ART's attack on a model that gave these labels to the known rows and to the victims."""
        from art.attacks.inference.attribute_inference import AttributeInferenceBlackBox

        known, victims = (np.where(a < 0, options - 1, a) for a in answers)  # a refusal is one more answer
        replay = estimator_over(lambda _: np.eye(options, dtype=np.float32)[known], table.shape[1:], options)
        with art_fence(seed):
            attack = AttributeInferenceBlackBox(replay, attack_model_type=self.learner, attack_feature=column)
            attack.fit(table)
            # infer wants the label as one column, not the probabilities that an ART classifier predicts
            guesses = attack.infer(others, pred=victims[:, None].astype(np.float32), values=[0, 1])
        return guesses.ravel().astype(np.int64)
