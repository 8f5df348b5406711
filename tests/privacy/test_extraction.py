"""Model extraction: budgets to the row, a stump copied exactly, more answers a better copy, and ART's defects."""

import numpy as np
import pytest
import torch
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.estimators.classification import PyTorchClassifier, SklearnClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from privacy.extraction import JITTER, Copycat, EquationSolving, KnockoffRandom, SurrogateForest, questions
from suite.art import art_fence, estimator_over
from suite.classifier import Classifier, EstimatorClassifier, TorchClassifier
from suite.data import Split
from suite.defenses.answers import RoundedAnswers
from suite.errors import InputError
from suite.space import Space
from tabular import models as recipes
from tabular.schema import Column, Schema
from tests.breast import breast

ALL = (KnockoffRandom(), Copycat(), SurrogateForest(), SurrogateForest(labels=True), EquationSolving())


def fidelity(copy, victim, x):
    return (np.asarray(copy.predict_proba(x)).argmax(1) == victim.predict(x)).mean()


@pytest.fixture(scope="module")
def forest():
    train, _, _ = breast()
    return EstimatorClassifier(RandomForestClassifier(50, random_state=0).fit(train.x, train.y), 2, train.space)


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("budget", [1, 60, 250])
def test_asks_exactly_the_budget_and_only_possible_rows(attack, budget, forest):
    _, pool, _ = breast()
    asked = []

    def query(x):
        asked.append(x.copy())
        return forest.predict_proba(x)

    forest.queries = 0
    attack(query, pool, budget)
    asked = np.concatenate(asked)
    assert forest.queries == len(asked) == budget
    assert pool.space.possible(torch.from_numpy(asked)).all()


@pytest.mark.parametrize("attack", ALL)
def test_copies_a_real_model_better_with_more_answers(attack, forest):
    _, pool, test = breast()
    few, many = (np.mean([fidelity(attack(forest.predict_proba, pool, n, s), forest, test.x) for s in range(3)])
                 for n in (8, 114))
    assert few < many and many > 0.92


@pytest.mark.parametrize("attack", ALL)
def test_the_copy_is_a_classifier_and_the_same_seed_makes_the_same(attack, forest):
    _, pool, test = breast()
    first, again, other = (attack(forest.predict_proba, pool, 60, s).predict_proba(test.x) for s in (0, 0, 1))
    assert isinstance(attack(forest.predict_proba, pool, 5), Classifier)
    np.testing.assert_allclose(first.sum(1), 1, atol=1e-6)
    assert (first >= 0).all()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("labels", [False, True])
def test_a_stump_over_whole_numbers_is_copied_exactly(labels):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 20, (200, 3)).astype(np.float32)
    y = (x[:, 1] > 11).astype(np.int64)
    space = Space(0.0, 20.0)
    stump = EstimatorClassifier(DecisionTreeClassifier(max_depth=1).fit(x, y), 2, space)
    pool = Split(x[:120], np.zeros(120, np.int64), space, ("no", "yes"), np.arange(120))  # labels are never used
    copy = SurrogateForest(labels=labels)(stump.predict_proba, pool, 120)
    assert fidelity(copy, stump, x[120:]) == 1


def test_probabilities_teach_what_labels_do_not():
    """The victim is nearly sure of class 0 everywhere: its labels are all the same, its probabilities are not."""
    train, pool, test = breast()
    fit = make_pipeline(StandardScaler(), LogisticRegression()).fit(train.x, train.y)

    class Timid:
        def predict_proba(self, x):
            p = 0.4 * fit.predict_proba(x)[:, 1]
            return np.stack([1 - p, p], 1)

    victim = EstimatorClassifier(Timid(), 2, pool.space)
    truth = victim.predict_proba(test.x)[:, 1]

    def correlation(attack):
        copy = attack(victim.predict_proba, pool, 114).predict_proba(test.x)[:, 1]
        return 0.0 if np.ptp(copy) < 1e-9 else np.corrcoef(copy, truth)[0, 1]

    assert correlation(KnockoffRandom()) > 0.9 and correlation(SurrogateForest()) > 0.9
    assert correlation(SurrogateForest(labels=True)) == 0.0
    assert correlation(Copycat()) < correlation(KnockoffRandom()) - 0.05


def test_made_up_rows_stay_near_the_pool_and_inside_the_schema():
    schema = Schema(columns={"Age": Column(min=0, max=100, integer=True, change="never"),
                             "Dose": Column(min=0, max=10, integer=True), "BMI": Column(min=10, max=60)})
    space, rng = schema.space(), np.random.default_rng(0)
    x = np.stack([rng.integers(20, 80, 10), rng.integers(0, 10, 10), rng.uniform(15, 50, 10)], 1).astype(np.float32)
    pool = Split(x, np.zeros(10, np.int64), space, ("no", "yes"), np.arange(10))
    rows = questions(pool, 40, seed=0)
    assert rows.shape == (40, 3) and rows.dtype == np.float32
    assert {tuple(r) for r in rows[:10]} == {tuple(r) for r in x}
    assert space.possible(torch.from_numpy(rows)).all()
    scale = space.scale.numpy()
    nearest = np.abs((rows[:, None] - x[None]) / scale).max(2).min(1)
    assert nearest.max() <= JITTER + 1e-5 and len({tuple(r) for r in rows}) > 30
    few = questions(pool, 4, seed=0)
    np.testing.assert_array_equal(few, rows[:4])  # a larger budget contains the smaller


