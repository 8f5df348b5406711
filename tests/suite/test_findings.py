"""Findings: hand-made rows with known verdicts."""

import pytest

from suite.errors import UNTRAINED
from suite.report.findings import LEVELS, THRESHOLDS, TOPICS, grade, widened
from suite.report.judge.every import CHECKS, JUDGES, checks, findings
from tests.suite._rows import clean, evasion, manifest, row


def found(rows, topic, model="m", defense="none"):
    return [f for f in findings(rows, manifest()) if (f.topic, f.model, f.defense) == (topic, model, defense)]


def only(rows, topic, **where):
    (one,) = found(rows, topic, **where)
    return one


def about(rows, section):
    """The checks of the audit itself that lead to a section; none of them is a finding."""
    return [c.text for c in checks(rows, manifest()) if c.section == section]


@pytest.mark.parametrize(("low", "high", "level"), [
    (0.31, 0.5, "high"), (0.3, 0.5, "high"), (0.29, 0.5, "medium"), (0.1, 0.2, "medium"), (0.09, 0.6, "inconclusive"),
    (0.0, 0.1, "inconclusive"), (0.0, 0.09, "low")])
def test_a_level_needs_the_whole_interval(low, high, level):
    assert grade("evasion", low, high) == level


def test_choosing_among_many_widens_the_interval():
    r = row("x", 0.1, 0.05, 0.2)
    assert widened(r, 1) == pytest.approx((0.05, 0.2))
    # z(1 - 0.025 / 8) / z(0.975) = 2.7344 / 1.9600
    assert widened(r, 8) == pytest.approx((0.1 - 1.39515 * 0.05, 0.1 + 1.39515 * 0.1), abs=1e-4)
    low, high = widened(row("x", 0.1), 2)
    assert low < -1e9 and high > 1e9


def test_every_level_and_topic_has_a_meaning():
    assert set(THRESHOLDS) < set(TOPICS)
    assert all(colour and meaning for colour, meaning in LEVELS.values())
    assert all(t.medium < t.high for t in THRESHOLDS.values())


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


@pytest.mark.parametrize(("difference", "level"), [((0.02, -0.05, 0.09), "inconclusive"), ((0.2, 0.1, 0.3), "high")])
def test_where_noise_does_as_much_the_budget_says_nothing_about_attackers(difference, level):
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), noise=(0.38, 0.3, 0.46))
    f = only([*rows, lift("pgd", *difference)], "evasion")
    assert f.level == level
    assert ("the budget is too large to say anything about attackers" in f.text) == (level == "inconclusive")


def test_one_attack_that_beats_noise_is_enough():
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), noise=(0.2, 0.14, 0.28))
    assert only([*rows, lift("fgsm", 0.0, -0.1, 0.1), lift("pgd", 0.2, 0.12, 0.28)], "evasion").level == "high"
    # 0.01 above 0 alone; as the best of five it may be chance
    many = [lift(f"a{k}", 0.1, 0.01, 0.19) for k in range(5)]
    assert only([*rows, *many], "evasion").level == "inconclusive"


def test_noise_that_changes_more_than_the_attacks_is_said():
    rows = clean() + evasion((0.02, 0.0, 0.08), (0.75, 0.66, 0.82), noise=(0.2, 0.14, 0.28))
    f = only(rows, "evasion")
    assert f.level == "inconclusive" and "20% (14–28%)" in f.text and "lower bound of the risk" in f.text
    assert "Not distinguishable from random noise" in f.text


def test_only_noise_is_no_evidence_of_robustness():
    rows = clean() + [r for r in evasion((0.0, 0.0, 0.04), (0.75, 0.66, 0.82)) if r.attack != "pgd"]
    f = only(rows, "evasion")
    assert f.level == "inconclusive" and "no attack was tried" in f.text


