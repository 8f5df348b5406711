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

from privacy.exact_extraction import EquationSolving, TreePaths
from privacy.extraction import (
    JITTER,
    Copycat,
    JacobianAugmentation,
    KnockoffAdaptive,
    KnockoffRandom,
    SurrogateForest,
    _Bandit,
    questions,
    stepped,
)
from suite.attacks.art.border import art_fence, estimator_over
from suite.base.errors import InputError
from suite.core.classifier import Classifier, EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.post_training.answers import RoundedAnswers
from tabular import models as recipes
from tabular.schema import Column, Schema
from tests.support.breast import breast

ALL = (KnockoffRandom(), KnockoffAdaptive(epochs=40), Copycat(), JacobianAugmentation(epochs=40), SurrogateForest(),
       SurrogateForest(labels=True), EquationSolving())


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


@pytest.mark.parametrize("attack", [a for a in ALL if not isinstance(a, JacobianAugmentation)])
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


@pytest.mark.parametrize(("rows", "budget"), [(5, 0), (0, 5), (5, -1)])
@pytest.mark.parametrize("attack", [*ALL, TreePaths()])
def test_nothing_to_ask_is_an_error(attack, rows, budget):
    _, pool, _ = breast()
    with pytest.raises(InputError, match="rows to ask"):
        attack(lambda x: np.full((len(x), 2), 0.5), pool.take(slice(rows)), budget)


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


def disc(rows=300):
    """A model that says 1 inside a circle, which a thief of few rows cannot know; and rows of the plane."""
    x = np.random.default_rng(0).uniform(-1, 1, (rows, 2)).astype(np.float32)
    space = Space(-1.0, 1.0)

    class Circle:
        def predict_proba(self, z):
            p = 1 / (1 + np.exp(20 * ((z ** 2).sum(1) - 0.5)))
            return np.stack([1 - p, p], 1)

    return EstimatorClassifier(Circle(), 2, space), Split(x, np.zeros(rows, np.int64), space, ("out", "in"),
                                                         np.arange(rows))


class TestJacobianAugmentation:
    def test_more_rounds_copy_better_and_the_seed_rows_alone_do_not(self):
        victim, pool = disc()
        shares = [np.mean([fidelity(JacobianAugmentation(start=10)(victim.predict_proba, pool, budget, s), victim,
                                    pool.x) for s in range(2)]) for budget in (10, 160)]
        assert shares[1] > shares[0] + 0.05 and shares[1] > 0.85

    def test_a_step_goes_where_the_copy_is_surer_of_the_label_as_told_and_as_far_as_it_may(self):
        module = torch.nn.Linear(2, 2)
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, -2.0]]))
        space = Schema(columns={"Dose": Column(min=0, max=20, integer=True),
                                "Fixed": Column(min=0, max=9, change="never")}).space()
        x = np.float32([[10, 5], [10, 5], [20, 5]])
        copy, labels = TorchClassifier(module, 2, space), np.eye(2)[[1, 0, 1]]
        np.testing.assert_array_equal(stepped(copy, x, labels, 0.1), [[12, 5], [8, 5], [20, 5]])
        np.testing.assert_array_equal(stepped(copy, x, labels, -0.1), [[8, 5], [12, 5], [18, 5]])

    def test_needs_labels_only(self):
        victim, pool = disc()

        def labels(x):
            return np.eye(2)[victim.predict(x)]

        told, bare = (JacobianAugmentation(epochs=10)(query, pool, 40).predict_proba(pool.x)
                      for query in (victim.predict_proba, labels))
        np.testing.assert_array_equal(told, bare)


class TestKnockoffAdaptive:
    def test_the_bandit_comes_to_like_what_pays(self):
        rng, bandit, drawn = np.random.default_rng(0), _Bandit(4), []
        for _ in range(300):
            drawn.append(bandit.draw(rng, [True] * 4))
            bandit.reward(drawn[-1:], np.full((1, 3), float(drawn[-1] == 2)))
        assert bandit.chances().argmax() == 2 and np.mean(np.array(drawn[100:]) == 2) > 0.5

    def test_the_bandit_likes_nothing_where_all_pays_alike_and_draws_only_what_is_open(self):
        rng, bandit = np.random.default_rng(0), _Bandit(3)
        for _ in range(50):
            action = bandit.draw(rng, [True, False, True])
            assert action != 1
            bandit.reward([action], np.ones((1, 3)))
        np.testing.assert_allclose(bandit.chances(), 1 / 3)

    def test_no_row_is_asked_twice(self):
        victim, pool = disc(100)
        asked = []
        KnockoffAdaptive(epochs=5)(lambda x: asked.append(x.copy()) or victim.predict_proba(x), pool, 90)
        asked = np.concatenate(asked)
        assert len(asked) == 90 == len(np.unique(asked, axis=0))

    def test_art_asks_a_row_again_and_learns_from_labels_only(self):
        """Why we have a bandit of our own; besides, ART takes its actions from labels, which the thief lacks."""
        victim, pool = disc(20)
        asked = []
        with art_fence(0):
            art = KnockoffNets(estimator_over(lambda x: asked.append(x.copy()) or victim.predict_proba(x), (2,), 2),
                               nb_stolen=20, sampling_strategy="adaptive", reward="cert", use_probability=True,
                               nb_epochs=1, verbose=False)
            student, targets = thief(2), []
            fit = student.fit
            student.fit = lambda x, y, **more: targets.append(np.array(y)) or fit(x, y, **more)
            art.extract(pool.x, victim.predict(pool.x), thieved_classifier=student)
        assert len(np.unique(np.concatenate(asked), axis=0)) < 20
        assert set(np.concatenate(targets).ravel()) == {0.0, 1.0}


