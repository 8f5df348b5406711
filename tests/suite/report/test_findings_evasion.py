"""Findings about evasion, natural changes and subgroups: hand-made rows with known verdicts."""

import pytest

from suite.report.rules.every import findings
from tests.support.rows import about, clean, evasion, found, manifest, only, row


def test_evasion_says_value_interval_n_and_control():
    f = only(clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55)), "evasion")
    assert f.level == "high" and f.figure == "40%"
    assert "40% (35–50%) of 75" in f.text and "45% (36–55%)" in f.text and "n\u00a0=\u00a0100" in f.text
    assert "2% (0–8%)" in f.text
    assert "falls from 75% to" in f.text  # 75 of the 100 attacked patients, whatever the others are like


def test_a_robust_model_is_low_only_when_everyone_met_a_strong_attack_and_nothing_was_masked():
    robust = {"flipped": (0.01, 0.0, 0.05), "kept": (0.73, 0.64, 0.8), "attack": "apgd"}
    assert only(clean() + evasion(**robust), "evasion").level == "low"
    some = only(clean() + evasion(**robust, n=30), "evasion")
    assert some.level == "inconclusive" and "30 of 100" in some.text
    masked = [row("check[loss rises with steps]", 0.0, attack="worst-case", eps=0.05)]
    assert only(clean() + evasion(**robust) + masked, "evasion").level == "inconclusive"
    weak = only(clean() + evasion(**robust | {"attack": "pgd"}), "evasion")
    assert weak.level == "inconclusive" and "No strong attack of this kind ran on this model: not apgd" in weak.text
    assert "--attacks apgd" in weak.command


def test_an_attack_on_few_patients_leaves_open_what_it_would_do_to_the_others():
    rows = clean() + evasion((0.01, 0.0, 0.05), (0.73, 0.64, 0.8), attack="apgd")
    few = [row("robust_accuracy", 0.7, 0.5, 0.9, n=16, attack="art-zoo", eps=0.05),
           row("attack_success_rate", 0.0, 0.0, 0.25, n=12, attack="art-zoo", eps=0.05)]
    f = only(rows + few, "evasion")
    # 12 * (0.25 / 0.1)^2 = 75
    assert f.level == "inconclusive" and "Not settled by art-zoo: at this value it takes about 75 cases" in f.text


def test_a_rate_above_the_threshold_is_settled_by_the_most_cases_and_not_by_a_few():
    rows = clean() + evasion((0.18, 0.08, 0.3), (0.6, 0.5, 0.7), attack="apgd")
    few = [row("robust_accuracy", 0.7, 0.5, 0.9, n=16, attack="art-zoo", eps=0.05),
           row("attack_success_rate", 0.25, 0.08, 0.5, n=12, attack="art-zoo", eps=0.05)]
    # 75 * (0.1 / 0.08)^2 = 117.2
    assert "Not settled: at this value it takes about 120 cases in place of 75." in only(rows + few, "evasion").text


def lift(attack, value, low, high):
    return row(f"lift[{attack}]", value, low, high, attack="worst-case", eps=0.05)


@pytest.mark.parametrize(("difference", "flagged"), [((0.02, -0.05, 0.09), True), ((0.2, 0.1, 0.3), False)])
def test_where_noise_does_as_much_the_budget_says_nothing_about_attackers(difference, flagged):
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), noise=(0.38, 0.3, 0.46), attack="apgd")
    f = only([*rows, lift("apgd", *difference)], "evasion")
    assert f.level == "high"  # predictions change all the same
    assert ("the budget is too large to say anything about attackers" in f.text) == flagged


def test_an_interval_that_leaves_room_for_an_attacker_does_not_put_it_down_to_the_budget():
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), noise=(0.38, 0.3, 0.46), attack="apgd")
    f = only([*rows, lift("apgd", 0.1, -0.1, 0.3)], "evasion")
    assert f.level == "high" and "Not distinguishable from random noise on these 75 patients" in f.text
    assert "the budget is too large" not in f.text


