"""Findings about privacy: hand-made rows with known verdicts."""

import pytest

from suite.report.rules.every import findings
from tests.support.rows import clean, manifest, only, row


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
    far = only(rows, "inversion")
    assert far.level == "inconclusive" and "no interval, so that nothing settles it" in far.text and not far.above
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


@pytest.mark.parametrize("order", [1, -1])
def test_of_an_attack_that_stole_twice_the_better_copy_counts(order):
    def ran(cell, gain):
        return [r.model_copy(update={"cell": cell, "attack": "knockoff"})
                for r in stolen((400, 0.5 + gain, 0.5))]

    rows = [ran("a", 0.4), ran("b", 0.0)][::order]
    f = only([*rows[0], *rows[1]], "extraction")
    assert f.level == "high" and "40 points" in f.text and "agrees with the model on 90%" in f.text
    weak = [r.model_copy(update={"attack": "k", "cell": "c"}) for r in stolen((400, 0.95, 0.5))]
    assert only([*ran("b", 0.0), *weak], "extraction").level == "high"  # one finding for all thefts of a model


@pytest.mark.parametrize("order", [1, -1])
def test_every_reconstruction_counts_each_against_its_own_baseline(order):
    def ran(cell, rebuilt, guess):
        return [row(f"rows_rebuilt{end}", *value, n=50, attack="database-reconstruction").model_copy(
            update={"cell": cell}) for end, value in (("", rebuilt), ("_baseline", (guess, guess, guess)))]

    both = [ran("a", (0.9, 0.8, 0.95), 0.0), ran("b", (0.9, 0.8, 0.95), 0.9)][::order]
    f = only([*both[0], *both[1]], "reconstruction")
    assert f.level == "high" and "their class is within 1% of 0%" in f.text


@pytest.mark.parametrize(("person", "level"), [((0.8, 0.75, 0.85), "high"), ((0.51, 0.48, 0.54), "low")])
def test_whoever_is_found_by_all_rows_of_a_patient_is_found(person, level):
    rows = [auroc("rmia", 0.51, 0.48, 0.54),
            row("patient_membership_auroc[max]", *person, n=308, attack="rmia"),
            row("patient_membership_auroc[mean]", 0.5, 0.47, 0.53, n=308, attack="rmia")]
    f = only(rows, "membership")
    assert f.level == level
    assert level == "low" or "AUROC 0.80 (0.75–0.85) by rmia (largest score of a patient's rows)" in f.text


def test_a_white_box_attack_on_a_model_is_no_curious_server():
    f = only([auroc("file.py:Own", 0.8, 0.75, 0.85, knowledge="white-box")], "membership")
    assert f.level == "high" and "by file.py:Own" in f.text


@pytest.mark.parametrize(("gain", "says"), [
    ((0.0, -0.02, 0.02), "hardly helps to guess any column"),
    ((0.04, -0.02, 0.1), "It is not settled whether the model's answer helps to guess any column")])
def test_what_helps_nobody_is_settled_where_it_is_low(gain, says):
    f = only([row("attribute_gain", *gain, attack="attribute-confidence", column="x")], "attribute",
             made=manifest(suited={"m": ["attribute-confidence"]}))
    assert (f.level == "low") == ("hardly" in says) and says in f.text


def test_on_rows_that_a_model_may_have_learned_from_no_theft_is_low():
    rows = [r.model_copy(update={"attack": "knockoff"}) for r in stolen((400, 0.5, 0.5))]
    assert only(rows, "extraction").level == "low"
    f = only(rows, "extraction", made=manifest(training_known={"m": False}))
    assert f.level == "inconclusive" and "training set of this fitted model is unknown" in f.text