def test_a_collapsed_model_is_flagged_and_never_praised():
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55))
    rows += clean(defense="x", balanced=(0.5, 0.5, 0.5), collapsed=1.0)
    rows += evasion((0.0, 0.0, 0.04), (0.75, 0.66, 0.82), defense="x")
    f = only(rows, "defense", defense="x")
    assert f.level == "high" and "Collapsed" in f.text and "Improves" not in f.text


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


def auroc(attack, value, low, high, n=308, **at):
    return row("membership_auroc", value, low, high, n=n, attack=attack, **at)


def test_membership_is_judged_by_the_worst_attack_with_a_widened_lower_end():
    rows = [auroc("rmia", 0.58, 0.551, 0.6), auroc("b", 0.4, 0.3, 0.45)]
    f = only(rows, "membership")
    assert "by rmia, the worst of 2 attacks" in f.text and "0.58 (0.55–0.60)" in f.text
    assert f.level == "inconclusive"  # 0.551 alone would be medium
    assert only(rows[:1], "membership").level == "medium"


def test_an_attack_that_leaves_it_open_is_not_outvoted_by_a_calm_one_that_is_surer():
    # issue 13: "good, 0.51 (0.50 to 0.54)" while label-only reached 0.74 on few patients
    rows = [auroc("membership-rule", 0.51, 0.5, 0.54), auroc("membership-label-only", 0.74, 0.49, 0.9, n=48)]
    f = only(rows, "membership")
    assert f.level == "inconclusive" and f.figure == "0.74" and "by membership-label-only, the worst of 2" in f.text


def test_membership_is_low_only_where_a_strong_attack_ran_and_every_upper_end_is_under_the_threshold():
    calm, strong = auroc("membership-rule", 0.51, 0.49, 0.54), auroc("rmia", 0.51, 0.48, 0.54)
    weak = only([calm], "membership")
    assert weak.level == "inconclusive" and "No strong attack of this kind ran on this model: not lira" in weak.text
    assert "--attacks lira" in weak.command
    assert only([calm, strong], "membership").level == "low"
    few = strong.model_copy(update={"attack_params": {"shadows": 2}})
    assert only([calm, few], "membership").level == "inconclusive"
    assert only([calm, strong, auroc("membership-loss", 0.51, 0.46, 0.56)], "membership").level == "inconclusive"


def test_only_strong_attacks_that_can_be_used_on_the_model_are_asked_for():
    made = manifest(suited={"m": ["rmia-offline", "membership-loss"]})
    f, = (f for f in findings([auroc("membership-loss", 0.5, 0.47, 0.53)], made) if f.topic == "membership")
    assert "not rmia-offline." in f.text and f.command.endswith("--attacks rmia-offline --defenses none "
                                                                "--out runs/rmia-offline")


def test_of_a_model_whose_training_set_is_unknown_membership_is_not_tested():
    rows = [*clean(), row("sensitivity", 0.95, 0.9, 0.99), auroc("rmia", 0.5, 0.47, 0.53)]
    made = manifest(training_known={"m": False})
    member, = (f for f in findings(rows, made) if f.topic == "membership")
    assert member.level == "not tested" and "--split COLUMN" in member.text and "generalisation" in member.text
    seen, = (f for f in findings([row("sensitivity", 0.95, 0.9, 0.99)], made) if f.topic == "performance")
    assert seen.level == "inconclusive" and "may have learned from these very rows" in seen.text
    assert only(rows, "membership").level == "low"  # absent means known


def test_attribute_gain_counts_the_columns():
    rows = [row("attribute_gain", v, v - 0.02, v + 0.02, attack="a", column=c) for c, v in (("x", 0.2), ("y", 0.01))]
    f = only(rows, "attribute")
    assert f.level == "high" and "helps to guess x beyond imputation, among 2 columns" in f.text


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


def stolen(*copies):
    """Rows of a theft: (answers asked, agreement, that of own labels)."""
    return [r for b, copy, own in copies for r in (
        row("fidelity", copy, copy - 0.03, copy + 0.02, attack="k", budget=b),
        row("fidelity_of_own_labels", own, own - 0.05, own + 0.05, attack="k", budget=b),
        row("fidelity_gain", copy - own, copy - own - 0.04, copy - own + 0.04, attack="k", budget=b))]