@pytest.mark.parametrize(("attack", "n"), [("fgsm", 100), ("apgd", 16)])
def test_a_weak_attack_or_one_on_few_patients_does_not_put_it_down_to_the_budget(attack, n):
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), noise=(0.38, 0.3, 0.46), attack=attack, n=n)
    f = only([*rows, lift(attack, 0.1, -0.2, 0.4)], "evasion")
    assert f.level == "high" and "the budget is too large" not in f.text
    assert "by the attacks that ran; no strong attack ran on all of these patients: not apgd" in f.text
    assert "--attacks apgd" in f.command


def test_one_attack_that_beats_noise_is_enough():
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), noise=(0.2, 0.14, 0.28))
    assert only([*rows, lift("fgsm", 0.0, -0.1, 0.1), lift("pgd", 0.2, 0.12, 0.28)], "evasion").level == "high"
    # 0.01 above 0 alone; as the best of five it may be chance
    many = [lift(f"a{k}", 0.1, 0.01, 0.19) for k in range(5)]
    assert "Not distinguishable" not in only([*rows, many[0]], "evasion").text
    assert "Not distinguishable" in only([*rows, *many], "evasion").text


def test_noise_that_changes_more_than_the_attacks_is_said():
    rows = clean() + evasion((0.02, 0.0, 0.08), (0.75, 0.66, 0.82), noise=(0.2, 0.14, 0.28))
    f = only(rows, "evasion")
    assert f.level == "medium" and "20% (14–28%)" in f.text and "lower bound of the risk" in f.text
    assert "Not distinguishable from random noise" in f.text


def test_only_noise_is_no_evidence_of_robustness():
    rows = clean() + [r for r in evasion((0.0, 0.0, 0.04), (0.75, 0.66, 0.82)) if r.attack != "pgd"]
    f = only(rows, "evasion")
    assert f.level == "inconclusive" and "no attack was tried" in f.text


def test_an_undefended_collapsed_model_has_no_robustness():
    rows = clean(balanced=(0.5, 0.5, 0.5), collapsed=1.0) + evasion((0.0, 0.0, 0.04), (0.65, 0.55, 0.74))
    assert not found(rows, "evasion")
    assert any("Collapsed" in f.text for f in found(rows, "performance"))


def test_a_failed_masking_check_makes_a_figure_untrustworthy():
    rows = [*clean(defense="x"), row("check[many steps beat one]", 0.0, defense="x", attack="worst-case", eps=0.05)]
    f = only(rows, "trust", defense="x")
    assert f.level == "high" and "many steps beat one" in f.text and "not to be trusted" in f.text


def test_a_constant_answer_blinds_nobody():
    rows = [*clean(collapsed=1.0), row("check[unlimited attack succeeds]", 0.0, attack="worst-case", eps=0.05)]
    assert not found(rows, "trust")


def test_a_group_is_flagged_only_when_its_interval_lies_below_that_of_all():
    rows = [row("sensitivity", 0.8, 0.7, 0.9), row("sensitivity", 0.4, 0.2, 0.6, 20, subgroup="age=<30"),
            row("sensitivity", 0.6, 0.4, 0.75, 20, subgroup="age=30+")]
    f = only(rows, "subgroups")
    assert "age <30" in f.text and f.level == "medium"


def test_what_a_library_claims_is_no_finding_about_the_hospital():
    rows = [row("claimed_success_rate", 0.3, 0.2, 0.4, 20, attack="q"),
            row("claimed_impossible", 0.5, 0.2, 0.8, 6, attack="q"),
            row("overstated[q]", 0.4, 0.3, 0.5, attack="worst-case")]
    assert not findings(rows, manifest())
    counted, overstated = about(rows, "robustness")
    assert "6 patients" in counted and "3 of its results are no possible patient" in counted
    assert "overstate robust accuracy by 40 points (30 to 50)" in overstated


