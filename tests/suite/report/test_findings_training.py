"""Findings about models, poisoned training data and defenses: hand-made rows with known verdicts."""

import pytest

from suite.report.findings import LEVELS
from tests.support.rows import clean, evasion, found, only, row


def test_beyond_two_classes_the_class_that_is_missed_most_counts():
    rows = [row("accuracy", 0.8, 0.7, 0.9), row("recall[well]", 0.9, 0.8, 0.95, 60),
            row("recall[ill]", 0.4, 0.3, 0.5, 40)]
    f = only(rows, "performance")
    assert f.level == "medium" and "misses 60% of 40 patients of class “ill”, the worst of 2 classes" in f.text


def test_the_disease_is_named():
    assert "of 40 patients with “ill”" in only(clean(), "performance").text


def test_a_network_that_misses_many_melanomas_is_never_shown_as_calm():
    f = only([row("sensitivity", 0.72, 0.61, 0.79, 74)], "performance")
    assert f.level == "medium"  # misses 21 to 39 %
    f = only([row("sensitivity", 0.72, 0.61, 0.81, 74)], "performance")
    # 74 * ((0.28 - 0.19) / (0.28 - 0.20))^2 = 93.7
    assert f.level == "inconclusive" and "it takes about 94 cases in place of 74" in f.text
    assert LEVELS["inconclusive"][0] == "bright_black"


def test_poisoning_reports_the_worst_and_how_many():
    rows = [row("sensitivity_change", v, v - 0.05, v + 0.05, attack="flip", rate=rate)
            for rate, v in ((0.1, -0.02), (0.2, -0.3))]
    rows += [row("accuracy_change", 0.0, -0.1, 0.1, attack="flip", rate=r) for r in (0.1, 0.2)]
    f = only(rows, "poisoning")
    assert f.level == "high" and "flip with 20%" in f.text and "worst of 2" in f.text and "−30 points" in f.text
    # rows in noise mode are touched, too: what was measured counts, not what was asked for
    rows += [row("poisoned_share", share, attack="flip", rate=r) for r, share in ((0.1, 0.3), (0.2, 0.6))]
    assert "flip with 60% of the training rows touched" in only(rows, "poisoning").text


@pytest.mark.parametrize("hurt", ["sensitivity", "specificity", "balanced_accuracy", "accuracy"])
def test_poisoning_is_judged_by_what_loses_most(hurt):
    """A model that calls everyone ill loses no sensitivity, and 25 points of accuracy."""
    rows = [row(f"{name}_change", v, v - 0.06, v + 0.06, attack="flip", rate=0.2)
            for name, v in {"sensitivity": 0.02, "specificity": 0.0, "accuracy": -0.01, "balanced_accuracy": 0.0,
                            hurt: -0.25}.items()]
    f = only(rows, "poisoning")
    assert f.level == "medium" and f"changes {hurt.replace('_', ' ')} by −25 points" in f.text
    assert "the worst of 1 poisoning." in f.text


def test_a_trigger_that_works_without_a_backdoor_shows_none():
    at = {"attack": "backdoor", "rate": 0.05}

    def planted(hit, base, lift):
        return [row("attack_success_rate", *hit, **at), row("base_rate", *base, **at), row("lift", *lift, **at)]
    f = only(planted((1.0, 0.9, 1.0), (0.99, 0.9, 1.0), (0.01, 0.0, 0.04)), "backdoor")
    assert f.level == "inconclusive" and "cannot show a backdoor" in f.text
    f = only(planted((1.0, 0.9, 1.0), (0.2, 0.1, 0.3), (0.8, 0.7, 0.9)), "backdoor")
    assert f.level == "high" and "80 points (70 to 90)" in f.text and "decides for the attacker's label" in f.text
    f = only(planted((0.07, 0.03, 0.18), (0.0, 0.0, 0.07), (0.07, 0.02, 0.15)), "backdoor")
    assert f.level == "inconclusive" and f.text.startswith("The trigger works on a few")


