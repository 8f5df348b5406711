"""Findings about federations: hand-made rows with known verdicts."""

import pytest

from suite.report.findings import THRESHOLDS
from suite.report.rules.every import findings
from tests.support.rows import clean, manifest, row

AT = {"defense": "mean"}


def federation(collapsed=0.0, gains=((0.0, -0.1, 0.1), (0.0, -0.1, 0.1))):
    """Two hospitals, and what each gets for taking part."""
    own = [row(metric, *value, n=40, subgroup=f"hospital={name}", **AT) for name, gain in zip("ab", gains, strict=True)
           for metric, value in (("hospital_rows", (100.0,)), ("federation_gain", gain))]
    return [*clean(collapsed=collapsed, **AT), *own]


def attacked(attack, **changes):
    at = AT | {"attack": attack}
    return [row("hostile_hospitals", 1.0, n=4, **at), *(row(f"{k}_change", *v, **at) for k, v in changes.items())]


def found(rows, topic):
    return [f for f in findings(rows, manifest()) if f.topic == topic]


def only(rows, topic):
    (one,) = found(rows, topic)
    return one


@pytest.mark.parametrize(("change", "level"), [((-0.3, -0.35, -0.25), "high"), ((-0.15, -0.2, -0.1), "medium"),
                                               ((-0.1, -0.2, 0.0), "inconclusive"), ((0.0, -0.03, 0.03), "low")])
def test_hostile_hospitals_are_judged_as_poisoning_is(change, level):
    assert THRESHOLDS["hostile hospitals"][1:] == THRESHOLDS["poisoning"][1:]
    f = only([*federation(), *attacked("hostile-min-max", accuracy=change)], "hostile hospitals")
    assert f.level == level and f.defense == "mean" and f.text.startswith("Behind mean.")


def test_the_worst_attack_is_told_by_accuracy_and_by_sensitivity():
    rows = [*federation(), *attacked("hostile-x", accuracy=(-0.1, -0.15, -0.06), sensitivity=(0.1, 0.0, 0.2)),
            *attacked("hostile-y", accuracy=(-0.05, -0.1, 0.0), sensitivity=(-0.4, -0.45, -0.35))]
    assert ("Under y, hostile hospitals change sensitivity by −40 points (−45 to −35), n\u00a0=\u00a0100; the worst of "
            "2 attacks.") in only(rows, "hostile hospitals").text


@pytest.mark.parametrize("hurt", ["specificity", "balanced_accuracy"])
def test_a_federation_that_calls_everyone_ill_is_not_let_off_for_its_sensitivity(hurt):
    changes = {"sensitivity": (0.3, 0.2, 0.4), "accuracy": (-0.02, -0.1, 0.06), hurt: (-0.6, -0.7, -0.5)}
    f = only([*federation(), *attacked("hostile-x", **changes)], "hostile hospitals")
    assert f.level == "high" and f"change {hurt.replace('_', ' ')} by −60 points" in f.text


def test_choosing_among_attacks_widens_the_interval():
    change = {"accuracy": (-0.1, -0.145, -0.055)}  # medium alone, and not among ten
    assert only([*federation(), *attacked("hostile-x", **change)], "hostile hospitals").level == "medium"
    rows = [*federation(), *(r for k in range(10) for r in attacked(f"hostile-{k}", **change))]
    assert only(rows, "hostile hospitals").level == "inconclusive"


def test_what_hostile_hospitals_do_to_a_collapsed_model_is_no_finding():
    assert not found([*federation(collapsed=1.0), *attacked("hostile-x", accuracy=(0.0, -0.03, 0.03))],
                     "hostile hospitals")


@pytest.mark.parametrize(("lift", "level", "says"), [
    ((0.7, 0.6, 0.8), "high", "The trigger of hostile hospitals (backdoor) decides for the attacker's label: 80%"),
    ((0.04, 0.01, 0.08), "low", "The trigger of hostile hospitals (backdoor) works on a few"),
    ((0.0, -0.05, 0.05), "low", "No backdoor effect of hostile hospitals (backdoor)")])
def test_a_backdoor_by_hospitals_is_judged_as_any_other(lift, level, says):
    rows = [*federation(), *attacked("hostile-backdoor"), row("lift", *lift, attack="hostile-backdoor", **AT),
            row("attack_success_rate", 0.8, 0.7, 0.9, attack="hostile-backdoor", **AT),
            row("base_rate", 0.1, 0.05, 0.2, attack="hostile-backdoor", **AT)]
    f = only(rows, "backdoor")
    assert f.level == level and says in f.text and f.defense == "mean"


@pytest.mark.parametrize(("auroc", "level", "says"), [
    ((0.82, 0.78, 0.86), "high", "Training patients can be told from others by a server that sees the updates: AUROC "
     "0.82 (0.78–0.86) by fedmia, n\u00a0=\u00a0100"),
    ((0.5, 0.47, 0.53), "low", "can hardly be told from others by a server")])
