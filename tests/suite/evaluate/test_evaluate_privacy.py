"""What is measured of privacy attacks, on models that remember all or nothing."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from suite.base.errors import InputError
from suite.core.attack import InversionAttack, MembershipAttack
from suite.core.classifier import Classifier, EstimatorClassifier
from suite.core.recipe import Recipe
from suite.evaluate import measure
from suite.models.artifacts import Fitted
from tests.support.toy import dataset, sheet, split, subject, value


@dataclass(frozen=True)
class Confidence(MembershipAttack):
    def __call__(self, classifier, known, x, y, seed=0):
        return classifier.predict_proba(x)[np.arange(len(y)), y]


class Memory(Classifier):
    """Is sure of the rows it has seen, if it remembers; else it is as sure of anyone by chance."""

    def __init__(self, seen, remembers):
        super().__init__(2, seen.space)
        self.table = {tuple(x): y for x, y in zip(seen.x.tolist(), seen.y.tolist(), strict=True)}
        self.remembers = remembers

    def _proba(self, x):
        out = []
        for row in x.tolist():
            sure = 0.95 if tuple(row) in self.table else 0.5 + 0.4 * (abs(row[0]) % 1)
            sure = sure if self.remembers else 0.5 + 0.4 * (abs(row[0] * 7) % 1)
            label = self.table.get(tuple(row), int(row[1] > 0))
            out.append([1 - sure, sure] if label else [sure, 1 - sure])
        return np.array(out)


class TestPrivacy:
    @pytest.fixture
    def people(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(800, 2))
        whole = split(x, (x[:, 1] > 0).astype(int))
        return dataset(whole.take(slice(500, 800)), whole.take(slice(400)), whole.take(slice(400, 500)))

    def test_a_model_that_memorises_gives_everyone_away(self, people):
        out = sheet()
        arrays = measure(Confidence(), subject(Memory(people.train, True), people), out)
        assert value(out, "membership_auroc") == 1.0 == value(out, "membership_advantage")
        assert value(out, "tpr_at_fpr[0.05]") == 1.0
        assert value(out, "resolvable_fpr") == pytest.approx(0.013, abs=5e-4)
        # 300 non-members do not say where one in a hundred of all lies above
        assert not [r for r in out.rows if r.metric in ("tpr_at_fpr[0.001]", "tpr_at_fpr[0.01]")]
        assert {r.subgroup for r in out.rows} == {"", "class=well", "class=ill", "site=north", "site=south"}
        assert value(out, "membership_auroc", subgroup="class=ill") == 1.0
        assert len(set(arrays["row"])) == 600 and set(arrays["row"][arrays["member"]]) <= set(people.train.rows)

    def test_a_model_that_does_not_gives_nothing(self, people):
        out = sheet()
        arrays = measure(Confidence(), subject(Memory(people.train, False), people), out)
        row = next(r for r in out.rows if r.metric == "membership_auroc")
        assert row.ci_low < 0.5 < row.ci_high and abs(row.value - 0.5) < 0.1
        assert arrays["member"].sum() == 300 == (~arrays["member"]).sum() and row.n == 600

    @pytest.mark.parametrize("remembers", [True, False])
    def test_members_cannot_be_told_from_members(self, people, remembers):
        out = sheet()
        measure(Confidence(), subject(Memory(people.train, remembers), people), out)
        null = next(r for r in out.rows if r.metric == "membership_null")
        assert null.ci_low < 0.5 < null.ci_high and null.n == 300

    def test_scored_rows_are_not_among_those_the_attacker_knows(self, people):
        @dataclass(frozen=True)
        class Check(MembershipAttack):
            def __call__(self, classifier, known, x, y, seed=0):
                told = {tuple(r) for s in (known.members, known.others) for r in s.x.tolist()}
                assert not told & {tuple(r) for r in x.tolist()}
                assert len(x) == 40 and len(known.members) == 380 and len(known.others) == 100
                return np.zeros(len(x))

        out = sheet()
        measure(Check(), subject(Memory(people.train, True), people), out, rows=20)
        assert value(out, "membership_auroc") == 0.5 and value(out, "membership_advantage") == 0.0

    def test_validation_rows_that_a_pre_trained_model_learned_from_are_no_non_members(self, people):
        """Where a table declares training and test rows only, validation rows were drawn from the training rows."""
        told = []

        @dataclass(frozen=True)
        class Note(Confidence):
            def __call__(self, classifier, known, x, y, seed=0):
                told.append((set(known.others.rows), {tuple(row) for row in x.tolist()}))
                return super().__call__(classifier, known, x, y, seed)

        declared = replace(people, declared=("train", "test"))
        for recipe in (Fitted(None), None):
            measure(Note(), subject(Memory(people.train, True), declared, recipe), sheet())
        (others, scored), (usual, _) = told
        assert others and others <= set(people.test.rows) and usual <= set(people.val.rows)
        position = {row: i for i, row in enumerate(people.test.rows.tolist())}
        assert not {tuple(people.test.x[position[row]].tolist()) for row in others} & scored

    def test_one_row_of_each_patient_is_scored_and_the_attacker_knows_none_of_the_others(self, people):
        four = np.arange(400) // 4
        data = replace(people, train=replace(people.train, patients=four),
                       test=replace(people.test, patients=1000 + np.arange(300) // 3))

        @dataclass(frozen=True)
        class Check(MembershipAttack):
            def __call__(self, classifier, known, x, y, seed=0):
                of = dict(zip(map(tuple, data.train.x.tolist()), four.tolist(), strict=True))
                scored = [of[r] for r in map(tuple, x[:60].tolist())]
                assert len(set(scored)) == 60
                assert not set(scored) & {of[r] for r in map(tuple, known.members.x.tolist())}
                assert len(known.members) == 40  # one of each patient that is left
                return np.zeros(len(x))

        measure(Check(), subject(Memory(data.train, True), data), sheet(), rows=60)

    def test_test_rows_that_were_trained_on_are_no_others(self, people):
        twice = replace(people, test=people.test.with_data(
            np.concatenate([people.train.x[:100], people.test.x[100:]]), people.test.y))
        arrays = measure(Confidence(), subject(Memory(people.train, True), twice), sheet())
        assert (~arrays["member"]).sum() == 200 and not set(arrays["row"][~arrays["member"]]) & set(range(500, 600))
        most = replace(people, test=people.test.with_data(
            np.concatenate([people.train.x[:200], people.test.x[200:]]), people.test.y))
        with pytest.raises(InputError, match="200 of 300 rows outside the training split"):
            measure(Confidence(), subject(Memory(people.train, True), most), sheet())

    def test_test_patients_with_rows_in_the_training_split_are_no_others(self, people):
        mixed = replace(people, train=replace(people.train, patients=np.arange(400)),
                        test=replace(people.test, patients=np.arange(300) + 350))  # the first fifty are known
        arrays = measure(Confidence(), subject(Memory(people.train, True), mixed), sheet())
        assert (~arrays["member"]).sum() == 250 and not set(arrays["row"][~arrays["member"]]) & set(range(500, 550))

    def test_the_plan_limits_the_rows(self, people):
        arrays = measure(Confidence(), subject(Memory(people.train, True), people, rows=30), sheet())
        assert arrays["member"].sum() == 30
        arrays = measure(Confidence(), subject(Memory(people.train, True), people, rows=30), sheet(), rows=20)
        assert arrays["member"].sum() == 20

    def test_scores_that_are_not_finite_are_refused(self, people):
        class Blind(MembershipAttack):
            def __call__(self, classifier, known, x, y, seed=0):
                return np.full(len(x), np.nan)

        with pytest.raises(InputError, match="Blind gave 600 scores that are not finite"):
            measure(Blind(), subject(Memory(people.train, True), people), sheet())

    def test_inversion_is_told_against_knowing_the_mean_patient(self, people):
        @dataclass(frozen=True)
        class Perfect(InversionAttack):
            def __call__(self, classifier, start, seed=0):
                assert np.allclose(start, people.train.x.mean(0))
                return np.stack([people.train.x[people.train.y == k].mean(0) for k in range(2)])

        out = sheet()
        arrays = measure(Perfect(), subject(Memory(people.train, True), people, Fitted(None)), out)
        assert list(arrays) == ["reconstructions"]  # a table has no pictures
        assert not [r for r in out.rows if "recognized" in r.metric or "evaluator" in r.metric]  # it cannot be trained
        for name, k in (("well", 0), ("ill", 1)):
            centre = people.train.x[people.train.y == k].mean(0)
            apart = np.sqrt(((people.train.x.mean(0) - centre) ** 2).mean())
            assert value(out, f"inversion_distance[{name}]") == pytest.approx(0, abs=1e-6)
            assert value(out, f"inversion_prior_distance[{name}]") == pytest.approx(apart, rel=1e-4)

    def test_a_model_of_the_test_patients_judges_the_reconstructions(self, people):
        @dataclass(frozen=True)
        class Asks(Recipe):
            """Trains a model that finds those ill whose first column is above 5."""

            def fit(self, train, val, seed=0, device="cpu"):
                assert train is people.test and val is people.val and seed == 1
                return EstimatorClassifier(First(), 2, train.space, recipe=self)

        class First:
            def predict_proba(self, x):
                p = (x[:, 0] > 5) * 0.9 + 0.05
                return np.stack([1 - p, p], 1)

        @dataclass(frozen=True)
        class Far(InversionAttack):
            def __call__(self, classifier, start, seed=0):
                return np.float32([[0, 0], [9, 0]])

        out = sheet()
        measure(Far(), subject(Memory(people.train, True), people, Asks()), out)
        assert value(out, "inversion_recognized[well]") == pytest.approx(0.95)
        assert value(out, "inversion_recognized[ill]") == pytest.approx(0.95)
        assert value(out, "inversion_prior_recognized[ill]") == pytest.approx(0.05)  # of the mean of all
        assert value(out, "inversion_evaluator_accuracy") == pytest.approx(np.mean(people.train.y == 0))

    def test_attribute_inference_is_told_as_gain_over_imputation(self, people):
        from suite.core.attack import AttributeAttack

        @dataclass(frozen=True)
        class Knows(AttributeAttack):
            """Always right about the first column; no better than imputation about the second."""

            def __call__(self, classifier, known, victims, column, seed=0):
                truth = (victims.x[:, column] > np.median(known.x[:, column])).astype(np.int64)
                base = np.zeros_like(truth)
                return (truth if column == 0 else base), base

        out = sheet()
        measure(Knows(), subject(Memory(people.train, True), people), out)
        gain = {r.attack_params["column"]: r.value for r in out.rows if r.metric == "attribute_gain"}
        base = {r.attack_params["column"]: r.value for r in out.rows if r.metric == "attribute_baseline"}
        assert gain["a"] == pytest.approx(1 - base["a"]) and gain["b"] == 0.0
