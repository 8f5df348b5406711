"""Attribute inference: what the model's answer adds to a matched imputation, and ART's unmatched one."""

import numpy as np
import pytest
from art.attacks.inference.attribute_inference import (
    AttributeInferenceBaseline,
    AttributeInferenceBlackBox,
    AttributeInferenceWhiteBoxDecisionTree,
    AttributeInferenceWhiteBoxLifestyleDecisionTree,
)
from art.estimators.classification.scikitlearn import ScikitlearnDecisionTreeClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from privacy.attribute import AttributeBlackBox, AttributeByConfidence, AttributeWhiteBoxTree
from suite.attacks.art.border import art_fence, estimator_over
from suite.base.errors import NotApplicable
from suite.core.classifier import REJECTED, Classifier, EstimatorClassifier
from suite.core.data import Split
from suite.core.space import Space
from tabular.models import DecisionTree, RandomForest

SPACE = Space(-10.0, 10.0)


def table(seed, n=300, related=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    if related:
        x[:, 2] = x[:, 0] + 0.3 * rng.normal(size=n)
    return Split(x, np.zeros(n, np.int64), SPACE, ("no", "yes"), np.arange(n))


class Reveals:
    """Answers yes exactly where column 2 exceeds 0: the answer is the hidden bit."""

    def predict_proba(self, x):
        return np.eye(2)[(x[:, 2] > 0).astype(int)]


class Silent:
    """Answers by column 1, which has nothing to do with column 2."""

    def predict_proba(self, x):
        return np.eye(2)[(x[:, 1] > 0).astype(int)]


def accuracies(model, known, victims, column=2, learner="rf"):
    guess, baseline = AttributeBlackBox(learner)(EstimatorClassifier(model, 2, SPACE), known, victims, column)
    truth = victims.x[:, column] > np.median(known.x[:, column])
    assert guess.shape == baseline.shape == (len(victims),) and guess.dtype == baseline.dtype == np.int64
    assert set(guess) | set(baseline) <= {0, 1}
    return (guess == truth).mean(), (baseline == truth).mean()


@pytest.mark.parametrize("learner", ["rf", "gb", "lr", "dt", "knn"])
def test_an_answer_that_is_the_column_gives_it_away(learner):
    with_model, without = accuracies(Reveals(), table(0), table(1), learner=learner)
    assert with_model > (0.9 if learner == "knn" else 0.97)
    assert abs(without - 0.5) < 0.1


def test_an_answer_that_has_nothing_to_do_with_it_gives_nothing_away():
    with_model, without = accuracies(Silent(), table(0), table(1))
    assert abs(with_model - without) < 0.08 and abs(without - 0.5) < 0.1


def test_what_can_be_imputed_counts_for_the_baseline_and_not_for_the_model():
    with_model, without = accuracies(Silent(), table(0, related=True), table(1, related=True))
    assert without > 0.85 and abs(with_model - without) < 0.05


def test_a_column_without_a_value_above_its_median_is_not_guessed():
    known, victims = table(0), table(1)
    flat = known.x.copy()
    flat[:, 2] = 1.0
    guess, baseline = AttributeBlackBox()(EstimatorClassifier(Silent(), 2, SPACE), known.with_data(flat, known.y),
                                          victims, 2)
    assert not guess.any() and not baseline.any()


def test_a_refusal_is_an_answer_too():
    class Refuses(Classifier):
        def _proba(self, x):
            return np.tile([0.5, 0.5], (len(x), 1))

        def predict(self, x):
            return np.where(x[:, 2] > 0, REJECTED, 0)

    guess, _ = AttributeBlackBox()(Refuses(2, SPACE), table(0), table(1), 2)
    assert (guess == (table(1).x[:, 2] > 0)).mean() > 0.95


def test_asks_each_row_once_and_same_seed_same_guesses():
    model = EstimatorClassifier(Reveals(), 2, SPACE)
    first, again = (AttributeBlackBox()(model, table(0), table(1), 2, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert model.queries == 2 * 600


def test_images_have_no_columns():
    images = Split(np.zeros((4, 1, 2, 2), np.float32), np.zeros(4, np.int64), SPACE, ("no", "yes"), np.arange(4))
    with pytest.raises(NotApplicable, match="table"):
        AttributeBlackBox()(EstimatorClassifier(Silent(), 2, SPACE), images, images, 0)


def test_art_scales_the_attack_and_not_its_baseline_and_ours_scales_both():
    """Nearest neighbours see only a column in thousands unless all are scaled: ART's baseline is at chance where the
    same learner, scaled, imputes the bit. Its attack then seems to learn from the model what the model never said."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4)).astype(np.float32)
    x[:, 1] *= 1000
    x[:, 2] = x[:, 0] > 0
    known, victims = x[:300], x[300:]
    rest, truth = np.delete(victims, 2, 1), victims[:, 2]
    nothing = estimator_over(lambda z: np.tile(np.float32([1, 0]), (len(z), 1)), (4,), 2)
    with art_fence(0):
        attack = AttributeInferenceBlackBox(nothing, attack_model_type="knn", attack_feature=2)
        attack.fit(known)
        seems = attack.infer(rest, pred=np.zeros((300, 1), np.float32), values=[0, 1])
        baseline = AttributeInferenceBaseline(attack_model_type="knn", attack_feature=2)
        baseline.fit(known)
        without = baseline.infer(rest, values=[0, 1])
    assert (seems == truth).mean() - (without == truth).mean() > 0.25

    def split(rows):
        return Split(rows, np.zeros(len(rows), np.int64), SPACE, ("no", "yes"), np.arange(len(rows)))

    class Mute:
        def predict_proba(self, z):
            return np.tile([1.0, 0.0], (len(z), 1))

    ours = accuracies(Mute(), split(known), split(victims), learner="knn")
    assert ours[0] == ours[1] > 0.85


def test_art_wants_the_label_where_its_predict_gives_probabilities():
    x = table(0).x.copy()
    x[:, 2] = x[:, 2] > 0
    estimator = estimator_over(lambda z: np.eye(2, dtype=np.float32)[z[:, 2].astype(int)], (5,), 2)
    with art_fence(0):
        attack = AttributeInferenceBlackBox(estimator, attack_model_type="rf", attack_feature=2)
        attack.fit(x)
        with pytest.raises(ValueError, match="features"):
            attack.infer(np.delete(x, 2, 1), pred=estimator.predict(x), values=[0, 1])
        right = attack.infer(np.delete(x, 2, 1), pred=estimator.predict(x).argmax(1)[:, None], values=[0, 1])
    assert (right == x[:, 2]).mean() > 0.95


def test_art_asks_about_the_row_with_the_bit_in_place_of_the_value():
    asked = []

    def answer(z):
        asked.append(z.copy())
        return np.tile(np.float32([1, 0]), (len(z), 1))

    x = table(0).x.copy() + 100
    x[:, 2] = x[:, 2] > 100
    with art_fence(0):
        AttributeInferenceBlackBox(estimator_over(answer, (5,), 2), attack_model_type="dt", attack_feature=2).fit(x)
    assert set(np.concatenate(asked)[:, 2]) == {0.0, 1.0}

    class Records(Silent):
        def predict_proba(self, z):
            asked.append(z.copy())
            return super().predict_proba(z)

    asked.clear()
    accuracies(Records(), table(0), table(1))
    np.testing.assert_array_equal(np.concatenate(asked), np.concatenate([table(0).x, table(1).x]))


class Remembers:
    """Sure of the label of a row exactly as it was learned, by so much, and of no other."""

    def __init__(self, split, sure):
        self.learned, self.sure = {row.tobytes(): y for row, y in zip(split.x, split.y, strict=True)}, sure

    def predict_proba(self, x):
        found = [self.learned.get(row.tobytes()) for row in x]
        return np.array([[0.5, 0.5] if y is None else np.where(np.arange(2) == y, self.sure, 1 - self.sure)
                         for y in found])


def coins(seed, label=False, n=300):
    """Rows whose column 2 is a fair coin, that the label repeats or has nothing to do with."""
    split, rng = table(seed, n), np.random.default_rng([seed, 1])
    x = split.x.copy()
    x[:, 2] = rng.permutation(np.arange(n) >= (n + 1) // 2 + 1)
    return split.with_data(x, x[:, 2].astype(np.int64) if label else rng.integers(0, 2, n))


def by_confidence(model, known, victims):
    guess, baseline = AttributeByConfidence()(EstimatorClassifier(model, 2, SPACE), known, victims, 2)
    assert guess.dtype == baseline.dtype == np.int64 and set(guess) | set(baseline) <= {0, 1}
    return (guess == victims.x[:, 2]).mean(), (baseline == victims.x[:, 2]).mean()


def test_the_value_under_which_the_model_is_sure_of_the_label_is_the_true_one():
    known, victims = coins(0), coins(1)
    rights = [by_confidence(Remembers(victims, sure), known, victims) for sure in (0.5, 0.6, 0.999)]
    (none, base), (some, _), (all_, _) = rights
    assert abs(base - 0.5) < 0.1 and abs(none - 0.5) < 0.1
    assert none + 0.05 < some < all_ and all_ > 0.97  # the surer of what it learned, the more it tells


def test_what_the_label_says_without_the_model_counts_for_the_baseline():
    victims = coins(1, label=True)
    guess, base = by_confidence(Silent(), coins(0, label=True), victims)
    assert base > 0.97 and guess < 0.65


def test_posterior_by_hand():
    """Forest and model that are both known: 0.5 x 0.9 against 0.5 x 0.6, and back for the other label."""
    class Leans:
        def predict_proba(self, x):
            yes = np.where(x[:, 2] > 0, 0.9, 0.6)
            return np.stack([1 - yes, yes], 1)

    split = coins(0)
    flat = split.x.copy()
    flat[:, [0, 1, 3, 4]] = 0  # nothing to impute from: the chance is the share of ones, 149 of 300
    known = split.with_data(flat, split.y)
    guess, _ = AttributeByConfidence()(EstimatorClassifier(Leans(), 2, SPACE), known, known, 2)
    np.testing.assert_array_equal(guess, split.y)


def test_tries_the_values_there_are_and_no_more():
    model = EstimatorClassifier(Silent(), 2, SPACE)
    AttributeByConfidence()(model, coins(0), coins(1), 2)
    assert model.queries == 2 * 300  # a coin has two
    model.queries = 0
    AttributeByConfidence(values=7)(model, table(0), table(1), 2)
    assert model.queries == 14 * 300


def test_confidence_needs_columns_and_a_value_above_the_median():
    images = Split(np.zeros((4, 1, 2, 2), np.float32), np.zeros(4, np.int64), SPACE, ("no", "yes"), np.arange(4))
    model, flat = EstimatorClassifier(Silent(), 2, SPACE), table(0).x.copy()
    with pytest.raises(NotApplicable, match="table"):
        AttributeByConfidence()(model, images, images, 0)
    flat[:, 2] = 1.0
    guess, baseline = AttributeByConfidence()(model, table(0).with_data(flat, table(0).y), table(1), 2)
    assert not guess.any() and not baseline.any()


def tree(train, label, depth=None):
    return EstimatorClassifier(DecisionTreeClassifier(max_depth=depth, random_state=0).fit(train.x, label), 2, SPACE)


@pytest.mark.parametrize("column", [0, 2, 4])
def test_a_tree_whose_label_is_the_column_gives_it_away_wherever_it_stands(column):
    known, victims = table(0), table(1)
    truth = victims.x[:, column] > np.median(known.x[:, column])
    model = tree(victims, truth.astype(int))
    guess, baseline = AttributeWhiteBoxTree()(model, known, victims, column)
    np.testing.assert_array_equal(guess, truth)
    assert abs((baseline == truth).mean() - 0.5) < 0.1
    assert guess.dtype == baseline.dtype == np.int64 and model.queries == 300


def test_a_column_that_the_tree_does_not_look_at_is_guessed_as_without_it():
    known, victims = table(0, related=True), table(1, related=True)
    model = tree(victims, (victims.x[:, 1] > 0).astype(int), depth=1)
    guess, baseline = AttributeWhiteBoxTree()(model, known, victims, 2)
    np.testing.assert_array_equal(guess, baseline)
    assert (baseline == (victims.x[:, 2] > np.median(known.x[:, 2]))).mean() > 0.85  # column 0 tells it


def test_a_tree_that_looks_at_the_column_for_some_gives_it_away_of_those():
    """Label: column 2, but only where column 0 is positive."""
    known, victims = table(0), table(1)
    told = victims.x[:, 0] > 0
    truth = victims.x[:, 2] > np.median(known.x[:, 2])
    guess, _ = AttributeWhiteBoxTree()(tree(victims, (told & truth).astype(int)), known, victims, 2)
    assert (guess == truth)[told].mean() == 1.0 and abs((guess == truth)[~told].mean() - 0.5) < 0.12


def test_reads_one_tree_and_nothing_else():
    train = table(0)
    forest = EstimatorClassifier(RandomForestClassifier(3).fit(train.x, train.x[:, 0] > 0), 2, SPACE)
    for other in (forest, EstimatorClassifier(Silent(), 2, SPACE)):
        with pytest.raises(NotApplicable, match="one decision tree"):
            AttributeWhiteBoxTree().check(other)
    assert AttributeWhiteBoxTree().meets(DecisionTree()) and not AttributeWhiteBoxTree().meets(RandomForest())


def test_art_refuses_the_last_column_of_a_tree():
    victims = table(1)
    model = tree(victims, (victims.x[:, 4] > 0).astype(int)).estimator
    attack = AttributeInferenceWhiteBoxDecisionTree(ScikitlearnDecisionTreeClassifier(model), attack_feature=4)
    with pytest.raises(ValueError, match="attack_feature must be a valid index"):
        attack.infer(victims.x[:, :4], np.zeros(300), values=[-1.0, 1.0], priors=[0.5, 0.5])


def test_arts_lifestyle_attack_tells_of_a_patient_what_depends_on_who_else_is_asked_about():
    """Its weights are divided by the leaves that the batch reaches: alone, nothing is left but the prior."""
    victims = table(1)
    model = tree(victims, ((victims.x[:, 0] > 0) & (victims.x[:, 2] > 0.5)).astype(int)).estimator
    attack = AttributeInferenceWhiteBoxLifestyleDecisionTree(ScikitlearnDecisionTreeClassifier(model), attack_feature=2)
    others = np.delete(victims.x, 2, axis=1)
    terms = {"values": [-1.0, 1.0], "priors": [0.49, 0.51]}
    together = attack.infer(others, **terms)
    alone = np.concatenate([attack.infer(others[i:i + 1], **terms) for i in range(50)])
    assert (alone == 1.0).all() and (together[:50] == -1.0).any()