def test_a_copy_of_an_easy_task_takes_nothing_that_labels_of_ones_own_would_not_give():
    f = only(stolen((25, 0.95, 0.94), (400, 0.97, 0.96)), "extraction")
    assert f.level not in ("high", "medium") and "25 answers agrees with the model on 95%" in f.text
    assert "labels of the attacker's own (all that it has, if fewer), 94%: the answers add 1 point" in f.text
    f = only(stolen((25, 0.95, 0.94), (400, 0.97, 0.62)), "extraction")
    assert f.level == "high" and "from 400 answers" in f.text and "35 points" in f.text and f.figure == "35 pt"


def test_extraction_tells_what_transfers_back_and_whether_it_is_noticed():
    rows = stolen((400, 0.95, 0.9))
    assert "noise" not in only(rows, "extraction").text and "noticed" not in only(rows, "extraction").text
    rows += [row(f"transfer_{k}", v, 0.01, 0.3, attack="k", budget=400) for k, v in (("back", 0.2), ("noise", 0.04))]
    rows.append(row("false_alarms", 0.1, 0.03, 0.3, 20, attack="k", budget=400))
    text = only(rows, "extraction").text
    assert "fools the model on 20%" in text and "noise of the same size on 4%" in text and "is not noticed" in text
    rows.append(row("alarm_after", 57.0, attack="k", budget=400))
    assert "noticed after 57; false alarms, 10%" in only(rows, "extraction").text


def test_inversion_farther_than_the_prior_is_no_leak():
    rows = [row("inversion_distance[ill]", 0.3, attack="inversion"),
            row("inversion_prior_distance[ill]", 0.1, attack="inversion")]
    assert only(rows, "inversion").level == "low"
    rows[0] = row("inversion_distance[ill]", 0.04, attack="inversion")
    assert only(rows, "inversion").level == "high"
    rows[0] = row("inversion_distance[ill]", 0.09, attack="inversion")
    assert only(rows, "inversion").level == "inconclusive"  # nearer, and without an interval
    weak = [row("inversion_distance[ill]", 0.3, attack="miface"), row("inversion_prior_distance[ill]", 0.1,
                                                                      attack="miface")]
    assert only(weak, "inversion").level == "inconclusive" and "--attacks inversion" in only(weak, "inversion").command


def test_inversion_tells_what_another_model_makes_of_the_best_reconstruction():
    rows = [row(f"inversion_{m}[ill]", v, attack="i") for m, v in (
        ("distance", 0.04), ("prior_distance", 0.1), ("recognized", 0.93), ("prior_recognized", 0.41))]
    text = only(rows, "inversion").text
    assert "takes it for “ill” with a probability of 93%, and the mean of everyone with 41%" in text


@pytest.mark.parametrize(("rebuilt", "level"), [((1.0, 0.93, 1.0), "high"), ((0.0, 0.0, 0.005), "low"),
                                                ((0.06, 0.02, 0.16), "medium"),
                                                ((0.02, 0.0, 0.1), "inconclusive")])
def test_reconstruction_is_judged_by_how_many_patients_are_rebuilt(rebuilt, level):
    rows = [row(f"rows_rebuilt{end}", *value, n=50, attack="database-reconstruction")
            for end, value in (("", rebuilt), ("_baseline", (0.0, 0.0, 0.07)))]
    found = only(rows, "reconstruction")
    assert found.level == level and "left-out training patients" in found.text


@pytest.mark.parametrize(("independent", "level"), [(3.0, "low"), (3.1, "low"), (4.0, "high"),
                                                    (None, "inconclusive")])
def test_a_claimed_epsilon_needs_confirmation(independent, level):
    rows = [row("note[epsilon_claimed]", 3.0, defense="dp"), row("note[delta]", 1e-3, defense="dp")]
    rows += [row("note[epsilon_independent]", independent, defense="dp")] if independent else []
    assert only(rows, "defense", defense="dp").level == level


