"""The verdict, what was not tested, and the commands that would test it."""

import re
import shlex
from math import ceil

import pytest

from suite.audit.request import make_plan, open_data
from suite.audit.runner import Audit
from suite.base import registry
from suite.cli import terminal
from suite.report.findings import LEVELS
from suite.report.page import render
from suite.report.rows import Rows
from suite.report.rules.every import findings
from suite.report.rules.strength import is_strong, strong_attacks, topic_of
from suite.report.rules.verdict import verdict
from suite.report.rules.weigh import cases_needed, result
from tests.support.rows import clean, evasion, manifest, row


def said(rows, made=None):
    made = made or manifest()
    return verdict(Rows(rows, made), findings(rows, made))


def untested(rows, made):
    return {f.text.partition(":")[0]: f for f in findings(rows, made) if f.topic == "coverage"}


def federation(change):
    at = {"defense": "mean"}
    return [*clean(), *clean(**at), row("hospital_rows", 100.0, subgroup="hospital=a", **at),
            row("hostile_hospitals", 1.0, n=4, attack="hostile-sign-flip", **at),
            row("sensitivity_change", *change, attack="hostile-sign-flip", **at)]


def test_a_federation_that_one_hospital_takes_down_says_so_first():
    first = said(federation((-0.86, -0.93, -0.78)))[0]
    assert first.startswith("Rated high: hostile hospitals (−86 pt sensitivity, m behind mean)")


def test_the_worst_of_every_topic_is_named_with_its_model():
    rows = [*clean("a"), *clean("b"), *evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), "a"),
            *evasion((0.6, 0.5, 0.7), (0.3, 0.2, 0.4), "b"),
            row("membership_auroc", 0.9, 0.86, 0.94, model="a", attack="rmia"),
            row("membership_auroc", 0.6, 0.58, 0.63, model="b", attack="rmia")]
    high, medium, *_ = said(rows)
    assert high == "Rated high: evasion (60% misclassified, b; 2 of 2 results) and membership (AUROC 0.90, a; 1 of 2 " \
                   "results)."
    assert medium == "Rated medium: membership (AUROC 0.60, b; 1 of 2 results)."


def test_failed_cells_come_first_and_no_share_of_what_failed_is_told():
    rows = [row("error", None, attack="pgd", error="E: boom"), *clean()]
    first, *rest = said(rows)
    assert first.startswith("1 cell of the plan failed: nothing is known there, and nothing has passed.")
    assert not any("evasion" in sentence for sentence in rest)
    assert findings(rows, manifest())[0].level == "error"


def test_what_is_inconclusive_or_not_tested_is_no_reassurance():
    made = manifest(suited={"m": ["rmia", "label-flip-loss"]})
    rows = [row("sensitivity", 0.75, 0.6, 0.9), row("membership_auroc", 0.52, 0.4, 0.64, attack="rmia")]
    text = " ".join(said(rows, made))
    assert ("Inconclusive, neither a risk shown nor its absence: performance (1 result) and membership (1 result)."
            in text)
    assert "Not tested: Data poisoning." in text


# n (d / g)^2: a share of 5 of 100 that reaches to 15, threshold 10, needs 100 * (10 / 5)^2
@pytest.mark.parametrize(("value", "low", "high", "n", "needed"), [
    (0.05, 0.01, 0.15, 100, 400), (0.13, 0.09, 0.2, 90, 160), (0.1, 0.05, 0.15, 100, None),
    (0.0999, 0.05, 0.2, 100, None), (0.0, 0.0, 0.11, 30, 37)])
def test_how_many_cases_settle_it(value, low, high, n, needed):
    assert cases_needed(result(row("x", value, low, high, n=n)), 0.1) == needed


def test_that_many_cases_do_settle_it():
    """Wilson's interval of the same share no longer includes the threshold: its lower end moves less than 1/sqrt(n)
    says, so with a margin of 30 %."""
    from suite.results.metrics import proportion

    for right, n, threshold in ((4, 60, 0.1), (9, 60, 0.1), (26, 60, 0.5)):
        found = proportion(right, n)
        needed = cases_needed(result(row("x", found.value, found.low, found.high, n=n)), threshold)
        times = ceil(1.3 * needed / n)
        at = proportion(right * times, n * times)
        assert found.low < threshold < found.high and not at.low < threshold < at.high


