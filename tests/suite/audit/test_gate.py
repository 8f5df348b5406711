"""Requirements: what was not measured never passes."""

import pytest

from suite.audit.gate import check
from suite.base.errors import InputError
from suite.results.measurement import Measurement
from suite.results.run import Run

MANIFEST = {"plan": {"eps": 0.1}, "data": {}, "cells": ["mlp", "net"]}


def row(metric, value, low=None, high=None, model="mlp", **fields):
    return Measurement(cell=model, dataset="d", data_sha256="s", synthetic=False, model=model, metric=metric,
                       value=value, ci_low=low, ci_high=high, device="cpu", seed=0, **fields)


def worst(model, eps, value, low, high, **fields):
    return row("robust_accuracy", value, low, high, model, attack="worst-case", attack_params={"eps": eps}, **fields)


ROWS = {
    "mlp": [row("accuracy", 0.8, 0.7, 0.9), worst("mlp", 0.1, 0.5, 0.4, 0.6), worst("mlp", 0.2, 0.1, 0.0, 0.2),
            row("robust_accuracy", 0.9, 0.8, 1.0, attack="fgsm", attack_params={"eps": 0.1}),
            worst("mlp", 0.1, 0.2, 0.0, 0.4, subgroup="age=<30"), worst("mlp", 0.1, 0.6, 0.3, 0.8, subgroup="age=30+"),
            worst("mlp", 0.1, 0.7, 0.65, 0.75, defense="trades"), row("accuracy", 0.75, 0.7, 0.8, defense="trades"),
            row("tpr_at_fpr[0.05]", 0.1, 0.05, 0.2, attack="membership-loss"),
            row("recall[no diabetes]", 0.8, 0.7, 0.9), row("calibration_error", 0.1), row("undefined", None)],
    "net": [row("accuracy", 0.9, 0.85, 0.95, "a/net.json"), worst("a/net.json", 0.1, 0.6, 0.5, 0.7)],
}


def make(folder, rows=ROWS, manifest=MANIFEST):
    run = Run.create(folder, manifest)
    for key, cell in rows.items():
        run.finish(key, [row.model_copy(update={"cell": key}) for row in cell])
    return run


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "r")


@pytest.mark.parametrize(("text", "met"), [
    ("accuracy >= 0.7", True), ("accuracy >= 0.71", False),               # the lower end of the worst decides
    ("accuracy <= 0.95", True), ("accuracy <= 0.94", False),              # the upper end
    ("accuracy > 0.7", False), ("accuracy < 0.96", True),
    ("robust_accuracy >= 0.4", True), ("robust_accuracy >= 0.41", False),  # worst case, main budget, no subgroup
    ("mlp: robust_accuracy in every age >= 0", True), ("mlp: robust_accuracy in every age >= 0.1", False),
    ("mlp: robust_accuracy of worst-case in every age <= 0.8", True),
    ("mlp/trades: robust_accuracy >= 0.65", True), ("mlp/none: robust_accuracy >= 0.41", False),
    ("/trades: accuracy >= 0.7", True),
    ("net.json: robust_accuracy >= 0.5", True), ("net.json: accuracy >= 0.86", False),
    ("mlp: robust_accuracy of fgsm >= 0.8", True), ("mlp:robust_accuracy of fgsm>=0.81", False),
    ("mlp: tpr_at_fpr[0.05] <= 0.2", True), ("mlp: tpr_at_fpr[0.05] of membership-loss <= 0.1", False),
    ("mlp: recall[no diabetes] >= 0.7", True),
    ("mlp: calibration_error <= 0.1", True), ("mlp: calibration_error <= 1e-1", True),
    ("mlp: calibration_error <= .09", False),
])
def test_requirements(run, text, met):
    verdict, = check(run, [text])
    assert verdict.met is met and verdict.text.startswith(text)


@pytest.mark.parametrize(("text", "met"), [("accuracy >= 0.75", True), ("accuracy >= 0.76", False),
                                           ("mlp: tpr_at_fpr[0.05] <= 0.1", True)])