@pytest.mark.parametrize(("rows", "budget"), [(5, 0), (0, 5)])
def test_nothing_to_ask_is_an_error(rows, budget):
    _, pool, _ = breast()
    with pytest.raises(InputError, match="rows to ask"):
        questions(pool.take(slice(rows)), budget, 0)


def test_images_are_stolen_too():
    rng = np.random.default_rng(0)
    x = (rng.uniform(0.2, 0.8, (80, 1, 1, 1)) + rng.uniform(-0.2, 0.2, (80, 1, 4, 4))).astype(np.float32)

    def query(z):
        p = 1 / (1 + np.exp(-40 * (z.mean((1, 2, 3)) - 0.5)))
        return np.stack([1 - p, p], 1)

    pool = Split(x[:60], np.zeros(60, np.int64), Space(0.0, 1.0), ("dark", "bright"), np.arange(60))
    for attack in (KnockoffRandom(), SurrogateForest()):
        copy = attack(query, pool, 100)
        assert (copy.predict_proba(x[60:]).argmax(1) == query(x[60:]).argmax(1)).mean() >= 0.85


def thief(inputs=30, seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(inputs, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (inputs,), 2,
                             optimizer=torch.optim.Adam(net.parameters()), device_type="cpu")


def test_art_asks_fewer_rows_than_its_budget_and_ours_all(forest):
    _, pool, _ = breast()
    forest.queries = 0
    with art_fence(0):
        KnockoffNets(estimator_over(forest.predict_proba, (30,), 2), nb_stolen=250, batch_size_fit=64, nb_epochs=1,
                     verbose=False).extract(pool.x, thieved_classifier=thief())
    assert forest.queries == len(pool) == 114  # ours: test_asks_exactly_the_budget_and_only_possible_rows


def test_art_knockoff_throws_the_probabilities_away_and_ours_learns_from_them():
    victim = estimator_over(lambda x: np.tile(np.float32([0.7, 0.3]), (len(x), 1)), (30,), 2)
    x = np.zeros((4, 30), np.float32)
    assert set(KnockoffNets(victim)._query_label(x).ravel()) == {0.0, 1.0}  # its default; the paper learns from scores
    np.testing.assert_allclose(KnockoffRandom()._art(victim, {"nb_stolen": 4})._query_label(x), [[0.7, 0.3]] * 4)


def test_art_cannot_steal_into_trees_and_ours_can(forest):
    _, pool, _ = breast()
    with art_fence(0), pytest.raises((TypeError, ValueError)):
        CopycatCNN(estimator_over(forest.predict_proba, (30,), 2), nb_stolen=50).extract(
            pool.x, thieved_classifier=SklearnClassifier(RandomForestClassifier()))
    assert fidelity(SurrogateForest()(forest.predict_proba, pool, 50), forest, pool.x) > 0.85


class TestEquationSolving:
    @pytest.fixture
    def clinic(self):
        """A linear model of three classes in clinical units of very different size."""
        rng = np.random.default_rng(0)
        x = rng.normal([100, 0.5, 30], [30, 0.2, 7], (200, 3)).astype(np.float32)
        module = torch.nn.Linear(3, 3)
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[0.0, 0, 0], [0.03, -2.0, 0.1], [-0.01, 3.0, 0.05]]))
            module.bias.copy_(torch.tensor([0.0, -5.0, -2.0]))
        space = Space(-1000.0, 1000.0)
        pool = Split(x, np.zeros(200, np.int64), space, ("a", "b", "c"), np.arange(200))
        return TorchClassifier(module, 3, space), pool, module

    @pytest.mark.parametrize("budget", [4, 50])
    def test_a_linear_model_is_recovered_to_its_weights(self, clinic, budget):
        victim, pool, module = clinic
        copy = EquationSolving()(victim.predict_proba, pool, budget)
        np.testing.assert_allclose(copy.module[1].weight.detach(), module.weight.detach(), atol=1e-4)
        np.testing.assert_allclose(copy.module[1].bias.detach(), module.bias.detach(), atol=2e-3)
        np.testing.assert_allclose(copy.predict_proba(pool.x), victim.predict_proba(pool.x), atol=1e-4)

    def test_three_answers_are_too_few_and_rounded_ones_tell_less(self, clinic):
        victim, pool, _ = clinic
        few = EquationSolving()(victim.predict_proba, pool, 3)
        rounded = EquationSolving()(RoundedAnswers(1).wrap(victim, pool, pool).predict_proba, pool, 4)
        for copy in (few, rounded):
            assert np.abs(copy.predict_proba(pool.x) - victim.predict_proba(pool.x)).max() > 0.1

    def test_logistic_regression_of_real_patients_is_recovered(self):
        train, pool, test = breast()
        victim = recipes.LogisticRegression().fit(train, pool)
        copy = EquationSolving()(victim.predict_proba, pool, train.x.shape[1] + 1)
        assert fidelity(copy, victim, test.x) > 0.97
        assert fidelity(EquationSolving()(victim.predict_proba, pool, 100), victim, test.x) == 1.0
