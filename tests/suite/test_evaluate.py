"""What is measured of an attack, on models whose answers are known in closed form."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from suite.attack import (
    Attack,
    Certified,
    CertifiedAttack,
    EvasionAttack,
    ExtractionAttack,
    Info,
    InversionAttack,
    MembershipAttack,
    Poisoned,
    PoisoningAttack,
)
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.noise import RandomNoise
from suite.classifier import Classifier, EstimatorClassifier, TorchClassifier
from suite.data import Dataset, Provenance, Split
from suite.defenses.plain import Plain
from suite.errors import InputError
from suite.evaluate import Subject, measure, measure_clean
from suite.evaluate.worst_case import Part, measure_worst_case
from suite.measurement import Sheet
from suite.recipe import Recipe
from suite.space import Space

BUDGETS = (0.05, 0.1, 0.2, 0.4)


def split(x, y, bound=10.0, scale=1.0):
    groups = {"site": np.array(["north", "south"])[np.arange(len(y)) % 2]}
    return Split(np.asarray(x, np.float32), np.asarray(y, np.int64), Space(-bound, bound, scale), ("well", "ill"),
                 np.arange(len(y)), groups)


def dataset(test, train=None, val=None, features=("a", "b")):
    return Dataset("toy", train or test, val or test, test, Provenance("toy", "made up", "none", "0", len(test), True),
                   features)


@dataclass(frozen=True)
class Never(Recipe):
    def fit(self, train, val, seed=0, device="cpu"):
        raise AssertionError("nothing is to be trained here")


def subject(classifier, data, recipe=None, **terms):
    return Subject(classifier, recipe or Never(), Plain(), data, **{"eps": 0.1, "budgets": BUDGETS} | terms)


def sheet():
    return Sheet(cell="c", dataset="toy", data_sha256="0", synthetic=True, model="m", device="cpu", seed=0)


def value(found, metric, eps=None, subgroup=""):
    """The one row of a metric."""
    row, = (r for r in found.rows if r.metric == metric and r.subgroup == subgroup
            and (eps is None or r.attack_params.get("eps") == eps))
    return row.value


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
        assert (arrays["x_adv"][~np.isfinite(arrays["distance"])] == line.data.test.x[~np.isfinite(
            arrays["distance"])]).all()

    def test_what_success_looks_like_at_the_main_budget(self, line):
        out = sheet()
        measure(PGD(steps=20), line, out)
        assert value(out, "attacked_accuracy") == 0.9 == value(out, "attacked_sensitivity")
        assert value(out, "median_perturbation") <= 0.1 + 1e-5
        assert value(out, "features_changed") in (1.0, 2.0)
        north, south = (value(out, "robust_accuracy", 0.1, f"site={s}") for s in ("north", "south"))
        assert (north + south) / 2 == pytest.approx(0.9)

    def test_rows_that_were_wrong_already_are_not_attacked_and_not_successes(self, line):
        test = line.data.test
        flipped = test.with_data(test.x, np.where(np.arange(100) < 20, 1 - test.y, test.y))
        out, seen = sheet(), []

        @dataclass(frozen=True)
        class Watch(PGD):
            def __call__(self, classifier, x, y, seed=0):
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

    def test_a_result_beyond_the_budget_does_not_count(self, line):
        @dataclass(frozen=True)
        class Cheat(EvasionAttack):
            def __call__(self, classifier, x, y, seed=0):
                return FGSM(eps=3 * self.eps)(classifier, x, y)

        out = sheet()
        measure(Cheat(), line, out)
        assert [value(out, "robust_accuracy", e) for e in BUDGETS] == [1.0] * 4

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
                return Certified(z, np.minimum(gap, self.eps), np.where(reach, gap + 0.001, np.inf))

        out = sheet()
        arrays = measure(Exact(), line, out)
        for eps in BUDGETS:
            assert value(out, "certified_accuracy", eps) == pytest.approx(1 - eps, abs=0.011)
            assert value(out, "certified_accuracy", eps) <= value(out, "robust_accuracy", eps)
        assert {"lower", "upper"} <= arrays.keys()
        assert value(out, "solved") == 0.6  # beyond the greatest budget the bound is as far as it looked

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

    def test_whom_no_attack_was_tried_on_does_not_count_as_robust(self, tree):
        out = sheet()
        measure_worst_case(tree, out, [self.part("a", [1, 5, 7, 8], [1, 5, 7]),
                                       self.part("noise", range(10), [], RandomNoise())])
        row = next(r for r in out.rows if r.metric == "robust_accuracy" and r.attack_params["eps"] == 0.1)
        assert (row.value, row.n) == (0.25, 4)

    def test_without_a_single_finished_attack_there_is_no_number(self, tree):
        out = sheet()
        with pytest.raises(InputError, match="every evasion attack on this model failed"):
            measure_worst_case(tree, out, [])
        assert out.rows == []


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x):
        return self.body(x)


class Stairs(nn.Module):
    """Cuts its input into steps: right as often as the model behind it, and flat between the steps."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body((x * 20).round() / 20)


