"""What the report says of single patients, from hand-made rows."""

import pytest

from privacy.likelihood import OFFLINE, LiRA
from suite.report.findings import THRESHOLDS, TOPICS
from suite.report.page import SECTIONS, render
from suite.report.rows import Rows
from suite.report.rules.every import findings
from suite.report.rules.patients import single_patients
from suite.report.sections import patients
from suite.results.measurement import Measurement
from suite.shadows.patients import shadows_needed
from tests.support.rows import clean, manifest, row


def attack(share, k=64, name="lira", n=308, how="", worst=1.0, model="m", chance=0.0):
    at = {"model": model, "attack": name}
    rows = [row("membership_auroc", 0.55, 0.5, 0.6, n=n, **at), row("shadows_needed[share]", 58, n=k, **at),
            row("shadows_needed[patient]", 180, n=k, **at)]
    if share is not None:
        rows += [row(f"patients_above[0.9{how}]", *share, n=n, **at), row("patient_auroc[mean]", 0.55, 0.5, 0.6, **at),
                 row("patients_above_null[0.9]", chance, 0.0, 0.02, **at),
                 row("patient_tpr_at_fpr[0.01]", 1.0, 0.7, 1.0, **at),
                 row(f"patient_auroc[worst{how}]", worst, 0.745, 1.0, **at)]
    return rows


def only(*rows):
    found, = single_patients(Rows([*clean(), *(r for part in rows for r in part)], manifest()))
    return found


@pytest.mark.parametrize(("share", "level"), [
    ((0.3, 0.15, 0.5), "high"), ((0.2, 0.03, 0.5), "medium"), ((0.1, 0.0, 0.3), "inconclusive"),
    ((0.0, 0.0, 0.013), "low")])
def test_the_level_follows_from_the_interval_of_the_share(share, level):
    found = only(attack(share))
    assert found.level == level and found.topic == "single patients" in THRESHOLDS and found.topic in TOPICS
    assert "In 64 shadow models lira finds" in found.text and "of 308 patients" in found.text
    assert "the average patient has an AUROC of 0.55" in found.text and "cannot resolve" not in found.text


@pytest.mark.parametrize("share", [(0.0, 0.0, 0.001), (0.3, 0.0, 0.9), None])
def test_sixteen_models_or_fewer_never_calm_anyone_and_say_how_many_would_do(share):
    found = only(attack(share, 16 if share else 2, "rmia"))
    assert found.level == "inconclusive"
    assert "cannot resolve" in found.text and "58 are needed" in found.text and "180 to name" in found.text
    assert "Set shadows = 58" in found.text
    assert " --attacks lira " in found.command and min(LiRA().shadows, OFFLINE.shadows) >= shadows_needed()


def test_an_interval_across_the_threshold_is_said_to_settle_nothing():
    found = only(attack((0.1, 0.0, 0.3)))
    assert "Not settled: the interval includes the threshold of 2%" in found.text and not found.command


def test_few_models_that_show_a_large_share_all_the_same_do_not_hide_it():
    found = only(attack((0.83, 0.22, 1.0), 16, "rmia"))
    assert found.level == "high" and "cannot resolve" in found.text


def test_of_several_attacks_the_worst_is_told_and_one_with_few_models_unsettles_nothing():
    calm, blind = attack((0.0, 0.0, 0.013)), attack((0.03, 0.0, 0.4), 16, "rmia")
    assert only(calm, blind).level == "low"
    assert only(blind).level == "inconclusive"
    assert only(attack((0.2, 0.03, 0.5)), blind).level == "medium"  # the interval is not widened for it either
    found = only(calm, attack((0.3, 0.15, 0.5), name="lira-offline"), blind)
    assert found.level == "high" and "lira-offline" in found.text


def test_several_rows_of_a_patient_count_by_the_way_that_finds_most():
    rows = [*attack((0.05, 0.01, 0.2)), row("patients_above[0.9@max]", 0.3, 0.15, 0.5, n=308, attack="lira"),
            row("patient_auroc[worst@max]", 1.0, 0.745, 1.0, attack="lira")]
    found = only(rows)
    assert found.level == "high" and "lira (largest score of a patient's rows)" in found.text


def test_the_group_with_most_of_them_is_named():
    groups = [row("patients_above[0.9]", v, 0.0, 0.6, n=80, attack="lira", subgroup=f"site={s}")
              for s, v in (("Basel", 0.1), ("Long Beach", 0.4))]
    assert "Largest share: site=Long Beach, 40% (0–60%) of 80." in only(attack((0.2, 0.03, 0.5)), groups).text


def test_the_section_says_the_average_the_tail_and_what_the_models_can_resolve():
    few = [Measurement(**{**vars(r), "attack_params": {"shadows": 16}}) for r in attack((0.05, 0.0, 0.4), 16, "rmia")]
    groups = [row("patients_above[0.9]", 0.4, 0.1, 0.6, n=80, attack="lira", subgroup="site=Basel"),
              row("patient_auroc[worst]", 0.97, 0.7, 1.0, n=80, attack="lira", subgroup="site=Basel")]
    rows = [*clean(), *few, *attack((0.1, 0.03, 0.2)), *groups]
    table = patients.table(Rows(rows, manifest()))
    lines = [dict(zip(table.head, (c.text for c in line), strict=True)) for line in table.groups[0][1]]
    assert [line["shadow models"] for line in lines] == ["64", "16"]
    assert lines[0]["average AUROC"] == "0.55 (0.50–0.60)" and lines[0]["expected by chance"] == "0% (0–2%)"
    assert lines[0]["patients above AUROC 0.9"] == "10% (3–20%)"
    assert lines[1]["models needed for the share"] == "58" and lines[1]["models needed to name patients"] == "180"
    where = patients.groups(Rows(rows, manifest()))
    assert [c.text for c in where.groups[0][1][0]] == ["site=Basel", "lira", "40% (10–60%)", "0.97 (0.70–1.00)", "80"]
    page = render(rows, manifest())
    assert f'id="{SECTIONS["single patients"]}"' in page and "Leakage patient by patient" in page
    assert [f for f in findings(rows, manifest()) if f.topic == "single patients"]
    assert "Leakage patient by patient" not in render(clean(), manifest())


def test_what_few_models_show_is_not_hidden_by_a_calm_attack_with_many():
    found = only(attack((0.0, 0.0, 0.013)), attack((0.83, 0.22, 1.0), 56, "rmia"))
    assert found.level == "high" and "rmia finds 83%" in found.text