CALM = {"flipped": (0.01, 0.0, 0.05), "kept": (0.73, 0.64, 0.8), "attack": "apgd"}
NORMS = {"l2": {"eps": 0.5, "budgets": [0.25, 0.5]}, "l0": {"eps": 3, "budgets": [1, 3]}}


def in_norm(attack, value, low, high, eps=0.5, n=75, **at):
    """Rows of an attack in another norm, at its budget and at a smaller one."""
    return [row(metric, v, lo, hi, n=n, attack=attack, eps=e, **at) for e, (v, lo, hi) in (
        (eps / 2, (0.0, 0.0, 0.04)), (eps, (value, low, high))) for metric in ("attack_success_rate",
                                                                               "robust_accuracy")]


def by_norm(*rows):
    made = manifest()
    made["plan"] |= {"norms": NORMS}
    return found([*clean(), *(r for part in rows for r in part)], "evasion", made=made)


def test_an_attack_in_another_norm_is_judged_at_the_budget_of_that_norm():
    other, main = by_norm(evasion(**CALM), in_norm("carlini-wagner", 0.8, 0.7, 0.9))
    assert (other.level, main.level) == ("high", "low")
    assert other.text.startswith("carlini-wagner changes the prediction for 80% (70–90%) of 75 correctly classified "
                                 "patients within L2 50% of each column's scale.") and other.figure == "80%"
    other, few, main = by_norm(evasion(**CALM), in_norm("carlini-wagner", 0.01, 0.0, 0.05),
                               in_norm("few-pixels", 0.3, 0.15, 0.5, eps=3))
    assert other.level == "medium" and "few-pixels" in other.text and "within 3 columns" in other.text
    assert {few.level, main.level} == {"low"}


def test_only_a_strong_attack_in_the_same_norm_makes_a_norm_low():
    weak = evasion(**CALM | {"attack": "pgd"})
    found = {f.text.split()[0]: f for f in by_norm(weak, in_norm("carlini-wagner", 0.01, 0.0, 0.05))}
    assert found["Attacks"].level == "inconclusive" and "not apgd" in found["Attacks"].text
    assert found["carlini-wagner"].level == "low"
    found = {f.text.split()[0]: f for f in by_norm(evasion(**CALM), in_norm("deepfool", 0.01, 0.0, 0.05))}
    assert found["Attacks"].level == "low" and found["deepfool"].level == "inconclusive"
    assert "not carlini-wagner" in found["deepfool"].text and "--attacks carlini-wagner" in found["deepfool"].command
    found = by_norm(evasion(**CALM), in_norm("apgd", 0.01, 0.0, 0.05, norm="l2"))
    assert [f.level for f in found] == ["low", "low"]


def test_a_ball_inside_the_main_one_has_no_finding_of_its_own():
    """An L2 budget of 0.05 lies within 5 % of each scale; an attack there may not reach what one beyond it does."""
    inside = only([*clean(), *evasion(**CALM), *in_norm("carlini-wagner", 0.2, 0.12, 0.3, eps=0.05)], "evasion")
    assert inside.level == "medium"


@pytest.mark.parametrize("order", [1, -1])
def test_an_attack_that_ran_twice_is_judged_by_both(order):
    def ran(cell, success):
        return [row(m, *success, n=75, attack="apgd", eps=0.05).model_copy(update={"cell": cell})
                for m in ("robust_accuracy", "attack_success_rate")]

    both = [ran("a", (0.01, 0.0, 0.05)), ran("b", (0.6, 0.5, 0.7))][::order]
    assert only([*clean(), *evasion(**CALM), *both[0], *both[1]], "evasion").level == "high"


@pytest.mark.parametrize("made", [manifest(training_known={"m": False})])
def test_on_rows_that_a_model_may_have_learned_from_nothing_is_low(made):
    f = only([*clean(), *evasion(**CALM)], "evasion", made=made)
    assert f.level == "inconclusive" and "may have learned from these very rows" in f.text
