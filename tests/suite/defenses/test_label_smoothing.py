"""Label smoothing: how sure a model becomes, by hand; and that a share of nothing is plain training."""

import numpy as np
import pytest

from suite.base.errors import NotApplicable
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.regular.label_smoothing import LabelSmoothing
from tabular.models import MLP, LogisticRegression, RandomForest


def corners(classes, n=40):
    """Rows that are the unit vectors of their classes: any sureness can be learned of them."""
    y = np.arange(n * classes) % classes
    return Split(np.eye(classes, dtype=np.float32)[y], y, Space(0.0, 1.0), tuple(f"c{k}" for k in range(classes)),
                 np.arange(len(y)))


RECIPE = LogisticRegression(epochs=300, lr=0.05, patience=300, weight_decay=0.0)


@pytest.mark.parametrize(("classes", "share"), [(2, 0.1), (2, 0.4), (4, 0.2)])
def test_as_sure_as_the_smoothed_label_and_no_surer(classes, share):
    data = corners(classes)
    proba = LabelSmoothing(share)(RECIPE, data, data).predict_proba(data.x)
    wanted = (1 - share) * np.eye(classes)[data.y] + share / classes
    np.testing.assert_allclose(proba, wanted, atol=0.01)


def test_a_share_of_nothing_is_plain_training():
    data = corners(3)
    recipe = MLP(hidden=(8,), epochs=60, lr=0.05)
    none, plain = LabelSmoothing(0.0)(recipe, data, data, 5), recipe.fit(data, data, 5)
    np.testing.assert_array_equal(none.predict_proba(data.x), plain.predict_proba(data.x))
    assert plain.predict_proba(data.x).max() > 0.99


def test_needs_a_network():
    with pytest.raises(NotApplicable, match="LabelSmoothing"):
        LabelSmoothing()(RandomForest(), corners(2), corners(2))