class TestTreePaths:
    def tree(self, schema, depth=3, rows=400, seed=0):
        """A tree of patients whose leaves all differ in their probabilities, and the patients."""
        rng, space = np.random.default_rng(seed), schema.space()
        low, high = space.lower.numpy(), space.upper.numpy()
        x = rng.uniform(low, high, (rows, len(low))).astype(np.float32)
        x[:, space.integer.numpy()] = x[:, space.integer.numpy()].round()
        for i, codes in space.values.items():
            x[:, i] = rng.choice(codes.numpy(), rows)
        y = rng.integers(0, 2, rows) ^ (x[:, 0] > (low[0] + high[0]) / 2)
        fit = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(x, y)

        class Distinct:
            tree_ = fit.tree_

            def predict_proba(self, z):
                inner = fit.predict_proba(z) + 1e-4 * fit.apply(z)[:, None] * [1, -1]
                return (inner + 1) / (inner + 1).sum(1, keepdims=True)

        return (EstimatorClassifier(Distinct(), 2, space),
                Split(x, np.zeros(rows, np.int64), space, ("well", "ill"), np.arange(rows)))

    WHOLE = Schema(columns={"Age": Column(min=18, max=90, integer=True, change="never"),
                            "Dose": Column(min=0, max=20, integer=True),
                            "Code": Column(min=0, max=9, values=(0, 3, 9))})
    MIXED = Schema(columns={"BMI": Column(min=10, max=60), "Age": Column(min=18, max=90, integer=True)})

    def test_a_tree_over_whole_numbers_and_codes_is_recovered_to_every_possible_patient(self):
        victim, pool = self.tree(self.WHOLE)
        victim.queries = 0
        copy = TreePaths()(victim.predict_proba, pool, 2000)
        asked = victim.queries
        everyone = np.stack(np.meshgrid(np.arange(18, 91), np.arange(21), [0, 3, 9]), -1).reshape(-1, 3)
        np.testing.assert_array_equal(copy.predict_proba(everyone), victim.predict_proba(everyone))
        assert asked < 60 and len(copy.estimator.answers) == (victim.estimator.tree_.feature < 0).sum()

    def test_thresholds_between_any_numbers_are_found_to_the_precision(self):
        victim, pool = self.tree(self.MIXED)
        copy = TreePaths(precision=16)(victim.predict_proba, pool, 2000)
        tree = victim.estimator.tree_
        for column, tolerance in ((0, 50 / 2 ** 16), (1, 0.5)):
            true = np.unique(tree.threshold[tree.feature == column])
            found = np.unique(copy.estimator.high[:, column])
            found = found[np.isfinite(found)]
            assert len(true) and np.abs(found[:, None] - true).min(0).max() <= tolerance

    def test_questions_are_counted_by_hand(self):
        """From 8: both ends, then 12, 10 and 11; the second leaf needs none, as all it touches is known."""
        space = Schema(columns={"Dose": Column(min=0, max=16, integer=True)}).space()
        asked = []

        def stump(x):
            asked.extend(x[:, 0].tolist())
            return np.where(x > 11.5, [[0.2, 0.8]], [[0.9, 0.1]])

        pool = Split(np.float32([[8]]), np.zeros(1, np.int64), space, ("a", "b"), np.arange(1))
        copy = TreePaths()(stump, pool, 100)
        assert asked == [8, 0, 16, 12, 10, 11]
        assert copy.predict(np.float32([[11], [12]])).tolist() == [0, 1]

    @pytest.mark.parametrize("budget", [1, 2, 7, 40])
    def test_never_asks_more_than_the_budget_and_answers_all_the_same(self, budget):
        victim, pool = self.tree(self.WHOLE, depth=5)
        victim.queries = 0
        copy = TreePaths()(victim.predict_proba, pool, budget)
        assert victim.queries == budget
        np.testing.assert_allclose(copy.predict_proba(pool.x).sum(1), 1)

    def test_more_answers_copy_more_of_the_tree(self):
        victim, pool = self.tree(self.MIXED, depth=5)
        shares = [np.mean([fidelity(TreePaths()(victim.predict_proba, pool, b, s), victim, pool.x) for s in range(5)])
                  for b in (5, 60, 3000)]
        assert shares[0] < shares[1] < shares[2] and shares[2] > 0.995

    def test_labels_alone_hide_the_tree(self):
        """Leaves of one label cannot be told apart: a line that ends as it began is thought to cross nothing."""
        victim, pool = self.tree(self.MIXED, depth=5)
        full, bare = (TreePaths()(query, pool, 3000) for query in (
            victim.predict_proba, lambda x: np.eye(2)[victim.predict(x)]))
        assert fidelity(bare, victim, pool.x) < fidelity(full, victim, pool.x)

    def test_a_line_of_pixels_is_as_good_as_columns(self):
        space = Space(0.0, 1.0)
        pool = Split(np.full((1, 1, 2, 2), 0.5, np.float32), np.zeros(1, np.int64), space, ("a", "b"), np.arange(1))
        copy = TreePaths()(lambda x: np.where(x[:, :, 1, 1] > 0.3, [[0.2, 0.8]], [[0.9, 0.1]]), pool, 100)
        assert copy.predict(np.float32([0.299, 0.301])[:, None, None, None] * np.ones((1, 1, 2, 2))).tolist() == [0, 1]
