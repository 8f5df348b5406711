"""What is measured of an evasion attack, on models whose answers are known in closed form."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from suite.attacks.fab import FAB
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.minimal import DeepFool
from suite.attacks.noise import RandomNoise
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.attack import Attack, Certified, CertifiedAttack, EvasionAttack
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from suite.evaluate import measure, measure_clean
from suite.evaluate.worst_case import Part, measure_worst_case, withstood
from tests.support.toy import BUDGETS, Majority, dataset, sheet, split, subject, value


@dataclass(frozen=True)
class Turned(EvasionAttack):
    """Has a budget that is no norm."""

    unit: ClassVar[str] = "degrees"

    def __call__(self, classifier, x, y, seed=0):
        return x


@pytest.fixture
def line():
    """The sign of the first feature, and rows 0.0, 0.01 ... 0.99 away from the threshold: row i falls to i/100."""
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    y = np.arange(100) % 2
    x = np.stack([(np.arange(100) / 100 + 0.005) * np.where(y == 1, 1, -1), np.zeros(100)], 1)
    return subject(TorchClassifier(module, 2, Space(-10.0, 10.0)), dataset(split(x, y)))


class TestEvasion:
    @pytest.mark.parametrize("attack", [PGD(steps=20), FGSM()])
    def test_robust_accuracy_of_a_line_is_known_at_every_budget(self, line, attack):
        out = sheet()
        arrays = measure(attack, line, out)
        for eps in BUDGETS:
            assert value(out, "robust_accuracy", eps) == pytest.approx(1 - eps, abs=1e-6)
            assert value(out, "attack_success_rate", eps) == pytest.approx(eps, abs=1e-6)
        row = next(r for r in out.rows if r.metric == "robust_accuracy" and r.attack_params["eps"] == 0.1)
        assert row.n == 100 and row.ci_low < row.value < row.ci_high
        # each fooled row keeps the least budget that fooled it
        assert np.array_equal(arrays["distance"] <= 0.1 + 1e-5, np.arange(100) < 10)
        # and those within the main one are kept as the attack left them
        assert arrays["kept"].tolist() == list(range(10))
        assert (line.classifier.predict(arrays["x_adv"]) != line.data.test.y[:10]).all()

    def test_of_large_inputs_some_successes_are_kept_and_of_the_same_rows_for_every_attack(self, line, monkeypatch):
        monkeypatch.setattr("suite.evaluate.subject.HELD_ROWS", 4)
        monkeypatch.setattr("suite.evaluate.subject.HELD_VALUES", 40)  # of two features: 20 rows
        assert line.held == 20
        kept = {n: measure(a, line, sheet()) for n, a in (("pgd", PGD(eps=0.4, steps=20)), ("fgsm", FGSM(eps=0.4)))}
        least = measure(FGSM(), line, sheet(), rows=50)
        room = set(line.positions(20))
        for arrays in (*kept.values(), least):
            assert len(arrays["x_adv"]) == len(arrays["kept"])
            assert set(arrays["positions"][arrays["kept"]]) == room & set(range(10)) & set(arrays["positions"])
            part = Part("x", FGSM(), arrays)
            x, clean = part.inputs(line.data.test.x, 30), line.data.test.x[arrays["positions"][:30]]
            moved = np.flatnonzero((x != clean).any(1))
            assert set(moved) == {k for k in arrays["kept"] if k < 30} and len(x) == 30

    def test_what_success_looks_like_at_the_main_budget(self, line):
        out = sheet()
        measure(PGD(steps=20), line, out)
        assert value(out, "attacked_accuracy") == 0.9 == value(out, "attacked_sensitivity")
        assert value(out, "median_perturbation") <= 0.1 + 1e-5
        assert value(out, "features_changed") in (1.0, 2.0)
        north, south = (value(out, "robust_accuracy", 0.1, f"site={s}") for s in ("north", "south"))
        assert (north + south) / 2 == pytest.approx(0.9)

    def test_scores_under_attack_are_those_of_all_rows_pushed_as_far_as_it_goes(self, line):
        out = sheet()
        measure(PGD(steps=20), line, out)
        margin = np.arange(100) / 100 + 0.005 - 0.1  # towards the right side
        ill, well = margin[1::2], -margin[::2]
        assert value(out, "attacked_auroc") == pytest.approx(np.mean(ill[:, None] > well), abs=0.005)
        spent = replace(line, budgets=(0.1,))
        out = sheet()
        measure(PGD(steps=20), spent, out)
        assert value(out, "gradients") < 20  # the figures of cost are those of the attack alone

    @pytest.mark.parametrize("attack", [FGSM(), DeepFool(), FAB()])
    def test_who_stops_at_the_border_says_nothing_of_scores(self, line, attack):
        out = sheet()
        measure(attack, line, out)
        assert not {r.metric for r in out.rows} & {"attacked_auroc", "attacked_calibration_error"}
        assert value(out, "attacked_accuracy") == pytest.approx(0.9)

    def test_rows_that_were_wrong_already_are_not_attacked_and_not_successes(self, line):
        test = line.data.test
        flipped = test.with_data(test.x, np.where(np.arange(100) < 20, 1 - test.y, test.y))
        out, seen = sheet(), []

        @dataclass(frozen=True)
        class Watch(PGD):
            def __call__(self, classifier, x, y, seed=0):
                if self.early_stop:  # not for the scores under attack, which are those of all rows
                    seen.append(len(x))
                return super().__call__(classifier, x, y, seed)

        measure(Watch(), replace(line, data=dataset(flipped)), out)
        assert seen[0] == 80 and seen == sorted(seen, reverse=True)
        assert value(out, "robust_accuracy", 0.1) == pytest.approx(0.8)  # rows of margin up to 0.1 were wrong anyway
        assert value(out, "attack_success_rate", 0.1) == 0.0
        assert value(out, "attack_success_rate", 0.4) == pytest.approx(20 / 80)

    def test_fooled_at_a_small_budget_is_fooled_at_every_larger_one(self, line):
        @dataclass(frozen=True)
        class OnlySmall(EvasionAttack):
            """Succeeds at the least budget and never again."""

            def __call__(self, classifier, x, y, seed=0):
                return FGSM(eps=self.eps)(classifier, x, y) if self.eps < 0.06 else x

        out = sheet()
        measure(OnlySmall(), line, out)
        assert [value(out, "robust_accuracy", e) for e in BUDGETS] == pytest.approx([0.95] * 4)

    @pytest.mark.parametrize("far", [1.01, 3])
    def test_a_result_beyond_the_budget_does_not_count(self, line, far):
        @dataclass(frozen=True)
        class Cheat(EvasionAttack):
            def __call__(self, classifier, x, y, seed=0):
                return FGSM(eps=far * self.eps)(classifier, x, y)

        out = sheet()
        measure(Cheat(), line, out)
        assert [value(out, "robust_accuracy", e) for e in BUDGETS] == [1.0] * 4

    @pytest.mark.parametrize("rows", [None, 50])
    def test_with_a_target_only_others_are_attacked_and_only_the_target_counts(self, line, rows):
        out = sheet()
        arrays = measure(PGD(steps=20, target=1), line, out, rows)
        well = line.positions(rows)[line.positions(rows) % 2 == 0]
        assert (arrays["positions"] == well).all() and len(arrays["distance"]) == len(well)
        row, = (r for r in out.rows if (r.metric, r.subgroup, r.attack_params["eps"]) == ("robust_accuracy", "", 0.2))
        assert (row.n, row.value) == (len(well), np.mean(well >= 20))

    def test_another_wrong_label_than_the_target_is_no_success(self):
        module = nn.Linear(1, 3, bias=False)  # 0 below zero, 1 a little above it, and never 2
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[-1.0], [1.0], [0.0]]))
        data = dataset(split(np.full((10, 1), -0.05), np.zeros(10, int)))
        terms = subject(TorchClassifier(module, 3, Space(-1.0, 1.0)), data, budgets=(0.1,))

        @dataclass(frozen=True)
        class Other(EvasionAttack):
            target: int | None = None

            def __call__(self, classifier, x, y, seed=0):
                return -x

        with pytest.raises(InputError, match="every test row bears label 0"):
            measure(Other(target=0), terms, sheet())
        for goal, robust in ((None, 0.0), (1, 0.0), (2, 1.0)):
            out = sheet()
            measure(Other(target=goal), terms, out)
            assert value(out, "robust_accuracy", 0.1) == robust

    def test_a_result_that_is_no_possible_input_is_an_error(self, line):
        @dataclass(frozen=True)
        class Outside(EvasionAttack):
            def __call__(self, classifier, x, y, seed=0):
                return x + 100

        with pytest.raises(AssertionError, match="Outside left the space"):
            measure(Outside(), line, sheet())

    def test_certified_bounds_become_rows(self, line):
        @dataclass(frozen=True)
        class Exact(CertifiedAttack):
            def search(self, classifier, x, y, seed=0):
                gap = np.abs(x[:, 0].double().numpy())
                reach = gap < self.eps
                z = torch.where(torch.from_numpy(reach)[:, None], torch.stack([-0.001 * x[:, 0].sign(), x[:, 1]], 1), x)
                return Certified(z, np.minimum(gap, self.eps), np.where(reach, gap + 0.001, np.inf),
                                 np.where(np.arange(len(gap)) < 3, "clock", ""))

        out = sheet()
        arrays = measure(Exact(), line, out)
        for eps in BUDGETS:
            assert value(out, "certified_accuracy", eps) == pytest.approx(1 - eps, abs=0.011)
            assert value(out, "certified_accuracy", eps) <= value(out, "robust_accuracy", eps)
        assert {"lower", "upper"} <= arrays.keys()
        assert value(out, "cut_by_nodes") == 0 and value(out, "cut_by_clock") == pytest.approx(3 / 100)
        assert value(out, "solved") == 0.6  # beyond the greatest budget the bound is as far as it looked

    def test_a_lower_bound_equal_to_the_budget_is_no_proof_at_it(self, line):
        @dataclass(frozen=True)
        class AtTheBudget(CertifiedAttack):
            """Knows of the first half that a witness lies at 0.3, and of all that none lies nearer than 0.1."""

            def search(self, classifier, x, y, seed=0):
                half = np.arange(len(x)) < len(x) // 2
                return Certified(x, np.full(len(x), 0.1), np.where(half, 0.3, np.inf), np.full(len(x), ""))

        out = sheet()
        measure(AtTheBudget(), replace(line, budgets=(0.05, 0.1)), out)
        assert value(out, "certified_accuracy", 0.05) == 1.0
        # an attack within 0.1 may succeed at 0.1 itself; where the search ended there with nothing, it cannot
        assert value(out, "certified_accuracy", 0.1) == 0.5

    def test_queries_are_counted_for_the_attack_alone(self, line):
        out = sheet()
        measure(FGSM(), replace(line, budgets=(0.1,)), out)
        row = next(r for r in out.rows if r.metric == "robust_accuracy")
        assert row.queries == 1.0 and value(out, "gradients") == 1.0  # one pass a row; checking is not counted

    def test_fewer_rows_are_the_same_rows_for_every_attack(self, line):
        some, more = line.positions(10), line.positions(50)
        assert len(some) == 10 and set(some) <= set(more)
        assert (replace(line, rows=10).positions() == some).all() and len(line.positions()) == 100
        out = sheet()
        assert (measure(FGSM(), line, out, rows=10)["positions"] == some).all()
        assert out.rows[0].n == 10

    def test_noise_fools_fewer_than_an_attack(self, line):
        noisy, aimed = sheet(), sheet()
        parts = [Part("noise", RandomNoise(draws=1), measure(RandomNoise(draws=1, edge=False), line, noisy)),
                 Part("fgsm", FGSM(), measure(FGSM(), line, aimed))]
        assert value(noisy, "robust_accuracy", 0.1) > value(aimed, "robust_accuracy", 0.1)
        out = sheet()
        measure_worst_case(line, out, parts)
        assert value(out, "lift[fgsm]") == pytest.approx(
            value(noisy, "robust_accuracy", 0.1) - value(aimed, "robust_accuracy", 0.1))

    def test_what_a_model_refuses_is_not_fooled(self):
        class Guarded(nn.Module):
            def forward(self, x):  # refuses whatever is not where it was
                return torch.stack([-x[:, 0], x[:, 0], 100 * (x[:, 1].abs() - 0.01)], 1)

        y = np.arange(20) % 2
        x = np.stack([np.where(y == 1, 0.05, -0.05), np.zeros(20)], 1)
        model = TorchClassifier(Guarded(), 2, Space(-1.0, 1.0), rejects=True)

        @dataclass(frozen=True)
        class Corner(EvasionAttack):
            side: float = 0.0

            def __call__(self, classifier, x, y, seed=0):
                return torch.stack([-x[:, 0], x[:, 1] + self.side], 1)

        for side, robust in ((0.0, 0.0), (0.1, 1.0)):
            out = sheet()
            measure(Corner(side=side), subject(model, dataset(split(x, y)), budgets=(0.1,)), out)
            assert value(out, "robust_accuracy", 0.1) == robust


class TestWorstCase:
    def part(self, name, positions, fooled, attack=None):
        """A finished cell in which some rows were fooled at 0.1."""
        at = np.where(np.isin(positions, fooled), 0.1, np.inf)
        return Part(name, attack or FGSM(), {"positions": np.array(positions), "linf": at, "distance": at})

    @pytest.fixture
    def tree(self):
        class Right:
            def predict_proba(self, x):
                p = (x[:, 0] > 0) * 0.8 + 0.1
                return np.stack([1 - p, p], 1)

        y = np.arange(10) % 2
        x = np.stack([np.where(y == 1, 1.0, -1.0), np.zeros(10)], 1)
        return subject(EstimatorClassifier(Right(), 2, Space(-9.0, 9.0)), dataset(split(x, y)))

    def test_every_row_meets_the_attack_that_suits_it_best(self, tree):
        parts = [self.part("a", range(10), [0, 1, 2]), self.part("b", range(10), [2, 3]),
                 self.part("noise", range(10), [4], RandomNoise())]
        out = sheet()
        measure_worst_case(tree, out, parts)
        assert value(out, "robust_accuracy", 0.1) == 0.5  # whom noise fools is fooled, too
        assert value(out, "robust_accuracy", 0.05) == 1.0
        assert value(out, "attack_success_rate") == 0.5
        assert (value(out, "overstated[a]"), value(out, "overstated[b]")) == pytest.approx((0.2, 0.3))
        assert (value(out, "lift[a]"), value(out, "lift[b]")) == pytest.approx((0.2, 0.1))
        assert value(out, "robust_accuracy", 0.1, "site=north") == pytest.approx(0.4)  # 0, 2, 4 of 0, 2, 4, 6, 8
        assert value(out, "robust_accuracy", 0.1, "site=south") == pytest.approx(0.6)

    def test_rows_that_are_wrong_anyway_are_not_robust(self, tree):
        test = tree.data.test
        y = np.where(np.arange(10) < 4, 1 - test.y, test.y)  # four are misclassified without any attack
        mistaken = replace(tree, data=dataset(test.with_data(test.x, y)))
        out = sheet()
        arrays = measure_worst_case(mistaken, out, [self.part("a", range(10), [4])])
        row = next(r for r in out.rows if r.metric == "robust_accuracy" and r.attack_params["eps"] == 0.1)
        assert (row.value, row.n) == (0.5, 10)
        assert value(out, "robust_accuracy", 0.05) == 0.6
        assert value(out, "attack_success_rate") == pytest.approx(1 / 6)
        assert value(out, "robust_accuracy", 0.1, "site=north") == pytest.approx(0.4)  # of 0, 2, 4, 6, 8 the last two
        assert arrays["robust"].tolist() == [False] * 5 + [True] * 5

    def test_lift_is_over_the_noise_of_the_same_norm(self, tree):
        parts = [self.part("pgd", range(10), [0, 1, 2]), self.part("noise", range(10), [4], RandomNoise()),
                 self.part("deepfool", range(10), [0, 1, 2, 3, 5], DeepFool()), self.part("turned", [1], [1], Turned())]
        for part in parts[2:]:  # near in the norm that was asked for, and far in Linf
            part.arrays["linf"] = part.arrays["linf"] * 10
        out = sheet()
        measure_worst_case(tree, out, parts)
        assert {r.metric for r in out.rows if "[" in r.metric} == {"lift[pgd]", "overstated[pgd]", "overstated[noise]"}
        assert value(out, "lift[pgd]") == pytest.approx(0.2)
        out = sheet()
        measure_worst_case(replace(tree, norms={"l2": (0.2, (0.2,))}), out,
                           [*parts, self.part("noise", range(10), [0, 6], RandomNoise(norm="l2"))])
        assert (value(out, "lift[pgd]"), value(out, "lift[deepfool]", 0.2)) == pytest.approx((0.2, 0.3))

    def test_whom_no_attack_was_tried_on_does_not_count_as_robust(self, tree):
        out = sheet()
        measure_worst_case(tree, out, [self.part("a", [1, 5, 7, 8], [1, 5, 7]),
                                       self.part("noise", range(10), [], RandomNoise())])
        row = next(r for r in out.rows if r.metric == "robust_accuracy" and r.attack_params["eps"] == 0.1)
        assert (row.value, row.n) == (0.25, 4)

    @pytest.mark.parametrize("other", [DeepFool(), Turned()])
    def test_whom_only_attacks_of_other_norms_met_does_not_count_as_robust(self, tree, other):
        out = sheet()
        parts = [self.part("pgd", [0, 1, 2, 3], [0], PGD()), self.part("other", range(10), [1, 9], other)]
        measure_worst_case(tree, out, parts)
        row = next(r for r in out.rows if r.metric == "robust_accuracy" and r.attack_params["eps"] == 0.1)
        assert (row.value, row.n) == (0.5, 4)  # 1 was fooled within the ball, whatever the norm
        robust, met = withstood(parts, np.zeros(10, bool), 0.1)
        assert met.tolist() == [True] * 4 + [False] * 6 and not robust[[0, 1, 9]].any()
        with pytest.raises(InputError, match="in Linf"):
            measure_worst_case(tree, sheet(), parts[1:])

    def test_without_a_single_finished_attack_there_is_no_number(self, tree):
        out = sheet()
        with pytest.raises(InputError, match="every evasion attack in Linf on this model failed"):
            measure_worst_case(tree, out, [])
        assert out.rows == []


def test_an_attack_of_no_known_kind_is_refused(line):
    @dataclass(frozen=True)
    class Strange(Attack):
        info: ClassVar[Info] = Info("Strange", "none")

    with pytest.raises(InputError, match="Strange is of no kind that can be measured"):
        measure(Strange(), line, sheet())


def test_clean_performance_by_subgroup_and_what_training_noted(line):
    line.classifier.notes.update(eps=0.3, words="for people")
    out = sheet()
    measure_clean(line, out)
    assert value(out, "accuracy") == 1.0 == value(out, "train_accuracy") and value(out, "collapsed") == 0.0
    assert value(out, "accuracy", subgroup="site=north") == 1.0
    assert value(out, "note[eps]") == 0.3 and not [r for r in out.rows if "words" in r.metric]


def test_a_collapsed_model_is_flagged():
    y = np.r_[np.zeros(90, int), np.ones(10, int)]
    data = dataset(split(np.zeros((100, 2)), y))
    out = sheet()
    measure_clean(subject(Majority().fit(data.train, data.val), data), out)
    assert value(out, "accuracy") == 0.9 and value(out, "balanced_accuracy") == 0.5 and value(out, "collapsed") == 1.0
