"""What the report says of membership inference, from hand-made rows and scores."""

import numpy as np
import pytest

from suite.report.figures import charts as figures
from suite.report.rows import Rows
from suite.report.rules.privacy import membership as judged
from suite.report.sections import membership
from suite.results.measurement import Measurement
from tests.support.rows import clean, manifest, row

# of 10 members and 10 others, three members stand above all others; one other ties with the fourth
SCORE = np.r_[9.0, 8.0, 7.0, 5.0, np.zeros(6), 5.0, np.zeros(9) - 1]
KEPT = {"score": SCORE, "member": np.arange(20) < 10, "row": np.arange(100, 120)}


def attack(name, value, low, high, model="m", defense="none", n=20):
    at = {"model": model, "defense": defense, "attack": name}
    return [row("membership_auroc", value, low, high, n=n, queries=3.0, **at),
            row("membership_advantage", 0.4, 0.3, 0.5, **at), row("membership_null", 0.52, 0.4, 0.6, **at),
            row("resolvable_fpr", 0.1, **at), row("tpr_at_fpr[0.1]", 0.4, 0.3, 0.5, **at)]


@pytest.fixture
def rows():
    found = [*clean(), row("train_accuracy", 0.95, 0.9, 0.97), *attack("lucky", 0.9, 0.45, 0.99),
             *attack("strong", 0.8, 0.7, 0.9), *attack("strong", 0.55, 0.45, 0.65, defense="d")]
    found += [row("membership_auroc", v, v - 0.1, v + 0.1, n=8, attack="strong", subgroup=g)
              for g, v in (("sex=F", 0.9), ("sex=M", 0.6), ("class=ill", 0.7))]
    found += [row("membership_auroc", 0.99, 0.9, 1.0, attack="lucky", subgroup="sex=F")]
    return Rows(found, manifest())


def cells(table):
    return {tuple(c.text for c in line) for _, group in table.groups for line in group}


def test_attacks_stand_in_the_order_of_what_is_sure_and_the_gap_beside_them(rows):
    assert [r.attack for r in membership.ranked(rows, "m")] == ["strong", "lucky"]
    table = membership.table(rows)
    assert [name for name, _ in table.groups] == [
        "m: right on 95% (90–97%) of training patients, on 75% (66–82%) of others", "m behind d"]
    assert [line[0].text for line in table.groups[0][1]] == ["strong", "lucky"]
    line = dict(zip(table.head, (c.text for c in table.groups[0][1][0]), strict=True))
    assert line["AUROC"] == "0.80 (0.70–0.90)" and line["smallest FPR"] == "10%"
    assert line["members against members"] == "0.52 (0.40–0.60)" and line["TPR at 10% FPR"] == "0.40 (0.30–0.50)"
    assert "TPR at 1% FPR" not in table.head and "withheld (here at 0.1%, 1% and 5% FPR)" in table.note


def test_an_attack_that_ran_twice_stands_twice(rows):
    twice = [r for v, k, cell in ((0.6, 16, "a"), (0.9, 64, "b")) for r in (
        Measurement(**{**vars(m), "cell": cell, "attack_params": {"shadows": k}})
        for m in attack("rmia", v, v - 0.05, v + 0.05))]
    found = Rows([*clean(), *twice], manifest())
    table = membership.table(found)
    assert [(line[0].text, line[2].text) for line in table.groups[0][1]] == [
        ("rmia (shadows = 64)", "0.90 (0.85–0.95)"), ("rmia", "0.60 (0.55–0.65)")]
    finding, = judged(found)
    assert "AUROC 0.90 (0.85–0.95) by rmia (shadows = 64), the worst of 2 attacks" in finding.text
    named = membership.exposed(found, lambda cell: KEPT if cell == "b" else {})
    assert named.groups[0][1][0][1].text == "rmia (shadows = 64)"


def test_the_verdict_is_that_of_the_worst_attack(rows):
    finding, = judged(rows)
    assert "AUROC 0.80 (0.70–0.90) by strong, the worst of 2 attacks" in finding.text


def test_groups_are_told_of_the_strongest_attack(rows):
    assert cells(membership.groups(rows)) == {("F", "0.90 (0.80–1.00)", "8"), ("M", "0.60 (0.50–0.70)", "8"),
                                              ("ill", "0.70 (0.60–0.80)", "8")}


def test_the_most_exposed_are_named_by_row_and_only_where_somebody_surely_is(rows):
    table = membership.exposed(rows, lambda cell: KEPT if cell == "m--none--strong" else {})
    listed = [tuple(c.text for c in line) for _, group in table.groups for line in group]
    assert listed[:4] == [("100", "strong", "0 of 10"), ("101", "strong", "0 of 10"), ("102", "strong", "0 of 10"),
                          ("103", "strong", "1 of 10")]
    assert len(listed) == 10 and all(int(number) < 110 for number, *_ in listed)  # members only
    shadowed = membership.exposed(rows, lambda _: KEPT | {"patient_auroc": np.linspace(1, 0, 20)})
    assert shadowed.head[3] == "AUROC over shadow models" and shadowed.groups[0][1][1][3].text == "0.95"
    unsure = Rows([*clean(), *attack("lucky", 0.9, 0.45, 0.99)], manifest())
    assert not membership.exposed(unsure, lambda _: KEPT)


def test_the_roc_shows_the_strongest_attacks_and_says_so(rows, recwarn):
    found = figures.roc(rows, lambda _: KEPT)
    (title, picture), = found.panels
    assert title == "m: strong, lucky" and len(found.legend) == 2
    assert 'aria-label="ROC on logarithmic axes, m: strong AUROC 0.80 (0.70–0.90), lucky AUROC' in picture
    assert not recwarn
    assert not figures.roc(rows, lambda _: {}).panels
    assert not figures.roc(Rows(clean(), manifest()), lambda _: KEPT).panels


def test_what_all_rows_of_a_patient_give_away_stands_beside_it():
    found = [*clean(), *attack("rmia", 0.51, 0.48, 0.54),
             row("patient_membership_auroc[max]", 0.8, 0.75, 0.85, attack="rmia")]
    table = membership.table(Rows(found, manifest()))
    line = dict(zip(table.head, (c.text for c in table.groups[0][1][0]), strict=True))
    assert line["AUROC by the largest score of a patient's rows"] == "0.80 (0.75–0.85)"
    assert "AUROC by the mean score of these" not in table.head
