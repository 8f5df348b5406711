"""PATE: votes and sensitivity counted by hand, its noise against the closed form, and an audit of it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.neighbors import KNeighborsClassifier

from privacy.canaries import OneRunAudit
from suite.base.errors import InputError
from suite.core.classifier import EstimatorClassifier
from suite.core.data import Split
from suite.core.recipe import Recipe
from suite.core.space import Space
from suite.defenses.private.pate import PATE, dealt
from tabular.data import from_csv
from tabular.models import RandomForest, XGBoost

FOREST, DEEP = RandomForest(trees=8), RandomForest(trees=8, depth=None)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def rows(n, seed, classes=2, patients=None):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = np.clip((y[:, None] + 0.5) / classes + rng.normal(0, 0.08, (n, 3)), 0, 1)
    return Split(x.astype(np.float32), y, Space(0.0, 1.0), tuple("abcd"[:classes]), np.arange(n), patients=patients)


TRAIN, PUBLIC, TEST = rows(400, 0), rows(60, 1), rows(300, 2)


@dataclass(frozen=True)
class Seen(Recipe):
    """Says of everyone the label of the first row it was given, and remembers what it was given."""

    def fit(self, train, val, seed=0, device="cpu"):
        GIVEN.append((train, val, seed))
        return EstimatorClassifier(Constant(int(train.y[0]), len(train.classes)), len(train.classes), train.space)


class Constant:
    def __init__(self, label, classes):
        self.p = np.eye(classes)[label]

    def predict_proba(self, x):
        return np.broadcast_to(self.p, (len(x), self.p.shape[-1]))


GIVEN: list = []


# ---- sensitivity


@dataclass(frozen=True)
class Nearest(Recipe):
    """The label of the nearest row: each row decides somewhere."""

    def fit(self, train, val, seed=0, device="cpu"):
        return EstimatorClassifier(KNeighborsClassifier(1).fit(train.x, train.y), len(train.classes), train.space)


@pytest.mark.parametrize("patients", [None, np.arange(400) // 3])
def test_a_row_more_changes_one_vote_a_question(patients):
    chance = np.random.default_rng(9).integers(0, 2, 400)
    train, pate = replace(TRAIN, y=chance, patients=patients), PATE(teachers=9)
    full = pate.votes(Nearest(), train, PUBLIC.x, 0)
    assert (full.sum(1) == 9).all()
    moved = np.stack([np.linalg.norm(full - pate.votes(Nearest(), train.take(np.arange(400) != i), PUBLIC.x, 0), axis=1)
                      for i in range(30)])
    assert set(np.unique(moved)) == {0.0, 2**0.5}


def test_parts_are_even_follow_the_seed_and_keep_patients_together():
    part = dealt(TRAIN, 5, 0)
    assert np.bincount(part, minlength=5).min() > 50
    assert np.array_equal(dealt(TRAIN.take(slice(None, None, -1)), 5, 0), part[::-1])
    assert (dealt(TRAIN, 5, 1) != part).mean() > 0.6
    people = replace(TRAIN, patients=np.arange(400) // 4)
    together = dealt(people, 5, 0).reshape(100, 4)
    assert (together == together[:, :1]).all() and len(np.unique(together)) == 5


def test_each_row_is_known_to_one_teacher_and_no_validation_label_to_anybody():
    GIVEN.clear()
    PATE(epsilon=8.0, teachers=4, questions=60)(Seen(), TRAIN, PUBLIC, 3)
    *teachers, (student, stopped, seed) = GIVEN
    assert sorted(np.concatenate([t.rows for t, _, _ in teachers])) == list(range(400))
    assert all(v is t for t, v, _ in teachers) and stopped is student and seed == 3
    assert len({s for *_, s in teachers}) == 4
    assert len(student) == 60 and set(student.rows) == set(PUBLIC.rows)
    first = student
    GIVEN.clear()
    PATE(epsilon=8.0, teachers=4, questions=60)(Seen(), TRAIN, replace(PUBLIC, y=1 - PUBLIC.y), 3)
    assert np.array_equal(GIVEN[-1][0].y, first.y)


def test_teachers_without_a_choice():
    """One knows a class only, another has nobody: the former votes for it, the latter for none."""
    few = rows(5, 0, classes=3)
    counts = PATE(teachers=40).votes(XGBoost(trees=2), few, PUBLIC.x, 0)
    assert (counts.sum(1) == len(np.unique(dealt(few, 40, 0)))).all()
    assert (counts == counts[0]).all() and (counts[0] <= np.bincount(few.y, minlength=3)).all()
    # a class that a teacher lacks is no gap in what its learner is given
    gap = few.with_data(few.x, np.array([0, 2, 0, 2, 2]))
    assert PATE(teachers=2).votes(XGBoost(trees=2), gap, PUBLIC.x, 0)[:, 1].sum() == 0


# ---- noise


def test_noise_is_that_of_the_closed_form(monkeypatch):
    """n questions of L2 sensitivity sqrt(2) are one Gaussian mechanism with mu = sqrt(2 n) / noise."""
    drawn = []

    class Listening:
        def __init__(self, *seed):
            self.rng = GENERATOR(*seed)

        def normal(self, mean, spread, shape):
            drawn.append(spread)
            return self.rng.normal(mean, spread, shape)

        def permutation(self, n):
            return self.rng.permutation(n)

    GENERATOR = np.random.default_rng
    monkeypatch.setattr("suite.defenses.private.pate.np.random.default_rng", Listening)
    GIVEN.clear()
    student = PATE(epsilon=8.0, teachers=4, questions=60)(Seen(), TRAIN, PUBLIC)
    spread, = drawn
    mu, delta = (2 * 60) ** 0.5 / spread, student.notes["delta"]
    exact = norm.cdf(mu / 2 - 8 / mu) - np.exp(8) * norm.cdf(-mu / 2 - 8 / mu)
    assert delta == 1e-3 and 0.8 * delta < exact <= delta
    assert 7.8 < student.notes["epsilon_claimed"] <= 8.0
    assert student.notes["epsilon_independent"] == pytest.approx(student.notes["epsilon_claimed"], rel=0.02)
    assert (student.notes["steps"], student.notes["sample_rate"]) == (60, 1.0)


@pytest.mark.parametrize(("epsilon", "teachers", "least", "most"), [(8.0, 100, 1.0, 1.0), (1.0, 10, 0.45, 0.85)])
def test_labels_of_many_unanimous_teachers_are_right_and_noise_outvotes_few(epsilon, teachers, least, most):
    """At 8, noise has a standard deviation of 6 votes and a lead of 100 is sure; at 1, of 29 votes."""
    both = np.arange(60) % 2

    @dataclass(frozen=True)
    class Knows(Recipe):
        def fit(self, train, val, seed=0, device="cpu"):
            GIVEN.append((train, val, seed))
            return EstimatorClassifier(Constant(both, 2), 2, train.space)

    GIVEN.clear()
    PATE(epsilon=epsilon, teachers=teachers, questions=60)(Knows(), TRAIN, PUBLIC)
    assert least <= (GIVEN[-1][0].y == both).mean() <= most


def test_a_student_that_is_told_of_one_class_only_is_refused():
    well = TRAIN.with_data(TRAIN.x, np.zeros(400))
    with pytest.raises(InputError, match="none of 60 answers is 'b'"):
        PATE(epsilon=8.0, teachers=100, questions=60)(FOREST, well, PUBLIC)


# ---- a whole training


@pytest.mark.parametrize("recipe", [FOREST, XGBoost(trees=10)])
def test_trees_learn_from_votes_and_the_seed_decides_everything(recipe):
    pate = PATE(epsilon=8.0, teachers=30, questions=60)
    student = pate(recipe, TRAIN, PUBLIC)
    assert (student.predict(TEST.x) == TEST.y).mean() > 0.85
    assert np.array_equal(pate(recipe, TRAIN, PUBLIC).predict_proba(TEST.x), student.predict_proba(TEST.x))
    assert not np.array_equal(pate(recipe, TRAIN, PUBLIC, 1).predict_proba(TEST.x), student.predict_proba(TEST.x))


def test_an_audit_takes_it_at_its_word_and_refutes_it_without_noise(monkeypatch):
    def audit(seed):
        def retrain(train, other):
            return pate(DEEP, train, PUBLIC, other)

        return OneRunAudit(canaries=200, shares=(0.5,))(retrain, retrain(TRAIN, seed), TRAIN, TEST, seed)

    pate = PATE(epsilon=1.0, teachers=10, questions=60)
    found = audit(0)
    assert found.refuted is False and found.epsilon < found.model.notes["epsilon_claimed"] <= 1.0

    def remembers(self, recipe, train, val, seed=0, device="cpu"):
        model = DEEP.fit(train, val, seed)
        model.notes |= found.model.notes
        return model

    monkeypatch.setattr(PATE, "__call__", remembers)
    broken = audit(0)
    assert broken.refuted is True and broken.epsilon > 1.0


@pytest.mark.parametrize(("wrong", "named"), [
    ({"epsilon": 0.0}, "epsilon"), ({"delta": 1.0}, "delta"), ({"teachers": 1}, "teachers"),
    ({"questions": 0}, "question")])
def test_refuses_what_it_cannot_promise(wrong, named):
    with pytest.raises(InputError, match=named):
        PATE(**wrong)


def test_a_patient_more_at_the_top_of_the_file_changes_no_other_teacher(tmp_path):
    """Patients were numbered by appearance, so that one more in front sent the rows of all others to other teachers."""
    def train(name, first):
        lines = [f"p{k // 2},{k},{k % 2},{('train', 'train', 'train', 'test')[k // 2 % 4]}" for k in range(80)]
        path = tmp_path / name
        path.write_text("\n".join(["who,a,y,part", *first, *lines]))
        return from_csv(path, "y", group="who", split="part", positive="1").train

    def teachers(split):
        part = dealt(split, 5, 0)
        return dict(zip(split.x[:, 0].tolist(), part.tolist(), strict=True))

    # their rows are drawn from for validation, too, where the file does not say
    less, more = teachers(train("less.csv", [])), teachers(train("more.csv", ["new,90,1,train", "new,91,0,train"]))
    common = less.keys() & more.keys()
    assert len(common) > 30 and len({*less.values()}) == 5
    assert all(less[row] == more[row] for row in common)