def test_a_threat_that_ran_or_that_no_attack_suits_is_not_listed():
    suited = ["rmia", "one-run-audit", "label-flip-loss", "backdoor", "noise", "apgd"]
    rows = [row("accuracy", 0.9, 0.8, 0.95), row("sensitivity_change", 0.0, -0.1, 0.1, attack="label-flip-loss"),
            row("epsilon_audited", 0.0, attack="one-run-audit"), row("robust_accuracy", 0.5, attack="noise", eps=0.05)]
    # neither noise nor an audit of a privacy budget tests a threat
    assert set(untested(rows, manifest(suited={"m": suited}))) == {"Evasion", "Backdoor", "Membership inference"}
    failed = [row("error", None, attack="backdoor", error="E: boom")]
    assert "Backdoor" in untested(rows + failed, manifest(suited={"m": suited}))
    assert untested(rows, manifest()) == {}


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """The plan that a command would carry out, laid out on its data."""
    def laid_out(command):
        name, *words = shlex.split(command)
        assert name == "medsec"
        plans = []
        monkeypatch.setattr(terminal, "run_audit", lambda plan, *_: plans.append(plan) or 0)
        monkeypatch.setattr("federated.command._show_verified", lambda *_: None)
        from suite.cli.app import app
        assert app(words, standalone_mode=False) == 0
        return Audit(plans[0], *open_data(plans[0]))
    return laid_out


@pytest.mark.parametrize(("preset", "flags", "threats"), [
    ("tabular", {"data": ["pima-synthetic"]}, {"Membership inference", "Data poisoning", "Backdoor", "Evasion",
                                               "Model extraction", "Attribute inference", "Transfer"}),
    ("imaging", {"data": ["chest-phantom"], "models": ["simple-cnn"]},
     {"Membership inference", "Data poisoning", "Backdoor", "Model inversion"})])
def test_every_command_is_one_that_runs_the_attacks_it_names(parse, preset, flags, threats):
    plan = make_plan(preset, flags | {"attacks": ["noise"], "defenses": []})
    audit = Audit(plan, *open_data(plan))
    rows = [r for model in audit.suited for r in clean(model)]
    found = untested(rows, manifest(plan=plan.dump(), suited=audit.suited))
    assert threats <= found.keys()
    for finding in found.values():
        attacks = shlex.split(finding.command)[shlex.split(finding.command).index("--attacks") + 1].split(",")
        ran = {c.attack.name for c in parse(finding.command).cells if c.attack}
        assert ran == set(attacks), finding.command


def test_the_command_for_a_federation_is_one_of_federations(parse):
    from federated.command import joined_by
    from suite.audit.request import changed_plan, read_plan

    raw, where = read_plan("federation")
    plan = changed_plan(joined_by(raw, ["mean"], 1), where, {"data": ["pima-synthetic"], "models": ["mlp"],
                                                            "attacks": ["hostile-noise"], "hospitals": {
                                                                "name": "iid", "sites": 4}})
    audit = Audit(plan, *open_data(plan))
    rows = [*clean("mlp"), row("hospital_rows", 10.0, model="mlp", defense="mean", subgroup="hospital=a"),
            row("accuracy_change", 0.0, model="mlp", defense="mean", attack="hostile-noise")]
    found = untested(rows, manifest(plan=plan.dump(), suited=audit.suited))
    assert "Data poisoning" not in found
    for threat, attack in (("Property inference", "label-mix"), ("Backdoor", "hostile-backdoor")):
        assert found[threat].command.startswith("medsec federate --data pima-synthetic --model mlp")
        assert attack in {c.attack.name for c in parse(found[threat].command).cells if c.attack}


def test_the_command_says_how_the_users_own_file_is_read():
    plan = {"data": ["my patients.csv"], "models": [{"name": "theirs", "use": "xgboost"}, {"name": "m"}],
            "table": {"target": "sick", "positive": "yes", "drop": ["id", "ward"], "split": "part",
                      "schema_file": None},
            "later": ["label-flip-loss"]}
    found = untested([row("accuracy", 0.9, 0.8, 0.95), row("accuracy", 0.9, 0.8, 0.95, model="theirs")],
                     manifest(plan=plan, suited={"m": ["label-flip-loss"], "theirs": ["label-flip-loss"]}))
    assert found["Data poisoning"].command == (
        "medsec audit --data 'my patients.csv' --model m,xgboost --attacks label-flip-loss --defenses none "
        "--target sick --positive yes --drop id,ward --split part --out runs/label-flip-loss")
    assert "--full adds label-flip-loss to this run." in found["Data poisoning"].text


