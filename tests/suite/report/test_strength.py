"""Which attacks are strong, and that one with next to no effort, or with borrowed shadow models, is not."""

from dataclasses import fields

import pytest

from suite.base import registry
from suite.report.rules.every import findings
from suite.report.rules.strength import is_strong
from tests.support.rows import manifest, row

EFFORTS = {"steps", "max_iter", "iterations", "queries", "shadows", "epochs", "trees"}


def run(attack, **params):
    return row("x", 0.1, attack=attack).model_copy(update={"attack_params": params})


def test_every_strong_attack_whose_effort_is_a_parameter_says_from_where():
    """And as it is by default, it makes that effort."""
    from suite.core.attack import PoisoningAttack

    for name in registry.names("attacks"):
        attack = registry.make("attacks", name)
        if not attack.info.strong:
            continue
        efforts = EFFORTS | ({"rate"} if isinstance(attack, PoisoningAttack) else set())
        if {f.name for f in fields(attack)} & efforts:
            assert attack.info.strong_from is not None, name
            assert is_strong(run(name)), name


@pytest.mark.parametrize(("attack", "weak", "strong"), [
    ("label-flip-targeted", {"rate": 0.001}, {"rate": 0.1}), ("label-flip-loss", {"rate": 0.01}, {"rate": 0.2}),
    ("backdoor", {"rate": 0.001}, {"rate": 0.05}), ("badnets", {"rate": 0.001}, {"rate": 0.1}),
    ("wanet", {"rate": 0.01}, {"rate": 0.1}), ("knockoff", {"epochs": 1}, {"epochs": 100}),
    ("surrogate-forest", {"trees": 1}, {"trees": 100}),
    ("hostile-backdoor", {"poison": {"name": "backdoor", "rate": 0.001}},
     {"poison": {"name": "backdoor", "rate": 0.5}}),
    ("rmia-offline", {"shadows": 16, "shadow_recipe": "RandomForest()"}, {"shadows": 16}),
])
def test_next_to_no_effort_is_not_strong(attack, weak, strong):
    assert is_strong(run(attack, **strong)) and not is_strong(run(attack, **weak))


@pytest.mark.parametrize(("rate", "level"), [(0.001, "inconclusive"), (0.1, "low")])
def test_a_poisoning_of_one_row_in_a_thousand_shows_no_low_risk(rate, level):
    change = row("balanced_accuracy_change", 0.0, -0.01, 0.01, n=1000, attack="label-flip-targeted", rate=rate)
    f, = (f for f in findings([change], manifest()) if f.topic == "poisoning")
    assert f.level == level


def test_shadow_models_of_another_recipe_show_no_low_risk_and_are_not_asked_for_again():
    def finding(**params):
        found = row("membership_auroc", 0.5, 0.47, 0.53, attack="rmia-offline").model_copy(
            update={"attack_params": {"shadows": 16} | params})
        made = manifest(suited={"m": ["rmia-offline", "lira-offline", "membership-loss"]})
        return next(f for f in findings([found], made) if f.topic == "membership")

    own, borrowed = finding(), finding(shadow_recipe="RandomForest()")
    assert own.level == "low" and borrowed.level == "inconclusive"
    assert "No strong attack of this kind exists for this model" in borrowed.text and not borrowed.command