def test_an_epsilon_does_not_cover_what_was_taken_from_the_patients_before():
    rows = [row(f"note[epsilon_{who}]", 3.0, defense="dp") for who in ("claimed", "independent")]
    (f,) = findings(rows, manifest(fitted=["the range of each column", "the medians filled in for missing values"]))
    assert f.level == "medium" and "the range of each column and the medians" in f.text
    assert "no such guarantee" in f.text


def test_an_epsilon_is_told_with_whom_it_protects_and_that_of_a_row_protects_no_patient():
    def told(unit, most):
        at = {"unit": unit, "neighbors": "added or removed", "defense": "dp"}
        rows = [*(row(f"note[epsilon_{name}]", value, **at) for name, value in (
            ("claimed", 3.0), ("independent", 2.98), ("replace_one", 6.1))), row("note[rows_per_patient]", most,
                                                                                 defense="dp")]
        return next(f for f in findings(rows, {}) if f.topic == "defense")

    by_row, alone, by_patient = told("row", 4), told("row", 1), told("patient", 4)
    assert "for one row, added or removed" in by_row.text and "one replaced by another it is 6.10" in by_row.text
    assert "up to 4 rows here: ε of a row does not protect a patient with several" in by_row.text
    assert by_row.level == "medium" != alone.level == by_patient.level
    assert "does not protect" not in alone.text + by_patient.text
    assert "for one patient, added or removed" in by_patient.text


def audit(shown, gaussian, claimed):
    at = {"defense": "dp", "attack": "one-run", "confidence": 0.9}
    rows = [row("epsilon_audited", shown, n=150, **at), row("epsilon_audited_gdp", gaussian, n=150, **at),
            row("canary_guesses_right", 0.95, 0.87, 0.99, 80, **at), row("delta", 1e-4, **at)]
    return rows + ([row("epsilon_claimed", claimed, **at)] if claimed else [])


@pytest.mark.parametrize(("shown", "gaussian", "level", "says"), [
    (1.2, 2.6, "high", "The claim of ε = 0.99 at δ = 0.0001 is false at 90% confidence: 150 canaries "
     "show an ε of at least 1.20, with 95% of 80 guesses right."),
    (0.8, 1.4, "medium", "if the trade-off curve is that of Gaussian noise: ε is at least 1.40 then. Without that, at "
     "least 0.80.")])
def test_a_claimed_epsilon_is_held_against_what_an_audit_has_shown(shown, gaussian, level, says):
    f = only(audit(shown, gaussian, 0.99), "privacy budget", defense="dp")
    assert f.level == level and says in f.text


def test_a_claim_that_is_not_refuted_is_proven_by_nobody_and_no_finding():
    rows = audit(0.0, 0.7, 0.99)
    assert not found(rows, "privacy budget", defense="dp")
    says, = about(rows, "epsilon")
    assert "is not refuted: 150 canaries show an ε of at least 0.00 at 90% confidence" in says


def test_where_the_curve_of_a_training_is_known_it_decides():
    def own(refuted):
        return [*audit(0.8, 1.4, 0.99), row("claim_refuted", refuted, n=150, defense="dp", attack="one-run",
                                            confidence=0.9)]

    f = only(own(1.0), "privacy budget", defense="dp")
    assert f.level == "high" and ("right more often than the training's own trade-off curve allows. Whatever the "
                                  "curve, ε is at least 0.80; for a Gaussian one, 1.40.") in f.text
    assert not found(own(0.0), "privacy budget", defense="dp") and "is not refuted" in about(own(0.0), "epsilon")[0]


def test_where_nothing_is_claimed_an_audit_refutes_nothing():
    assert findings(audit(1.2, 2.6, None), manifest()) == []


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