def test_lenient_compares_the_value(run, text, met):
    assert check(run, [text], lenient=True)[0].met is met


@pytest.mark.parametrize("sign", [">=", "<="])
def test_what_could_not_be_computed_meets_nothing(run, sign):
    for lenient in (True, False):
        assert not check(run, [f"mlp: undefined {sign} 0.5"], lenient)[0].met


def test_the_verdict_names_the_worst(run):
    assert check(run, ["accuracy >= 0.9"])[0].text == (
        "accuracy >= 0.9: worst is mlp at 0.8, 95 % interval 0.7 to 0.9")
    assert "mlp behind trades under worst-case at 0.7" in check(run, ["/trades: robust_accuracy >= 0.5"])[0].text


@pytest.mark.parametrize(("text", "message"), [
    ("accuracy", "write it like"), ("accuracy == 1", "write it like"), ("", "write it like"),
    ("accuracy >= 0.5.1", "write it like"), ("accuracy >= .", "write it like"), ("accuracy >= high", "write it like"),
    ("acuracy >= 0.5", "no row of acuracy; did you mean 'accuracy'"),
    ("mpl: accuracy >= 0.5", "the run has no mpl"), ("mlp/dp: accuracy >= 0.5", "the run has no mlp/dp"),
    ("mlp: robust_accuracy of pgd >= 0.5", "no row of robust_accuracy of pgd"),
    ("mlp: accuracy in every hospital >= 0.5", "no row of accuracy in any hospital"),
    ("calibration_error <= 0.5", "calibration_error was not measured for a/net.json"),
    ("robust_accuracy of fgsm >= 0.5", "robust_accuracy was not measured for a/net.json"),
])
def test_a_requirement_that_cannot_be_judged_is_an_error(run, text, message):
    with pytest.raises(InputError, match=message):
        check(run, ["accuracy >= 0.5", text])


def test_a_run_that_is_not_complete_is_an_error(tmp_path):
    run = make(tmp_path / "r", {"mlp": ROWS["mlp"]})
    with pytest.raises(InputError, match=r"not complete, 1 cell is missing or cannot be read \(net\)"):
        check(run, ["mlp: accuracy >= 0.1"])


@pytest.mark.parametrize(("flaw", "says"), [("collapsed", "has collapsed"), ("check[many steps beat one]", "failed")])
def test_a_collapsed_or_masked_model_is_never_robust(tmp_path, flaw, says):
    bad = row(flaw, float(flaw == "collapsed"), defense="trades")
    run = make(tmp_path / "r", ROWS | {"mlp": [*ROWS["mlp"], bad, row("collapsed", 0.0), row("check[a]", 1.0)]})
    for text in ("mlp/trades: robust_accuracy >= 0.1", "robust_accuracy >= 0.1"):
        verdict, = check(run, [text], lenient=True)
        assert not verdict.met and "mlp behind trades" in verdict.text and says in verdict.text
    assert check(run, ["mlp/none: robust_accuracy >= 0.4", "mlp/trades: accuracy >= 0.7"])[1].met
    assert check(run, ["mlp/none: robust_accuracy >= 0.4"])[0].met


@pytest.fixture
def failed(tmp_path):
    rows = {"mlp": [*ROWS["mlp"], row("error", None, attack="pgd", error="ValueError: boom")], "net": ROWS["net"]}
    return make(tmp_path / "r", rows)


@pytest.mark.parametrize("text", ["robust_accuracy >= 0.1", "mlp: robust_accuracy of pgd >= 0.1", "accuracy >= 0.1"])
def test_a_cell_that_failed_is_never_a_pass(failed, text):
    with pytest.raises(InputError, match="mlp failed: ValueError: boom"):
        check(failed, [text])


def test_a_failure_elsewhere_does_not_matter(failed):
    assert check(failed, ["net.json: robust_accuracy >= 0.5"])[0].met
    assert check(failed, ["mlp: robust_accuracy of fgsm >= 0.5"])[0].met
