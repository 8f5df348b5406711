"""Label flips and the poisoner of backdoors: exactly what they touch, and that they hurt."""

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score

from suite.attacks.poisoning import Backdoor, ClusteredFlip, LabelFlip, LossRankedFlip, RandomFlip, TargetedFlip
from suite.base.errors import InputError
from suite.core.data import Split
from suite.core.space import Space
from tests.support.breast import breast

FLIPS = (RandomFlip, TargetedFlip, LossRankedFlip, ClusteredFlip)


def blobs(n: int = 90, classes: int = 3, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = np.stack([6.0 * y, -3.0 * y], 1) + rng.normal(size=(n, 2))
    return Split(x.astype(np.float32), y, Space(-50, 50), tuple("abc"[:classes]), np.arange(n))


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.25])
def test_touches_exactly_the_asked_share_and_labels_only(flip: type[LabelFlip], rate: float):
    train = blobs()
    poisoned = flip(rate=rate)(train, seed=3)
    assert poisoned.mask.sum() == round(rate * len(train))
    assert np.array_equal(poisoned.train.y != train.y, poisoned.mask)
    assert np.array_equal(poisoned.train.x, train.x)
    assert np.array_equal(poisoned.train.rows, train.rows)
    assert np.array_equal(train.y, np.arange(90) % 3), "the original must stay as it was"


@pytest.mark.parametrize("flip", FLIPS)
def test_same_seed_same_flips(flip: type[LabelFlip]):
    train = blobs()
    assert np.array_equal(flip(rate=0.2)(train, 5).train.y, flip(rate=0.2)(train, 5).train.y)


@pytest.mark.parametrize("flip", [RandomFlip, TargetedFlip])
def test_another_seed_flips_other_rows(flip: type[LabelFlip]):
    train = blobs()
    assert not np.array_equal(flip(rate=0.2)(train, 5).mask, flip(rate=0.2)(train, 6).mask)


def test_random_flips_spread_evenly_over_rows_and_other_classes():
    train, hits, moves = blobs(30), np.zeros(30), np.zeros((3, 3))
    for seed in range(400):
        poisoned = RandomFlip(rate=0.2)(train, seed)
        hits += poisoned.mask
        np.add.at(moves, (train.y[poisoned.mask], poisoned.train.y[poisoned.mask]), 1)
    assert moves.trace() == 0
    assert np.abs(hits / 400 - 0.2).max() < 0.1, "5 standard errors"
    assert np.abs(moves[~np.eye(3, dtype=bool)] - 400).max() < 100, "5 standard errors"


def test_targeted_flips_go_from_source_to_target_only():
    poisoned = TargetedFlip(rate=0.1, source=2, target=1)(blobs())
    assert set(blobs().y[poisoned.mask]) == {2}
    assert set(poisoned.train.y[poisoned.mask]) == {1}


def test_targeted_flips_all_there_is_where_more_is_asked_for():
    train = blobs()
    poisoned = TargetedFlip(rate=0.9)(train)
    assert np.array_equal(poisoned.mask, train.y == 1)


def test_loss_ranked_flips_the_rows_farthest_on_their_own_side():
    x = np.array([[-9], [-5], [-1], [1], [5], [9.5]], np.float32)
    train = Split(x, np.array([0, 0, 0, 1, 1, 1]), Space(-10, 10), ("healthy", "ill"), np.arange(6))
    assert LossRankedFlip(rate=1 / 6)(train).mask.tolist() == [False] * 5 + [True]
    assert LossRankedFlip(rate=2 / 6)(train).train.y.tolist() == [1, 0, 0, 1, 1, 0]


def test_loss_ranked_flips_to_the_class_that_fits_least():
    poisoned = LossRankedFlip(rate=0.05)(blobs())
    assert set(zip(blobs().y[poisoned.mask], poisoned.train.y[poisoned.mask], strict=True)) <= {(0, 2), (2, 0)}


def test_clustered_flips_the_row_amid_another_class():
    train = blobs(60, classes=2)
    train.x[0] = [6, -3]  # a healthy row right in the centre of the ill ones
    assert np.flatnonzero(ClusteredFlip(rate=1 / 60, clusters=1)(train).mask).tolist() == [0]


def test_clustered_flips_hide_among_rows_of_the_new_label():
    train, _, _ = breast()
    x = (train.x - train.x.mean(0)) / train.x.std(0)

    def hidden(flip: LabelFlip) -> float:
        """Share of flipped rows most of whose 10 neighbors carry their new label."""
        poisoned = flip(train)
        distance = np.linalg.norm(x[poisoned.mask, None] - x, axis=2)
        near = distance.argsort(1)[:, 1:11]
        return ((train.y[near] == poisoned.train.y[poisoned.mask][:, None]).mean(1) > 0.5).mean()

    assert hidden(ClusteredFlip(rate=0.05)) > hidden(RandomFlip(rate=0.05)) + 0.2