def test_every_family_has_a_strong_attack_and_effort_counts():
    table = Rows([], manifest())
    for topic in ("evasion", "poisoning", "backdoor", "membership", "attribute", "inversion", "reconstruction",
                  "extraction", "hostile hospitals", "curious server", "rebuilt patients"):
        assert strong_attacks(table, topic, "m"), topic
    assert is_strong(row("x", 0.1, attack="square")) and not is_strong(row("x", 0.1, attack="pgd"))
    few = row("x", 0.1, attack="square").model_copy(update={"attack_params": {"queries": 100}})
    assert not is_strong(few) and not is_strong(row("x", 0.1, attack="file.py:Own"))


def test_where_a_model_can_be_read_an_attack_by_queries_is_not_strong_enough():
    made = manifest(suited={"tree": ["exact-linf", "hopskipjump"], "other": ["hopskipjump", "zoo"]})
    assert strong_attacks(Rows([], made), "evasion", "tree") == ["exact-linf"]
    assert strong_attacks(Rows([], made), "evasion", "other") == ["hopskipjump"]


def test_every_registered_attack_belongs_to_a_topic_or_is_an_audit():
    for name in registry.names("attacks"):
        assert topic_of(registry.load("attacks", name)) or name in ("label-mix", "one-run-audit", "many-runs-audit",
                                                                    "hospital-audit"), name


def test_the_page_shows_each_level_with_a_colour_and_what_was_not_tested():
    made = manifest(suited={"m": ["rmia", "label-flip-loss"]})
    rows = [*clean(), *evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55)), row("sensitivity", 0.5, 0.4, 0.6),
            row("membership_auroc", 0.52, 0.4, 0.64, attack="rmia")]
    page = render(rows, made)
    for level in LEVELS:
        css = level.replace(" ", "-")
        assert f'class="badge {css}">{level}</span>' in page and f".{css}" in page
    aside = re.sub("<[^>]+>", "", page[page.index('<aside id="untested"'):page.index("</aside>")])
    assert "Data poisoning" in aside and "medsec audit --data" in aside
    assert '<section id="trust">' not in page
    assert '<section id="trust">' in render([*rows, row("check[x]", 1.0, attack="worst-case", eps=0.05)], made)


NOTHING = "Nothing that was tried exceeds the thresholds"
NEITHER = "No risk was shown, and none was excluded."


@pytest.mark.parametrize("rows", [
    [row("sensitivity", 0.72, 0.61, 0.81, 74)], [], [row("sensitivity", 0.9, 0.7, 0.97, 20)],
    [row("membership_auroc", 0.52, 0.49, 0.54, attack="membership-loss")]])
def test_where_nothing_is_low_nothing_is_said_to_keep_to_the_thresholds(rows):
    text = " ".join(said(rows))
    assert NOTHING not in text and NEITHER in text


def test_a_value_above_a_threshold_takes_the_reassurance_away_and_is_named():
    low = [row("membership_auroc", 0.5, 0.47, 0.53, attack="rmia")]
    assert NOTHING in said(low)[0]
    first, second, *_ = said([*low, row("sensitivity", 0.72, 0.61, 0.81, 74)])
    assert first == "Above a threshold, but not settled: performance (misses 28%, m)."
    assert second == "No risk was shown, but not every risk was excluded."
    first, second, *_ = said([*low, row("sensitivity", 0.9, 0.7, 0.97, 20)])  # misses 10 %, which is below it
    assert first.startswith(NOTHING)


def test_a_risk_that_noise_shows_as_well_is_no_reassurance():
    rows = [*clean(), *evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), noise=(0.38, 0.3, 0.46)),
            row("lift[pgd]", 0.02, -0.05, 0.09, attack="worst-case", eps=0.05)]
    assert said(rows)[0].startswith("Rated high: evasion (40% misclassified, m)")


def test_a_threat_that_ran_on_one_model_is_listed_for_the_others():
    made = manifest(suited={"a": ["apgd", "rmia"], "b": ["hopskipjump", "rmia"], "c": ["rmia"]})
    rows = [r for model in "abc" for r in clean(model)]
    rows += [*evasion((0.4, 0.35, 0.5), (0.45, 0.36, 0.55), "a", attack="apgd"),
             row("membership_auroc", 0.9, 0.86, 0.94, model="a", attack="rmia")]
    found = untested(rows, made)
    assert set(found) == {"Evasion by queries", "Membership inference"}
    assert found["Evasion by queries"].model == "all"  # all that such an attack suits
    assert found["Membership inference"].model == "b and c"
    assert "--model b,c --attacks rmia" in found["Membership inference"].command
    assert "Membership inference (b and c)" in said(rows, made)[-1]
    behind = [row("membership_auroc", 0.9, 0.86, 0.94, model="b", defense="x", attack="rmia")]
    assert untested([*rows, *behind], made)["Membership inference"].model == "b and c"  # says nothing of b itself