def test_errors_are_findings_and_the_same_error_is_said_once():
    rows = [row("error", None, attack="a", model=m, error="ValueError: boom (x.py:1)") for m in ("m", "k")]
    (f,) = findings(rows, manifest())
    assert f.level == "error" and f.model == "m and k" and "boom" in f.text and "2 cells" in f.text


def test_a_detector_that_failed_is_named():
    failed = row("error", None, error="E: boom").model_copy(update={"cell": "m--none--detect-watch"})
    (f,) = findings([failed], manifest())
    assert f.text.startswith("watch failed (1 cell)")


def test_what_follows_from_a_failed_training_is_said_once_and_last():
    rows = [row("error", None, error="ValueError: boom (x.py:1)")]
    rows += [row("error", None, attack=a, error=f"InputError: {UNTRAINED} m to work with (a.py:2)") for a in "abc"]
    cause, rest = findings(rows, manifest())
    assert "boom" in cause.text and rest.model == "m" and rest.text.startswith("3 cells not available: training failed")


def test_worst_first_and_nothing_from_nothing():
    rows = clean() + evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55))
    rows += [row("membership_auroc", 0.5, 0.48, 0.52, attack="a"), row("error", None, attack="b", error="E: x")]
    levels = [f.level for f in findings(rows, manifest())]
    assert levels[:2] == ["error", "high"]  # of what failed nothing is known, so it comes first
    assert levels[1:] == sorted(levels[1:], key=list(LEVELS).index)
    assert findings([], manifest()) == []
    assert len({*JUDGES, *CHECKS}) == len(JUDGES) + len(CHECKS)


def detected(adaptive=(0.8, 0.7, 0.88), fitted_on=None):
    """Rows of one detector: it finds 90 % of PGD, 60 % of FGSM and all of noise."""
    marked = {"fitted_on": fitted_on} if fitted_on else {}
    rows = [row("detection_leak[watch]", 0.5, 0.45, 0.55), row("detection_fpr[watch@0.05]", 0.06, 0.03, 0.12)]
    for attack, tpr in (("pgd", (0.9, 0.8, 0.95)), ("fgsm", (0.6, 0.5, 0.7)), ("noise", (1.0, 0.9, 1.0))):
        found = row("detection_tpr[watch@0.05]", *tpr, n=50, attack=attack)
        rows.append(found.model_copy(update={"attack_params": marked}))
    if adaptive:
        rows += [row(f"{kind}_evasion[watch]", *value, n=70, attack="adaptive")
                 for kind, value in (("adaptive", adaptive), ("unguarded", (0.85, 0.75, 0.9)))]
    return rows


def watch(rows):
    says, = about(clean() + rows, "detection")
    return says


def test_a_detector_is_told_by_the_attack_that_knows_it_and_is_no_finding():
    says = watch(detected())
    assert "watch detects 60% (50–70%) of 50 inputs that fgsm got misclassified" in says
    assert "6% (3–12%), n" in says and "gets 80% (70–88%) of 70" in says and "85% (75–90%)" in says
    assert all("watch" not in f.text for f in findings(clean() + detected(), manifest()))


def test_what_a_detector_learned_from_and_noise_are_no_evidence():
    assert "90% (80–95%) of 50 inputs that pgd" in watch(detected(fitted_on="fgsm"))


def test_what_a_detector_finds_least_is_quoted_unless_of_few():
    few = row("detection_tpr[watch@0.05]", 0.2, 0.05, 0.5, n=9, attack="speckle")
    assert "of 50 inputs that fgsm" in watch([*detected(), few])
    enough = few.model_copy(update={"n": 10})
    assert "watch detects 20% (5–50%) of 10 inputs that speckle" in watch([*detected(), enough])


def test_where_only_the_attack_that_knows_the_detector_was_measured_nothing_is_compared():
    rows = [r for r in detected() if not r.metric.startswith("unguarded")]
    assert watch(rows).endswith("correctly classified inputs misclassified without an alarm.")


def test_a_detector_that_met_no_attack_which_knows_it_is_told_so():
    assert watch(detected(None)).endswith("No attack that knows the detector was tried.")
