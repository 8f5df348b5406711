"""What is measured of single patients, through a membership attack on models that remember some, all or none."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from privacy.likelihood import RMIA, LiRA
from suite.core.classifier import EstimatorClassifier
from suite.core.odds import Shadows
from suite.core.recipe import Recipe
from suite.evaluate import measure
from suite.evaluate.patients import measure_patients
from suite.shadows.shadowing import halves
from tests.support.toy import dataset, sheet, split, subject, value


class Recalls:
    """Is sure of the rows it has learned from where their first column is above `least`; elsewhere as chance has it."""

    def __init__(self, train, least, seed):
        self.table = {tuple(x): y for x, y in zip(train.x.tolist(), train.y.tolist(), strict=True) if x[0] > least}
        self.rng = np.random.default_rng(seed)

    def predict_proba(self, x):
        p = self.rng.uniform(0.2, 0.8, len(x))
        p = np.array([{0: 0.02, 1: 0.98}.get(self.table.get(tuple(r)), q) for r, q in zip(x.tolist(), p, strict=True)])
        return np.stack([1 - p, p], 1)


@dataclass(frozen=True)
class Memory(Recipe):
    least: float

    def fit(self, train, val, seed=0, device="cpu"):
        return EstimatorClassifier(Recalls(train, self.least, seed), 2, train.space, recipe=self)


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    whole = split(x, rng.integers(0, 2, 400))
    return dataset(whole.take(slice(200, 300)), whole.take(slice(200)), whole.take(slice(300, 400)))


def told(people, least, attack):
    out = sheet()
    recipe = Memory(least)
    arrays = measure(attack, subject(recipe.fit(people.train, people.val), people, recipe), out)
    return out, arrays


def test_the_few_whom_models_remember_are_found_and_the_average_is_calm(people):
    out, arrays = told(people, 1.5, LiRA(shadows=64))
    outlying = np.concatenate([people.train.x, people.test.x])[arrays["row"], 0] > 1.5
    assert 5 < outlying.sum() < 30
    assert (arrays["patient_auroc"][outlying] > 0.9).all() and (arrays["patient_auroc"][~outlying] < 0.9).all()
    assert value(out, "patients_above[0.9]") == pytest.approx(outlying.mean())
    assert value(out, "patient_auroc[mean]") < 0.6 and value(out, "patient_auroc[worst]") == 1.0
    assert value(out, "patients_above_null[0.9]") < 0.001 and value(out, "patient_tpr_at_fpr[0.01]") == 1.0
    assert value(out, "shadows_needed[share]") == 58 and value(out, "shadows_needed[patient]") == 172
    north = next(r for r in out.rows if r.metric == "patients_above[0.9]" and r.subgroup == "site=north")
    mine = np.concatenate([people.train.subgroups["site"], people.test.subgroups["site"]])[arrays["row"]] == "north"
    assert north.n == mine.sum() and north.value == pytest.approx(outlying[mine].mean())
    assert all(r.attack_params["shadows"] == 64 for r in out.rows)


def test_nobody_is_found_where_nothing_is_remembered(people):
    out, _ = told(people, np.inf, RMIA(shadows=64))
    found = next(r for r in out.rows if r.metric == "patients_above[0.9]" and not r.subgroup)
    assert found.value == 0.0 and found.ci_high < 0.06 and abs(value(out, "patient_auroc[mean]") - 0.5) < 0.03


def test_two_shadow_models_leave_none_to_compare_with_and_say_how_many_would(people):
    out, arrays = told(people, 1.5, RMIA(shadows=2))
    assert value(out, "shadows_needed[share]") == 58 and "patient_auroc" not in arrays
    assert not [r for r in out.rows if r.metric.startswith("patients_above")]


def test_shadow_models_are_trained_once_for_both_uses(people):
    fits = []

    @dataclass(frozen=True)
    class Counted(Memory):
        def fit(self, train, val, seed=0, device="cpu"):
            fits.append(seed)
            return super().fit(train, val, seed, device)

    recipe = Counted(1.5)
    target = recipe.fit(people.train, people.val)
    measure(RMIA(shadows=8), subject(target, people, recipe), sheet())
    assert len(fits) == 9


def test_patients_of_several_images_are_found_by_the_one_that_gives_them_away(people):
    """One row of each is scored by all attacks; the largest score of a patient's rows finds whom that one misses."""
    train, test = (replace(s, patients=start + np.arange(len(s)) // 4) for s, start in (
        (people.train, 0), (people.test, 1000)))
    out, arrays = told(replace(people, train=train, test=test), 1.2, LiRA(shadows=64))
    assert len(arrays["patient_auroc"]) == 50
    one, most, mean = (value(out, f"patients_above[0.9{how}]") for how in ("", "@max", "@mean"))
    assert most > one and value(out, "patient_auroc[worst@max]") == 1.0 and 0 <= mean <= 1
    assert value(out, "patient_membership_auroc[max]") > 0.5 and value(out, "patient_membership_auroc[mean]") > 0.5


def test_patients_of_one_row_each_are_not_told_thrice(people):
    out, _ = told(people, 1.5, RMIA(shadows=4))
    assert not [r for r in out.rows if "@" in r.metric or r.metric.startswith("patient_membership")]


def test_the_worst_is_told_with_an_interval_that_holds_for_whoever_is_the_worst():
    rng, inside = np.random.default_rng(0), halves(64, 400, 0)
    out = sheet()
    measure_patients(RMIA(), Shadows(inside, rng.normal(size=inside.shape)), [], out, {})
    worst = next(r for r in out.rows if r.metric == "patient_auroc[worst]")
    assert worst.value > 0.65 and worst.ci_low < 0.5 < worst.ci_high
