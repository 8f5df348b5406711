"""Attribute inference: guessing a hidden column of a patient, against an imputation that never asks the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from suite.attacks.art.border import art_fence, estimator_over
from suite.base.bounds import Count
from suite.base.errors import NotApplicable
from suite.base.info import Info
from suite.core.attack import AttributeAttack
from suite.core.classifier import Classifier, EstimatorClassifier
from suite.core.data import Split
from suite.core.space import Kind


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
        bits = _bits(known, column)
        if not bits.any():
            return _nothing(victims)
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


@dataclass(frozen=True)
class AttributeByConfidence(AttributeAttack):
    """Tries values in the hidden column, and believes those that make the model sure of the patient's true label.

    The attacker knows the other columns and the label. Bayes' rule: the bit of which the chance, by imputation from the
    other columns alone, times the model's mean probability of the true label over likely values with that bit, is the
    greater. The baseline imputes from the other columns and the label, with the same learner, and asks no model: what
    follows from the label without the model is no leak of the model (Jayaraman and Evans 2022, arXiv 2209.01292).

    Attributes:
        values: Values tried on each side of the median: quantiles of the known rows, or all if they are fewer.
    """

    info: ClassVar[Info] = Info(
        "Attribute inference by confidence", "Fredrikson, Lantz, Jha, Lin, Page and Ristenpart 2014, USENIX Security; "
        "Mehnaz et al. 2022, arXiv 2201.09370", "score", ("attribute",), "`2 values` queries a row, two small fits",
        "guesses one bit, above the median of the known rows; the chance of a bit is imputed for each row, where the "
        "paper takes its share among all; the model's probabilities stand in for its confusion matrix", strong=True)
    inputs: ClassVar[Kind] = "table"
    values: Count = 5

    def __call__(self, classifier: Classifier, known: Split, victims: Split, column: int,
                 seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        bits = _bits(known, column)
        if not bits.any():
            return _nothing(victims)
        others, asked = (np.delete(s.x, column, axis=1) for s in (known, victims))
        chance = _imputed(others, bits, asked, seed)
        agrees = [self._agreement(classifier, known.x[bits == bit, column], victims, column) for bit in (False, True)]
        guesses = chance * agrees[1] > (1 - chance) * agrees[0]
        baseline = _imputed(np.column_stack([others, known.y]), bits, np.column_stack([asked, victims.y]), seed) > 0.5
        return guesses.astype(np.int64), baseline.astype(np.int64)

    def _agreement(self, classifier: Classifier, values: np.ndarray, victims: Split, column: int) -> np.ndarray:
        """(n,) mean probability of the true label, over likely values of the column; never 0, so that ratios exist."""
        tried = np.unique(np.quantile(values, (np.arange(self.values) + 0.5) / self.values, method="nearest"))
        x = np.repeat(victims.x, len(tried), axis=0)
        x[:, column] = np.tile(tried, len(victims))
        proba = classifier.predict_proba(x)[np.arange(len(x)), np.repeat(victims.y, len(tried))]
        return np.maximum(proba.reshape(len(victims), -1).mean(1), _UNHEARD)


@dataclass(frozen=True)
class AttributeWhiteBoxTree(AttributeAttack):
    """Reads a decision tree: tries a value from each half of the hidden column, and sees where it leads (ART).

    The attacker has the tree, the other columns and the tree's label of the true row. Where one value alone leads to
    that label, it is believed. Where both or none do, the chance of each, by imputation from the other columns, times
    the training rows in the leaf that it leads to, decides. The baseline is that chance alone.
    """

    needs: ClassVar[Literal["one tree"]] = "one tree"
    info: ClassVar[Info] = Info(
        "White-box attribute inference on a tree", "Fredrikson, Jha and Ristenpart 2015, doi 10.1145/2810103.2813677; "
        "as in ART", "white-box", ("attribute",), "one query a row, two walks through the tree, one small fit",
        "guesses one bit, above the median of the known rows, by the median of each half; the chance of a bit is "
        "imputed for each row. ART refuses the last column, which a column of zeros behind it makes the last but one. "
        "Its 'lifestyle' variant is left out: it divides by the leaves that the rows of the batch reach, so a guess "
        "depends on who else is asked about, and of one row it is the prior", strong=True)
    inputs: ClassVar[Kind] = "table"

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        if not (isinstance(classifier, EstimatorClassifier)
                and isinstance(classifier.estimator, DecisionTreeClassifier)):
            raise NotApplicable("AttributeWhiteBoxTree reads one decision tree of scikit-learn's, and this model is "
                                "none")

    def __call__(self, classifier: EstimatorClassifier, known: Split, victims: Split, column: int,
                 seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        from art.attacks.inference.attribute_inference import AttributeInferenceWhiteBoxDecisionTree

        self.check(classifier)
        bits = _bits(known, column)
        if not bits.any():
            return _nothing(victims)
        others, asked = (np.delete(s.x, column, axis=1) for s in (known, victims))
        chance = _imputed(others, bits, asked, seed)
        values = [float(np.quantile(known.x[bits == bit, column], 0.5, method="nearest")) for bit in (False, True)]
        rows, answers = np.pad(asked, ((0, 0), (0, 1))), classifier.predict(victims.x)
        with art_fence(seed):
            attack = AttributeInferenceWhiteBoxDecisionTree(_padded()(classifier.estimator), attack_feature=column)
            # ART takes one prior for all rows that it is given
            found = [attack.infer(rows[i:i + 1], answers[i:i + 1], values=values, priors=[1 - p, p])[0] == values[1]
                     for i, p in enumerate(chance)]
        return np.array(found, np.int64), (chance > 0.5).astype(np.int64)


@cache
def _padded() -> type:
    from art.estimators.classification.scikitlearn import ScikitlearnDecisionTreeClassifier

    class Padded(ScikitlearnDecisionTreeClassifier):
        """A tree whose rows have one more column, at the end, which it does not look at."""

        def __init__(self, tree: DecisionTreeClassifier) -> None:
            super().__init__(tree)
            self._input_shape = (tree.n_features_in_ + 1,)

        def predict(self, x: np.ndarray, **kwargs: object) -> np.ndarray:
            return self.model.predict_proba(x[:, :-1])

        def get_decision_path(self, x: np.ndarray) -> np.ndarray:
            return super().get_decision_path(np.asarray(x)[:, :-1])

    return Padded


_UNHEARD = 1e-6
"""Probability below which an answer says no more."""


def _imputed(known: np.ndarray, bits: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """(n,) chance that the hidden bit of some rows is 1, from columns of known rows.

    Leaves of twenty: a forest of pure ones is surer than it should be, and then outvotes the model.
    """
    forest = RandomForestClassifier(100, min_samples_leaf=20, random_state=seed).fit(known, bits)
    return forest.predict_proba(rows)[:, -1]


def _bits(known: Split, column: int) -> np.ndarray:
    """(n,) bool: which known rows lie above the median of a column. Some always lie below it or at it.

    Raises:
        NotApplicable: The inputs are no rows of columns.
    """
    if known.x.ndim != 2:
        raise NotApplicable("attribute inference needs a table, and these inputs are no rows of columns")
    return known.x[:, column] > np.median(known.x[:, column])


def _nothing(victims: Split) -> tuple[np.ndarray, np.ndarray]:
    """What both guess of a column without a value above its median: there is nothing to learn."""
    return np.zeros(len(victims), np.int64), np.zeros(len(victims), np.int64)
