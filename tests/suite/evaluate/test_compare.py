"""What a defense buys and costs: paired differences by hand."""

import numpy as np
import pytest

from suite.attacks.gradient import FGSM, PGD
from suite.attacks.noise import RandomNoise
from suite.attacks.poisoning import RandomFlip
from suite.core.data import Split
from suite.core.space import Space
from suite.evaluate.compare import Outcome, Poisoning, measure_gains
from suite.evaluate.worst_case import Part
from suite.results.measurement import Sheet

Y = np.array([0, 0, 0, 0, 0, 0, 1, 1])
ATTACKS = {"pgd": PGD(), "fgsm": FGSM(), "noise": RandomNoise()}


def gains(before, after, classes=("healthy", "ill"), y=Y):
    """Rows by metric; `before` and `after` are outcomes, or no more than predictions."""
    test = Split(np.zeros((len(y), 1), np.float32), y, Space(0, 1), classes, np.arange(len(y)))
    sheet = Sheet(cell="c", dataset="d", data_sha256="", synthetic=True, model="m", defense="x", device="cpu", seed=0)
    before, after = (o if isinstance(o, Outcome) else outcome(o) for o in (before, after))
    measure_gains(sheet, test, before, after, 0.05, "worst-case")
    return {row.metric: row for row in sheet.rows}


def outcome(pred=Y, leaks=None, **robust):
    """`robust` says for each attack, by position, whom it failed to fool."""
    parts = [Part(name, ATTACKS[name], {"positions": np.array(list(kept)), "linf": np.where(list(kept.values()), 1, 0)})
             for name, kept in robust.items()]
    return Outcome({"pred": np.array(pred)}, parts, leaks or {})


def test_known_gains():
    # one healthy more is judged rightly, one ill fewer: no change of accuracy, a loss of balanced accuracy
    found = gains([1, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1])
    assert found["gain[accuracy]"].value == 0
    assert found["gain[balanced_accuracy]"].value == pytest.approx((1 / 6 - 1 / 2) / 2)
    assert (found["gain[sensitivity]"].value, found["gain[sensitivity]"].n) == (-1 / 2, 2)
    assert found["gain[specificity]"].value == pytest.approx(1 / 6)
    assert "gain[robust_accuracy]" not in found and "gain[membership_auroc]" not in found


def test_no_sensitivity_beyond_two_classes():
    found = gains([0, 1, 2], [0, 1, 1], ("a", "b", "c"), np.array([0, 1, 2]))
    assert set(found) == {"gain[accuracy]", "gain[balanced_accuracy]"}


def test_robustness_is_compared_on_the_rows_that_both_met():
    kept = {2: 0, 4: 0, 6: 1}
    found = gains(outcome(pgd=kept), outcome(pgd={2: 1, 4: 1, 6: 0}))
    gain = found["gain[robust_accuracy]"]
    assert (gain.value, gain.n) == (pytest.approx(1 / 3), 3)
    assert (gain.attack, gain.attack_params, gain.defense) == ("worst-case", {"eps": 0.05}, "x")
    # two of two healthy gained, one of one ill lost
    assert found["gain[robust_balanced_accuracy]"].value == 0


def test_an_attack_that_ran_on_one_of_the_two_is_left_out():
    everyone = dict.fromkeys(range(8), 1)
    strong = outcome(pgd=everyone, fgsm=dict.fromkeys(range(8), 0))
    assert gains(strong, outcome(pgd=everyone))["gain[robust_accuracy]"].value == 0
    assert gains(strong, outcome(fgsm=everyone))["gain[robust_accuracy]"].value == 1
    assert "gain[robust_accuracy]" not in gains(strong, outcome(noise=everyone))
    other_rows = outcome(fgsm={0: 1})
    assert "gain[robust_accuracy]" not in gains(outcome(fgsm=everyone), other_rows)
    assert "gain[robust_accuracy]" not in gains(outcome(noise=everyone), outcome(noise=everyone))