def test_a_curious_server_is_judged_as_membership_is(auroc, level, says):
    assert THRESHOLDS["curious server"][1:] == THRESHOLDS["membership"][1:]
    rows = [*federation(), row("membership_auroc", *auroc, attack="fedmia", knowledge="white-box", **AT),
            row("membership_auroc", 0.99, 0.98, 1.0, attack="loss", knowledge="score", **AT)]
    f = only(rows, "curious server")
    assert f.level == level and says in f.text


def rebuilt(metric, patients, value, guess):
    return [row(metric + end, *found, n=16, attack="gradient-inversion", **AT).model_copy(update={
        "attack_params": {"patients": patients}}) for end, found in (("", value), ("_baseline", guess))]


@pytest.mark.parametrize(("of_one", "level"), [((1.0, 0.8, 1.0), "high"), ((0.0, 0.0, 0.005), "low")])
def test_rebuilt_patients_are_held_against_guessing(of_one, level):
    rows = [*federation(), *rebuilt("patients_rebuilt", 1, of_one, (0.0,)),
            *rebuilt("patients_rebuilt", 4, (0.0, 0.0, 0.005), (0.0,))]
    f = only(rows, "rebuilt patients")
    assert f.level == level and "of a hospital of 1 patient, gradient-inversion rebuilds" in f.text
    assert "by guessing, 0%. The most of 2 sizes of hospital." in f.text
    nothing = [*federation(), *rebuilt("patients_rebuilt", 1, (0.95, 0.9, 1.0), (0.95,))]
    assert only(nothing, "rebuilt patients").level == "inconclusive"  # guessing does as much


def test_under_secure_aggregation_the_server_sees_the_mean():
    rows = [*federation(), row("membership_auroc", 0.8, 0.7, 0.9, attack="fedmia", knowledge="white-box", **AT),
            *rebuilt("patients_rebuilt", 1, (1.0, 0.8, 1.0), (0.0,))]
    rows = [r.model_copy(update={"defense_params": {"secure": True}}) for r in rows]
    assert "by a server that sees the mean of all updates: AUROC" in only(rows, "curious server").text
    assert ("From the mean of the first updates of hospitals of 1 patient, gradient-inversion"
            in only(rows, "rebuilt patients").text)


@pytest.mark.parametrize("ssim", [0.8, 0.2])
def test_rebuilt_images_have_no_interval_and_are_never_settled(ssim):
    f = only([*federation(), *rebuilt("rebuilt_ssim", 1, (ssim,), (0.3,))], "rebuilt patients")
    assert f.level == "inconclusive" and f"similarity of {ssim:.2f} (1 is the same, no interval)" in f.text


@pytest.mark.parametrize(("gains", "level"), [
    (((-0.4, -0.5, -0.3), (0.0, -0.1, 0.1)), "high"), (((-0.1, -0.17, -0.03), (0.0, -0.1, 0.1)), "inconclusive")])
def test_a_hospital_that_clearly_loses_by_taking_part_is_named(gains, level):
    f = only(federation(gains=gains), "taking part")
    assert f.level == level and "a loses by taking part: accuracy −" in f.text and "n\u00a0=\u00a040." in f.text


def test_of_two_that_lose_the_worst_is_named_and_of_none_nothing_is_said():
    both = federation(gains=((-0.2, -0.3, -0.1), (-0.4, -0.5, -0.3)))
    assert "b loses by taking part" in only(both, "taking part").text
    assert "; 2 of 2 hospitals clearly lose." in only(both, "taking part").text
    # -0.01 alone, and 0.00 as the worse of two
    assert not found(federation(gains=((-0.1, -0.195, -0.005), (0.0, -0.1, 0.1))), "taking part")


def test_of_all_sizes_of_hospital_the_one_that_is_not_settled_decides():
    rows = [*federation(), *rebuilt("patients_rebuilt", 1, (0.004, 0.0, 0.008), (0.0,)),
            *rebuilt("patients_rebuilt", 4, (0.0, 0.0, 0.2), (0.0,))]
    f = only(rows, "rebuilt patients")
    assert f.level == "inconclusive" and "of a hospital of 4 patients" in f.text


def test_a_hospital_that_may_lose_much_is_not_hidden_by_one_that_clearly_loses_little():
    little, open_ = (-0.03, -0.045, -0.015), (-0.02, -0.3, 0.26)
    assert only(federation(gains=(little, little)), "taking part").level == "low"
    f = only(federation(gains=(little, open_)), "taking part")
    assert f.level == "inconclusive" and f.text.startswith("Behind mean. a loses by taking part: accuracy −3 points")