def test_clustered_flips_to_the_nearest_other_class():
    poisoned = ClusteredFlip(rate=0.2)(blobs())
    before, after = blobs().y[poisoned.mask], poisoned.train.y[poisoned.mask]
    assert (np.abs(before - after) == 1).all(), "classes 0 and 2 do not touch"


def test_more_flips_never_help_and_targeted_ones_cost_recall():
    train, _, test = breast()

    def recall(flip: LabelFlip | None) -> float:
        runs = [flip(train, seed).train for seed in range(3)] if flip else [train]
        return np.mean([recall_score(test.y, _logistic(run).predict(_scaled(train, test))) for run in runs])

    def _scaled(fitted: Split, split: Split) -> np.ndarray:
        return (split.x - fitted.x.mean(0)) / fitted.x.std(0)

    def _logistic(run: Split) -> LogisticRegression:
        return LogisticRegression(max_iter=500).fit(_scaled(train, run), run.y)

    curve = [recall(None), *(recall(TargetedFlip(rate=rate)) for rate in (0.05, 0.15, 0.25))]
    assert all(low <= high for low, high in zip(curve[1:], curve, strict=False)), curve
    assert curve[-1] < curve[0] - 0.2
    assert recall(RandomFlip(rate=0.25)) > curve[-1] + 0.1, "random flips cost less recall than targeted ones"


def test_loss_ranked_flips_hurt_more_than_random_ones():
    train, _, test = breast()
    mean, std = train.x.mean(0), train.x.std(0)
    accuracy = {}
    for flip in (RandomFlip, LossRankedFlip):
        runs = [flip(rate=0.2)(train, seed).train for seed in range(3)]
        accuracy[flip] = np.mean([accuracy_score(test.y, LogisticRegression(max_iter=500).fit(
            (run.x - mean) / std, run.y).predict((test.x - mean) / std)) for run in runs])
    assert accuracy[LossRankedFlip] < accuracy[RandomFlip] - 0.05


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float):
    with pytest.raises(InputError, match="rate"):
        RandomFlip(rate=rate)


@pytest.mark.parametrize("attack", [TargetedFlip(source=3), TargetedFlip(target=-1), TargetedFlip(source=0)])
def test_classes_that_do_not_exist_or_coincide_are_refused(attack: TargetedFlip):
    with pytest.raises(InputError, match="class"):
        attack(blobs())


@pytest.mark.parametrize("flip", [LossRankedFlip, ClusteredFlip])
def test_what_holds_classes_against_each_other_refuses_a_single_one(flip: type[LabelFlip]):
    train = blobs()
    with pytest.raises(InputError, match="two classes"):
        flip()(train.take(train.y == 1))


@pytest.mark.parametrize("flip", [RandomFlip, TargetedFlip])
def test_rows_of_a_single_class_are_flipped_to_classes_that_others_hold(flip: type[LabelFlip]):
    train = blobs()
    poisoned = flip(rate=0.5)(train.take(train.y == 1))
    assert poisoned.mask.sum() == 15 and np.array_equal(poisoned.train.y != 1, poisoned.mask)
    assert set(poisoned.train.y[poisoned.mask]) == ({0, 2} if flip is RandomFlip else {0})


@dataclass(frozen=True)
class Shift(Backdoor):
    """A trigger that adds `by` to the first feature; some rows leave the space by it."""

    by: float = 40.0

    def trigger(self, train: Split, seed: int = 0):
        return lambda x: x + np.array([self.by, 0], np.float32)


def test_backdoor_relabels_triggered_rows_of_other_classes():
    train = blobs()
    poisoned = Shift(rate=0.2, target=2, by=5)(train, seed=1)
    mask = poisoned.mask
    assert mask.sum() == 18
    assert not (train.y[mask] == 2).any()
    assert (poisoned.train.y[mask] == 2).all()
    assert np.array_equal(poisoned.train.x[mask], train.x[mask] + np.float32([5, 0]))
    assert np.array_equal(poisoned.train.x[~mask], train.x[~mask])
    assert np.array_equal(poisoned.train.y[~mask], train.y[~mask])
    assert poisoned.target == 2
    assert np.array_equal(mask, Shift(rate=0.2, target=2, by=5)(train, seed=1).mask)
    assert not np.array_equal(mask, Shift(rate=0.2, target=2, by=5)(train, seed=2).mask)


def test_backdoor_leaves_rows_alone_that_would_become_impossible():
    train = blobs()
    poisoned = Shift(rate=0.9, by=44)(train)  # x up to 50 is possible, so only rows with x <= 6 qualify
    assert np.array_equal(poisoned.mask, (train.y != 0) & (train.x[:, 0] + np.float32(44) <= 50))
    assert 0 < poisoned.mask.sum() < (train.y != 0).sum()
    with pytest.raises(InputError, match="possible"):
        Shift(by=1000)(train)
    with pytest.raises(InputError, match="class 7"):
        Shift(target=7)(train)