def test_more_leakage_is_a_change_above_0():
    member = np.repeat([True, False], 20)
    chance = {"score": np.tile([0.0, 1.0], 20), "member": member}
    told = {"score": member.astype(float), "member": member}
    few, many = ("pgd", PGD(steps=3)), ("pgd", PGD(steps=9))  # any attack will do
    found = gains(outcome(leaks={few: chance}), outcome(leaks={few: told}))
    row = found["gain[membership_auroc]"]
    assert row.value == pytest.approx(0.5) and row.ci_low > 0 and row.attack == "pgd"
    assert row.attack_params["steps"] == 3
    # neither of another name, nor with other parameters, is it the same attack
    for other in (("apgd", PGD(steps=3)), many):
        assert "gain[membership_auroc]" not in gains(outcome(leaks={other: chance}), outcome(leaks={few: told}))


def test_changes_are_of_the_same_patients_and_not_of_two_samples():
    """Of 200, who are nearly all judged alike before and after, one changes: the interval knows that. Two samples of
    200, drawn apart, differ by several points whatever the defense does."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    before = np.where(rng.random(200) < 0.3, 1 - y, y)
    after = before.copy()
    after[0] = y[0] if before[0] != y[0] else 1 - y[0]
    for metric in ("gain[accuracy]", "gain[balanced_accuracy]"):
        row = gains(before, after, y=y)[metric]
        assert row.ci_high - row.ci_low < 0.05  # drawn apart: 0.18
    member = np.repeat([True, False], 200)
    score = rng.normal(size=400) + 0.5 * member
    leaks = [{("pgd", PGD()): {"score": s, "member": member}} for s in (score, score + 0.01 * rng.normal(size=400))]
    row = gains(outcome(leaks=leaks[0]), outcome(leaks=leaks[1]))["gain[membership_auroc]"]
    assert row.ci_high - row.ci_low < 0.01 and row.ci_low <= 0 <= row.ci_high  # drawn apart: 0.15


def test_patients_who_change_places_make_the_interval_wide():
    """60 of 200 are right before only and as many after only: the share is the same, and by no means certain."""
    y = np.zeros(200, np.int64)
    before, after = np.repeat([1, 0, 0], [60, 60, 80]), np.repeat([0, 1, 0], [60, 60, 80])
    row = gains(before, after, y=y)["gain[accuracy]"]
    assert row.value == 0 and row.ci_high == pytest.approx(1.96 * np.sqrt(120) / 200, rel=0.1) == -row.ci_low


def test_a_refusal_is_no_right_answer():
    assert gains(Y, Y)["gain[accuracy]"].value == 0
    assert gains(Y, [-1, 0, 0, 0, 0, 0, 1, 1])["gain[accuracy]"].value == pytest.approx(-1 / 8)


def test_what_a_defense_saves_of_a_poisoned_model():
    def poisoned(rate, pred, hit):
        arrays = {"pred": np.array(pred), "hit": np.array(hit, bool)}
        return Outcome({"pred": Y}, poisonings=[Poisoning("flip", RandomFlip(rate=rate), arrays)])

    plain = poisoned(0.1, [0, 0, 0, 0, 1, 1, 0, 0], [1, 1, 1, 0])
    found = gains(plain, poisoned(0.1, [0, 0, 0, 0, 0, 1, 0, 1], [1, 0, 0, 0]))
    assert found["gain[poisoned_accuracy]"].value == pytest.approx(2 / 8)
    assert found["gain[poisoned_sensitivity]"].value == pytest.approx(1 / 2)
    assert found["gain[attack_success_rate]"].value == pytest.approx(-2 / 4)
    assert found["gain[poisoned_accuracy]"].attack_params == {"rate": 0.1}
    # another rate is another attack
    assert not any("poisoned" in m for m in gains(plain, poisoned(0.2, Y, [0, 0, 0, 0])))
