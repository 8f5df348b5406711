"""Database reconstruction: the row that was left out, beside ART's search for it, and what it cannot be used on."""

from dataclasses import replace

import numpy as np
import pytest
from art.attacks.inference.reconstruction import DatabaseReconstruction as ArtReconstruction
from art.estimators.classification import SklearnClassifier
from sklearn import naive_bayes

from privacy.reconstruction import DatabaseReconstruction
from suite.attacks.art.border import art_fence
from suite.base.errors import InputError, NotApplicable
from suite.core.classifier import EstimatorClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.evaluate import measure
from suite.models.artifacts import Fitted
from tabular.models import DecisionTree, GaussianNB
from tests.support.toy import dataset, sheet, subject, value

SCALE = np.float32([1, 100, 1e5])


def people(seed=0, n=60, classes=3):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 3)) * SCALE / 6 + SCALE / 2).astype(np.float32)
    return Split(x, np.arange(n) % classes, Space(-2.0 * SCALE, 2.0 * SCALE, SCALE),
                 tuple("abc"[:classes]), np.arange(n))


def without(split, i):
    return split.take(np.delete(np.arange(len(split)), i))


@pytest.mark.parametrize("recipe", [GaussianNB(), GaussianNB(smoothing=0.1, balanced=False)])
def test_finds_each_row_that_was_left_out_in_every_column_with_its_label(recipe):
    train = people()
    model = recipe.fit(train, train)
    for i in range(len(train)):
        x, y = DatabaseReconstruction()(model, without(train, i))
        np.testing.assert_allclose(x, train.x[i], rtol=1e-4)
        assert x.dtype == np.float32 and y == train.y[i]


def test_means_in_single_precision_still_give_the_row_to_a_thousandth_of_the_scale():
    train = people(n=600)
    model = naive_bayes.GaussianNB().fit(train.x, train.y)
    assert model.theta_.dtype == np.float32
    x, y = DatabaseReconstruction()(EstimatorClassifier(model, 3, train.space), without(train, 7))
    assert y == train.y[7] and (np.abs(x - train.x[7]) / SCALE).max() < 1e-3


def test_a_row_is_lost_as_soon_as_a_known_one_is_wrong():
    """Relation: what a known row is off by, in the same class, the rebuilt row is off by the other way."""
    train = people()
    known = without(train, 0)
    off = known.x.copy()
    off[2, 1] += 25.0  # row 3, of class 0 as row 0 is
    (right, _), (wrong, _) = (DatabaseReconstruction()(GaussianNB().fit(train, train), k)
                              for k in (known, replace(known, x=off)))
    np.testing.assert_allclose(wrong - right, [0, -25.0, 0], atol=1e-2)


def test_arts_search_stops_short_of_the_row_where_columns_differ_in_scale():
    """ART descends by finite differences of 1e-8 in data units, on squares of means and variances of all columns added:
    of columns from 1 to 100000 it stays far from the row in the small ones. Of like columns it finds it."""
    train = people(n=30)
    like = replace(train, x=train.x / SCALE, space=Space(-2.0, 2.0))

    def error(split):
        known = without(split, 4)
        model = GaussianNB(balanced=False).fit(split, split).estimator
        with art_fence(0):
            attack = ArtReconstruction(SklearnClassifier(model=model))
            x, y = attack.reconstruct(known.x.astype(np.float64), np.eye(3)[known.y])
        ours, label = DatabaseReconstruction()(EstimatorClassifier(model, 3, split.space), known)
        assert y.argmax() == label == split.y[4]
        far = [np.abs(found - split.x[4]) / split.space.scale.numpy() for found in (x[0], ours)]
        return [f.max() for f in far]

    art, ours = error(like)
    assert art < 1e-3 and ours < 1e-5
    art, ours = error(train)
    assert art > 0.01 and ours < 1e-5


def test_needs_all_rows_but_one():
    train = people()
    model = GaussianNB().fit(train, train)
    for known in (train, train.take(np.arange(58))):
        with pytest.raises(InputError, match=f"learned from 60 rows, of which {len(known)} are known"):
            DatabaseReconstruction()(model, known)


def test_is_for_naive_bayes_only():
    train = people()
    with pytest.raises(NotApplicable, match="GaussianNB"):
        DatabaseReconstruction().check(DecisionTree().fit(train, train))
    for fitted in (GaussianNB().fit(train, train).estimator, DecisionTree().fit(train, train).estimator):
        assert DatabaseReconstruction().meets(Fitted(fitted))  # a user's model may be one: `check` looks
    assert DatabaseReconstruction().meets(GaussianNB()) and not DatabaseReconstruction().meets(DecisionTree())


def test_is_measured_on_rows_left_out_beside_the_mean_of_their_class():
    train = people(n=200, classes=2)
    out = sheet()
    arrays = measure(DatabaseReconstruction(), subject(GaussianNB().fit(train, train), dataset(train, train)), out)
    assert value(out, "rows_rebuilt") == 1.0 and value(out, "rows_rebuilt_baseline") == 0.0
    assert value(out, "reconstruction_error") < 1e-5
    assert 0.1 < value(out, "reconstruction_error_baseline") < 0.25  # columns have a standard deviation of a sixth
    assert {r.n for r in out.rows} == {50} and arrays == {}
    measure(DatabaseReconstruction(), subject(GaussianNB().fit(train, train), dataset(train, train)), out, rows=5)
    assert out.rows[-1].n == 5


def test_a_model_of_other_rows_gives_none_of_these_away():
    """Control: as many rows of each class, but other people."""
    train = people(n=200, classes=2)
    other = GaussianNB().fit(people(1, n=200, classes=2), train)
    out = sheet()
    measure(DatabaseReconstruction(), subject(other, dataset(train, train)), out)
    assert value(out, "rows_rebuilt") == 0.0
    assert value(out, "reconstruction_error") > value(out, "reconstruction_error_baseline")
