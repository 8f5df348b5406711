"""The federation's section of the report, from rows made by hand."""

from suite.report.page import render
from suite.report.rows import Rows
from suite.report.sections import federation
from tests.suite import _rows
from tests.suite._rows import row

SITES = ("hospital=a", "hospital=b")


def hospitals(defense, own=(0.9, 0.5), distance=(0.1, 0.4), size=(200, 50), change=(-0.1, -0.2, -0.05)):
    """Rows that a federation of two hospitals tells of itself, and of the same model trained in one place."""
    out = [row("accuracy", 0.8, n=60, subgroup=s) for s in SITES] if defense == "mean" else []
    for s, accuracy, apart, n in zip(SITES, own, distance, size, strict=True):
        at = {"subgroup": s, "defense": defense}
        out += [row("hospital_rows", n, **at), row("label_share[ill]", 0.25, **at), row("label_distance", apart, **at),
                row("local_accuracy", 0.7, 0.6, 0.8, **at), row("federated_accuracy", accuracy, n=60, **at),
                row("federation_gain", *change, **at), row("gain[accuracy]", *change, **at),
                row("bytes_sent", 4000.0, **at), row("work_seconds", 1.25, **at)]
    return out


def under(defense, attack, balanced, change, tolerated=1.0, hostile=1.0):
    at = {"defense": defense, "attack": attack}
    return [row("hostile_hospitals", hostile, n=4, **at), row("tolerated", tolerated, n=4, **at),
            row("attacked_balanced_accuracy", balanced, **at), row("accuracy_change", *change, **at)]


def texts(table):
    return [[cell.text for cell in cells] for _, group in table.groups for cells in group]


def tones(table):
    return [[cell.tone for cell in cells] for _, group in table.groups for cells in group]


LOST, HELD = (-0.3, -0.4, -0.2), (0.0, -0.05, 0.05)


def rows():
    return Rows([*_rows.clean(), *_rows.clean(defense="mean"), *_rows.clean(defense="median"), *hospitals("mean"),
                 *hospitals("median"), *under("mean", "hostile-x", 0.45, LOST, 0.0),
                 *under("mean", "hostile-y", 0.7, HELD), *under("median", "hostile-x", 0.69, HELD)], _rows.manifest())


def test_the_matrix_marks_what_is_clearly_lost_and_what_was_not_tried():
    table = federation.matrix(rows(), "m")
    assert table.head == ["joined by", "no attacker", "x", "y", "withstands"]
    assert texts(table) == [["mean", "0.70", "0.45", "0.70", "0 of 4"], ["median", "0.70", "0.69", "–", "1 of 4"]]
    assert tones(table)[0] == ["", "", "bad", "", ""] and not any(tones(table)[1])


def test_the_verdict_names_the_worst_attack_on_the_worst_and_on_the_best_rule():
    assert federation.verdict(rows(), "m") == (
        "At worst, hostile hospitals take from m 30 points of accuracy when joined by mean (to hostile-x), and 0 "
        "points of accuracy when joined by median (to hostile-x).")


def test_a_hospital_brings_gets_and_pays():
    table = federation.hospitals(rows(), "m", "mean")
    first = dict(zip(table.head, texts(table)[0], strict=True))
    assert first["hospital"] == "a" and first["training patients"] == "200" and first["“ill”"] == "25%"
    assert first["kB sent"] == "4" and first["federated"] == "0.90" and first["alone"] == "0.70 (0.60–0.80)"
    assert "personal" not in table.head and "ε" not in table.head  # nothing was measured
    assert tones(table)[0][table.head.index("federated less alone")] == "bad"


def test_costs_stand_by_hospital_and_mark_the_smallest_and_the_most_different():
    table = federation.costs(rows(), "m")
    assert table.head == ["trained", "a", "b (smallest, most different)"]
    assert texts(table) == [["with all rows in one place", "0.80", "0.80"], ["by mean", "0.90", "0.50"],
                            ["by median", "0.90", "0.50"]]
    assert tones(table)[1] == ["", "bad", "bad"]


def test_of_many_hospitals_the_smallest_and_most_different_have_columns():
    sites = [f"hospital={k:02d}" for k in range(30)]
    made = [row("hospital_rows", 100 - k, subgroup=s, defense="d") for k, s in enumerate(sites)]
    made += [row("label_distance", 1 / (1 + k), subgroup=s, defense="d") for k, s in enumerate(sites)]
    table = federation.costs(Rows([*_rows.clean(), *made], _rows.manifest()), "m")
    shown = [head[:2] for head in table.head[1:]]
    assert shown == ["00", "01", "02", "03", "04", "25", "26", "27", "28", "29"]
    assert "20 more hospitals are left out" in table.note


def test_what_a_curious_server_learns():
    at = {"defense": "mean"}
    made = [
        *rows().all, row("membership_auroc", 0.55, 0.5, 0.6, attack="loss", knowledge="score", **at),
        row("membership_auroc", 0.82, 0.78, 0.86, attack="updates", knowledge="white-box", **at),
        row("label_mix_error", 0.01, attack="mix", **at), row("label_mix_error_baseline", 0.23, attack="mix", **at)]
    for n, share in ((1, 1.0), (4, 0.5)):
        one = row("patients_rebuilt", share, attack="inversion", **at)
        made.append(one.model_copy(update={"attack_params": {"patients": n}}))
    table = federation.curious(Rows(made, _rows.manifest()))
    told = dict(zip(table.head, texts(table)[0], strict=True))
    assert told["membership by its answers"] == "0.55 (0.50–0.60)"
    assert told["membership by updates"] == "0.82 (0.78–0.86)" and told["attack"] == "updates"
    assert (told["error of the label mix"], told["of guessing the common mix"]) == ("0.01", "0.23")
    assert (told["rebuilt of 1"], told["rebuilt of 4"]) == ("1.00", "0.50") and "rebuilt of 16" not in told


def test_only_federations_have_a_section():
    page = render(rows().all, _rows.manifest())
    assert '<section id="federation">' in page and "under hostile hospitals" in page
    assert '<section id="federation">' not in render(_rows.clean(), _rows.manifest())