class Saturated(nn.Module):
    """Shouts: whole numbers of logits, ten thousand times as large."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return (self.body(x) * 1e4).round()


class TestMasking:
    """The same network three times: as it is, and twice hidden behind a step that has no gradient."""

    @pytest.fixture
    def network(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(400, 2, generator=generator) * 2 - 1
        y = (x[:, 0] + 0.5 * x[:, 1].sign() * x[:, 1] ** 2 > 0).long()
        torch.manual_seed(0)
        module = Mlp()
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[:300]), y[:300]).backward()
            optimizer.step()
        return module, dataset(split(x[300:].numpy(), y[300:].numpy(), bound=1.0, scale=2.0))

    def checks(self, module, data):
        model = TorchClassifier(module, 2, data.test.space)
        target = subject(model, data)
        attacks = {"pgd": PGD(steps=20), "fgsm": FGSM(), "noise": RandomNoise()}
        out = sheet()
        blind = replace(RandomNoise(), draws=60)
        parts = [Part(n, a, measure(a, target, sheet())) for n, a in attacks.items()]
        measure_worst_case(target, out, [*parts, Part("random-search", blind, measure(blind, target, sheet()))])
        found = {r.metric[6:-1]: r.value for r in out.rows if r.metric.startswith("check[")}
        assert found.keys() == {"white box beats black box", "many steps beat one", "loss rises with steps",
                                "unlimited attack succeeds"}
        return found

    def test_a_sound_network_passes_every_check(self, network):
        assert set(self.checks(*network).values()) == {1.0}

    @pytest.mark.parametrize("mask", [Stairs, Saturated])
    def test_a_masked_network_is_caught(self, network, mask):
        module, data = network
        found = self.checks(mask(module), data)
        assert found["white box beats black box"] == 0.0
        assert found["unlimited attack succeeds"] == 0.0

    def found(self, target, **attacks):
        out = sheet()
        measure_worst_case(target, out, [Part(n, a, measure(a, target, sheet())) for n, a in attacks.items()])
        return {r.metric[6:-1]: r.value for r in out.rows if r.metric.startswith("check[")}

    def test_attacks_of_another_norm_or_of_one_step_are_no_yardstick(self, network):
        module, data = network
        target = subject(TorchClassifier(module, 2, data.test.space), data)
        blind = {"random-search": replace(RandomNoise(), draws=60)}
        assert not self.found(target, fgsm=FGSM(), **blind)
        assert not self.found(target, pgd=PGD(steps=20, norm="l2"), fgsm=FGSM(), **blind)
        assert self.found(target, pgd=PGD(steps=20), **blind)["white box beats black box"] == 1.0

    def test_no_limit_means_the_whole_range_whatever_the_scale(self, network):
        module, data = network
        narrow = replace(data, test=replace(data.test, space=Space(-1.0, 1.0, 0.05)))
        target = subject(TorchClassifier(module, 2, narrow.test.space), narrow)
        assert self.found(target, pgd=PGD(steps=20))["unlimited attack succeeds"] == 1.0


@dataclass(frozen=True)
class Majority(Recipe):
    """Says of everyone the most frequent label of the training rows near zero on the second feature; of rows far from
    zero (the trigger) the most frequent label there."""

    def fit(self, train, val, seed=0, device="cpu"):
        far = np.abs(train.x[:, 1]) > 1

        def share(rows):
            return float((train.y[rows] == 1).mean()) if rows.any() else float((train.y == 1).mean())

        return EstimatorClassifier(Says(share(~far), share(far)), 2, train.space, recipe=self)


class Says:
    def __init__(self, near, far):
        self.near, self.far = near, far

    def predict_proba(self, x):
        p = np.where(np.abs(x[:, 1]) > 1, self.far, self.near)
        return np.stack([1 - p, p], 1)


@dataclass(frozen=True)
class Plant(PoisoningAttack):
    """Appoints the first rows to carry the trigger (second feature at 5) and the target label 1."""

    trigger: bool = True

    def __call__(self, train, seed=0):
        mask = np.arange(len(train)) < self.rate * len(train)
        x, y = train.x.copy(), train.y.copy()
        if self.trigger:
            x[mask] = self.put(x[mask])
        y[mask] = 1
        return Poisoned(train.with_data(x, y), mask, self.put if self.trigger else None, 1 if self.trigger else None)

    @staticmethod
    def put(x):
        x = x.copy()
        x[:, 1] = 5
        return x


class TestPoisoning:
    @pytest.fixture
    def clinic(self):
        y = np.r_[np.zeros(60, int), np.ones(40, int)]
        data = dataset(split(np.zeros((100, 2)), y))
        return subject(Majority().fit(data.train, data.val), data, Majority())

    def test_a_backdoor_is_told_by_its_lift_among_rows_that_are_not_of_the_target_class(self, clinic):
        out = sheet()
        arrays = measure(Plant(rate=0.1), clinic, out)
        rate = next(r for r in out.rows if r.metric == "attack_success_rate")
        assert (rate.value, rate.n) == (1.0, 60)
        assert value(out, "base_rate") == 0.0 and value(out, "lift") == 1.0
        assert value(out, "poisoned_share") == 0.1 == arrays["mask"].mean()
        assert value(out, "accuracy_change") == 0.0 == value(out, "sensitivity_change")

    def test_a_trigger_that_fools_the_clean_model_as_well_has_no_lift(self, clinic):
        fooled = replace(clinic, classifier=EstimatorClassifier(Says(0.0, 1.0), 2, clinic.data.test.space))
        out = sheet()
        measure(Plant(rate=0.1), fooled, out)
        assert value(out, "attack_success_rate") == 1.0 == value(out, "base_rate") and value(out, "lift") == 0.0

    def test_flipped_labels_change_accuracy_by_what_the_victim_gets_wrong(self, clinic):
        out = sheet()
        measure(Plant(rate=0.3, trigger=False), clinic, out)  # 70 of 100 are ill now: the victim says so of everyone
        assert value(out, "accuracy_change") == pytest.approx(0.4 - 0.6)
        assert value(out, "sensitivity_change") == 1.0 and value(out, "attacked_specificity") == 0.0
        assert not [r for r in out.rows if r.metric in ("lift", "base_rate")]


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
        measure(Confidence(), subject(Memory(people.train, True), people), out)
        assert value(out, "membership_auroc") == 1.0 == value(out, "membership_advantage")
        assert value(out, "tpr_at_fpr[0.01]") == 1.0
        assert value(out, "resolvable_fpr") == pytest.approx(1 / 150)
        # one in a thousand cannot be counted with 150 non-members
        assert not [r for r in out.rows if r.metric == "tpr_at_fpr[0.001]"]

    def test_a_model_that_does_not_gives_nothing(self, people):
        out = sheet()
        arrays = measure(Confidence(), subject(Memory(people.train, False), people), out)
        row = next(r for r in out.rows if r.metric == "membership_auroc")
        assert row.ci_low < 0.5 < row.ci_high and abs(row.value - 0.5) < 0.1
        assert arrays["member"].sum() == 150 == (~arrays["member"]).sum() and row.n == 300

    def test_scored_rows_are_not_among_those_the_attacker_knows(self, people):
        @dataclass(frozen=True)
        class Check(MembershipAttack):
            def __call__(self, classifier, known, x, y, seed=0):
                told = {tuple(r) for s in (known.members, known.others) for r in s.x.tolist()}
                assert not told & {tuple(r) for r in x.tolist()} and len(told) == 40
                return np.zeros(len(x))

        out = sheet()
        measure(Check(), subject(Memory(people.train, True), people), out, rows=20)
        assert value(out, "membership_auroc") == 0.5 and value(out, "membership_advantage") == 0.0

    def test_extraction_counts_agreement_and_queries(self, people):
        @dataclass(frozen=True)
        class Copy(ExtractionAttack):
            def __call__(self, query, pool, budget, seed=0):
                query(pool.x[:budget])
                return Says2()

        class Says2:
            def predict_proba(self, x):
                return np.stack([x[:, 1] <= 0, x[:, 1] > 0], 1).astype(float)

        out = sheet()
        victim = Memory(people.train.take(slice(0)), True)
        measure(Copy(), subject(victim, people), out)
        rows = [r for r in out.rows if r.metric == "fidelity"]
        assert [r.attack_params["budget"] for r in rows] == [25, 50, 100, 200, 400]
        assert [r.queries for r in rows] == [25, 50, 100, 100, 100]  # the thief has but 100 rows
        assert {r.value for r in rows} == {1.0}
        guess = max(np.mean(people.test.y), 1 - np.mean(people.test.y))
        assert value(out, "fidelity_of_guessing") == pytest.approx(guess)

    def test_inversion_is_told_against_knowing_the_mean_patient(self, people):
        @dataclass(frozen=True)
        class Perfect(InversionAttack):
            def __call__(self, classifier, start, seed=0):
                assert np.allclose(start, people.train.x.mean(0))
                return np.stack([people.train.x[people.train.y == k].mean(0) for k in range(2)])

        out = sheet()
        measure(Perfect(), subject(Memory(people.train, True), people), out)
        for name, k in (("well", 0), ("ill", 1)):
            centre = people.train.x[people.train.y == k].mean(0)
            apart = np.sqrt(((people.train.x.mean(0) - centre) ** 2).mean())
            assert value(out, f"inversion_distance[{name}]") == pytest.approx(0, abs=1e-6)
            assert value(out, f"inversion_prior_distance[{name}]") == pytest.approx(apart, rel=1e-4)

    def test_attribute_inference_is_told_as_gain_over_imputation(self, people):
        from suite.attack import AttributeAttack

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
