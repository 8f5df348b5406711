"""Findings: levels, their order, and what failed; hand-made rows with known verdicts."""

import pytest

from suite.report.findings import LEVELS, THRESHOLDS, TOPICS, grade, widened
from suite.report.rules.every import CHECKS, JUDGES, findings
from tests.support.rows import clean, evasion, manifest, row


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
    rows += [row("error", None, attack=a, error="Untrained: no m (a.py:2)", caused_by="m--none--fit") for a in "abc"]
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
