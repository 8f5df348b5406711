"""Label sanitizing: finds flipped labels, gives accuracy back, and spares rare classes."""

import numpy as np
import pytest

from suite.attacks.poisoning import ClusteredFlip, RandomFlip
from suite.base.errors import InputError
from suite.core.data import Split
from suite.core.recipe import Recipe
from suite.core.space import Space
from suite.defenses.regular.labels import ConfidentLearning, LabelSanitizing, NeighborLabels
from tabular.models import LogisticRegression, RandomForest, XGBoost
from tests.support.breast import breast

RECIPE = LogisticRegression()
BOTH = (NeighborLabels(), ConfidentLearning())


def blobs(counts: tuple[int, ...] = (60, 60), spread: float = 8.0, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    x = rng.normal(size=(len(y), 2)) + spread * np.stack([np.cos(y * 2.1), np.sin(y * 2.1)], 1)
    return Split(x.astype(np.float32), y, Space(-50, 50), tuple("abcdef"[:len(counts)]), np.arange(len(y)))


@pytest.mark.parametrize("defense", [NeighborLabels(action="relabel"), ConfidentLearning(action="relabel")])
@pytest.mark.parametrize("counts", [(60, 60), (50, 60, 70)])
def test_restores_flipped_labels_where_classes_lie_apart(defense: LabelSanitizing, counts: tuple[int, ...]):
    train = blobs(counts)
    poisoned = RandomFlip(rate=0.1)(train)
    cleaned = defense.clean(RECIPE, poisoned.train, train)
    right = cleaned.y == train.y
    assert right[~poisoned.mask].all()
    assert right[poisoned.mask].mean() > 0.75, "all but the rows between the classes"
    assert np.array_equal(cleaned.x, train.x)


@pytest.mark.parametrize("defense", BOTH)
def test_drops_flipped_rows_only_where_classes_lie_apart(defense: LabelSanitizing):
    train = blobs()
    poisoned = RandomFlip(rate=0.1)(train)
    assert np.array_equal(defense.clean(RECIPE, poisoned.train, train).rows, np.flatnonzero(~poisoned.mask))


@pytest.mark.parametrize("defense", BOTH)
def test_leaves_clean_labels_alone_where_classes_lie_apart(defense: LabelSanitizing):
    train = blobs()
    assert np.array_equal(defense.clean(RECIPE, train, train).rows, train.rows)


def test_confident_learning_follows_the_confident_joint():
    class Fixed:
        """A recipe whose models know these probabilities of the ill class, by the first input column."""

        def fit(self, train, val, seed, device):
            self.predict_proba = lambda x: np.stack([1 - x[:, 0], x[:, 0]], 1)
            return self

    ill = np.array([0.1, 0.2, 0.3, 0.85, 0.6, 0.9, 0.8, 0.7, 0.6, 0.15], np.float32)
    y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    train = Split(ill[:, None], y, Space(0, 1), ("healthy", "ill"), np.arange(10))
    # thresholds: healthy mean(.9 .8 .7 .15 .4) = .59, ill mean(.9 .8 .7 .6 .15) = .63; row 4 at .6 stays
    labels = ConfidentLearning(folds=2).relabel(Fixed(), train, train)
    assert np.flatnonzero(labels != y).tolist() == [3, 9]


# Confident learning asks the recipe itself, so a recipe that learns the noise by heart is helped less.
@pytest.mark.parametrize(("defense", "recipe", "share"), [
    (NeighborLabels(), LogisticRegression(), 0.5), (NeighborLabels(), RandomForest(trees=30), 0.4),
    (NeighborLabels(), XGBoost(trees=30), 0.5), (ConfidentLearning(), RandomForest(trees=30), 0.5),
    (ConfidentLearning(), XGBoost(trees=30), 0.3), (ConfidentLearning(), LogisticRegression(), 0.0)])
def test_gives_back_accuracy_that_random_flips_cost(defense: LabelSanitizing, recipe: Recipe, share: float):
    accuracy = {"clean": [], "poisoned": [], "defended": []}
    for seed in range(5):
        train, val, test = breast(seed)
        poisoned = RandomFlip(rate=0.3)(train, seed).train
        for name, model in (("clean", recipe.fit(train, val, seed)), ("poisoned", recipe.fit(poisoned, val, seed)),
                            ("defended", defense(recipe, poisoned, val, seed))):
            accuracy[name].append((model.predict(test.x) == test.y).mean())
    clean, bad, good = (np.mean(accuracy[name]) for name in ("clean", "poisoned", "defended"))
    assert clean > bad + 0.03
    assert good - bad > share * (clean - bad)


@pytest.mark.parametrize("defense", BOTH)
def test_finds_random_flips_more_than_clustered_ones(defense: LabelSanitizing):
    train, val, _ = breast()
    found = {}
    for flip in (RandomFlip(rate=0.1), ClusteredFlip(rate=0.1)):
        poisoned = flip(train)
        suspicious = defense.relabel(RECIPE, poisoned.train, val) != poisoned.train.y
        found[type(flip)] = suspicious[poisoned.mask].mean()
        if isinstance(flip, RandomFlip):
            assert suspicious[~poisoned.mask].mean() < 0.1
    assert found[RandomFlip] > 0.6
    assert found[RandomFlip] > found[ClusteredFlip] + 0.2


@pytest.mark.parametrize("defense", BOTH)
@pytest.mark.parametrize("action", ["drop", "relabel"])
def test_no_class_is_wiped_out(defense: LabelSanitizing, action: str):
    hidden = blobs((300, 12, 1), spread=0)  # the rare classes lie right among the common one
    for most in (0.25, 0.5):
        cleaned = type(defense)(action=action, most=most).clean(RECIPE, hidden, hidden)
        assert (np.bincount(cleaned.y, minlength=3) >= np.array([300, 12, 1]) * (1 - most)).all()


def test_same_seed_same_labels():
    train, val, _ = breast()
    poisoned = RandomFlip(rate=0.2)(train).train
    for defense in BOTH:
        first, second = (defense.relabel(RECIPE, poisoned, val, seed=4) for _ in range(2))
        assert np.array_equal(first, second)


@pytest.mark.parametrize(("kind", "wrong"), [
    (NeighborLabels, {"action": "hide"}), (NeighborLabels, {"most": 1.0}), (NeighborLabels, {"k": 0}),
    (NeighborLabels, {"agreement": 0.4}), (ConfidentLearning, {"folds": 1}), (ConfidentLearning, {"most": 0.0})])
def test_bad_parameters_are_named(kind: type[LabelSanitizing], wrong: dict):
    with pytest.raises(InputError, match=next(iter(wrong))):
        kind(**wrong)