def test_a_collapsed_model_is_flagged_and_never_praised():
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55))
    rows += clean(defense="x", balanced=(0.5, 0.5, 0.5), collapsed=1.0)
    rows += evasion((0.0, 0.0, 0.04), (0.75, 0.66, 0.82), defense="x")
    f = only(rows, "defense", defense="x")
    assert f.level == "high" and "Collapsed" in f.text and "Improves" not in f.text


def change(metric, value, low, high, **fields):
    """A row of what a defense changed, patient by patient."""
    where = {"attack": "worst-case", "eps": 0.05} if metric.startswith("robust") else {}
    return row(f"gain[{metric}]", value, low, high, defense="x", **where | fields)


def test_a_defense_whose_changes_reach_across_0_gains_nothing():
    rows = [*clean(), *clean(defense="x"), change("robust_balanced_accuracy", 0.08, -0.01, 0.17)]
    f = only(rows, "defense", defense="x")
    assert f.level == "inconclusive"
    assert f.text.startswith("Behind x. Not statistically significant")
    assert "balanced robust accuracy 8 points (−1 to 17)" in f.text


def test_without_the_same_attacks_on_both_nothing_is_said_of_robustness():
    rows = clean() + evasion((0.4, 0.3, 0.5), (0.45, 0.36, 0.55)) + clean(defense="x")
    rows += evasion((0.05, 0.0, 0.1), (0.7, 0.6, 0.78), defense="x", attack="weaker")
    assert not found(rows, "defense", defense="x")


@pytest.mark.parametrize(("balanced", "more", "level", "says"), [
    ((0.7, 0.6, 0.8), [], "low", "Improves balanced robust accuracy 25 points (16 to 34)"),
    ((0.55, 0.51, 0.59), [], "inconclusive", "Worsens balanced accuracy 0.70 (0.60–0.80) → 0.55 (0.51–0.59)"),
    ((0.7, 0.6, 0.8), [change("sensitivity", -0.13, -0.22, -0.05)], "inconclusive",
     "Worsens sensitivity −13 points (−22 to −5)"),
    ((0.7, 0.6, 0.8), [row("membership_auroc", 0.6, 0.5, 0.7, attack="a"),
                       row("membership_auroc", 0.7, 0.6, 0.8, attack="a", defense="x"),
                       change("membership_auroc", 0.1, 0.02, 0.18, attack="a")], "inconclusive",
     "Worsens membership AUROC 0.60 → 0.70, a change of 0.10 (0.02–0.18)")])
def test_a_defense_is_praised_only_without_clear_costs(balanced, more, level, says):
    rows = [*clean(), *clean(defense="x", balanced=balanced), change("robust_accuracy", 0.3, 0.2, 0.4),
            change("robust_balanced_accuracy", 0.25, 0.16, 0.34), *more]
    f = only(rows, "defense", defense="x")
    assert f.level == level and says in f.text


def test_a_class_of_few_that_may_be_missed_often_is_not_hidden_by_one_of_many():
    rows = [row("recall[well]", 0.85, 0.83, 0.87, 2000), row("recall[ill]", 0.86, 0.55, 0.97, 12),
            row("accuracy", 0.85, 0.83, 0.87, 2012)]
    f = only(rows, "performance")
    assert f.level == "inconclusive" and "of 12 patients of class “ill”, the least certain of 2 classes" in f.text


@pytest.mark.parametrize("order", [1, -1])
def test_every_trigger_counts(order):
    def ran(cell, lift, base=0.0):
        return [row(m, *v, attack="backdoor", rate=0.05).model_copy(update={"cell": cell}) for m, v in (
            ("lift", lift), ("attack_success_rate", lift), ("base_rate", (base, base, base)))]

    calm, works, blind = ran("a", (0.01, 0.0, 0.05)), ran("b", (0.8, 0.7, 0.9)), ran("c", (0.01, 0.0, 0.05), 0.95)
    assert only(calm, "backdoor").level == "low"
    both = [calm, works][::order]
    f = only([*both[0], *both[1]], "backdoor")
    assert f.level == "high" and "80 points" in f.text and f.text.endswith("The worst of 2 triggers.")
    both = [calm, blind][::order]
    f = only([*both[0], *both[1]], "backdoor")
    assert f.level == "inconclusive" and "cannot show a backdoor" in f.text
