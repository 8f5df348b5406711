"""What a defense buys and costs: paired differences by hand."""

import numpy as np
import pytest

from suite.data import Split
from suite.evaluate.compare import Outcome, measure_gains
from suite.measurement import Sheet
from suite.space import Space

Y = np.array([0, 0, 0, 0, 0, 0, 1, 1])


def gains(pred_before, pred_after, worst_before=None, worst_after=None):
    test = Split(np.zeros((8, 1), np.float32), Y, Space(0, 1), ("healthy", "ill"), np.arange(8))
    sheet = Sheet(cell="c", dataset="d", data_sha256="", synthetic=True, model="m", defense="x", device="cpu", seed=0)
    measure_gains(sheet, test, Outcome({"pred": np.array(pred_before)}, worst_before or {}),
                  Outcome({"pred": np.array(pred_after)}, worst_after or {}), 0.05, "worst-case")
    return {row.metric: row for row in sheet.rows}


def worst(positions, robust):
    return {"positions": np.array(positions), "robust": np.array(robust, bool)}


def test_known_gains():
    # one healthy more is judged rightly, one ill fewer: no change of accuracy, a loss of balanced accuracy
    found = gains([1, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1])
    assert found["gain[accuracy]"].value == 0
    assert found["gain[balanced_accuracy]"].value == pytest.approx((1 / 6 - 1 / 2) / 2)
    assert "gain[robust_accuracy]" not in found


def test_robustness_is_compared_on_the_rows_that_both_met():
    found = gains(Y, Y, worst([0, 2, 4, 6], [1, 0, 0, 1]), worst([2, 4, 6, 7], [1, 1, 0, 1]))["gain[robust_accuracy]"]
    assert (found.value, found.n) == (pytest.approx(1 / 3), 3)
    assert (found.attack, found.attack_params, found.defense) == ("worst-case", {"eps": 0.05}, "x")


def test_no_change_is_sure_and_a_refusal_is_no_right_answer():
    same = gains(Y, Y)["gain[accuracy]"]
    assert (same.value, same.ci_low, same.ci_high) == (0, 0, 0)
    assert gains(Y, [-1, 0, 0, 0, 0, 0, 1, 1])["gain[accuracy]"].value == pytest.approx(-1 / 8)


def test_pairing_is_sharper_than_two_intervals():
    before = {"positions": np.arange(8), "robust": np.array([1, 0, 0, 0, 0, 0, 0, 0], bool)}
    after = {"positions": np.arange(8), "robust": np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)}
    assert gains(Y, Y, before, after)["gain[robust_accuracy]"].ci_low > 0
