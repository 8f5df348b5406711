"""The one rule behind each finding of level low, topic by topic: everything that ran lies below the threshold, a strong
attack among it, and not on rows that the model may have learned from."""

import pytest

from suite.report.findings import THRESHOLDS
from tests.support.rows import clean, manifest, only, row

OWN = "file.py:Own"
"""An attack that is not registered is never strong."""


def one(metric, base=0.0, sign=1, **at):
    """Rows of an attack whose figure, larger being worse, is (value, low, high)."""
    def rows(attack, value, low, high):
        ends = sorted((base + sign * low, base + sign * high))
        return [row(metric, base + sign * value, *ends, attack=attack, **at)]
    return rows


def backdoor(attack, *figure):
    return [row(m, *v, attack=attack, rate=0.1) for m, v in (
        ("lift", figure), ("attack_success_rate", figure), ("base_rate", (0.0, 0.0, 0.0)))]


def extraction(attack, *figure):
    return [row(m, *v, attack=attack, budget=25) for m, v in (
        ("fidelity_gain", figure), ("fidelity", (0.9, 0.8, 1.0)), ("fidelity_of_own_labels", (0.9, 0.8, 1.0)))]


def reconstruction(attack, *figure):
    return [row("rows_rebuilt", *figure, attack=attack), row("rows_rebuilt_baseline", 0.0, attack=attack)]


def evasion(attack, *figure):
    return [row(m, *figure, attack=attack, eps=0.05) for m in ("robust_accuracy", "attack_success_rate")]


def carlini_wagner(attack, *figure):
    return [row(m, *figure, attack=attack, eps=0.5, norm="l2") for m in ("robust_accuracy", "attack_success_rate")]


TOPICS = {
    "membership": (one("membership_auroc", 0.5), "rmia"),
    "attribute": (one("attribute_gain", column="x"), "attribute-confidence"),
    "poisoning": (one("accuracy_change", sign=-1, rate=0.1), "label-flip-targeted"),
    "backdoor": (backdoor, "backdoor"), "extraction": (extraction, "knockoff"),
    "reconstruction": (reconstruction, "database-reconstruction"),
    "natural changes": (one("attack_success_rate", norm="own", eps=0.3), "bias-field"),
    "evasion": (evasion, "apgd"), "evasion in L2": (carlini_wagner, "carlini-wagner")}
"""Topic -> the rows of an attack, and one that is strong."""


@pytest.fixture(params=TOPICS)
def topic(request):
    """(level of what ran, calm, loud, strong attack): calm lies below the threshold, loud reaches beyond it."""
    rows, strong = TOPICS[request.param]
    name = request.param.removesuffix(" in L2")
    medium = THRESHOLDS[name].medium

    def level(*ran, training_known=True):
        made = manifest(training_known={"m": training_known}, suited={"m": [strong]})
        made["plan"]["norms"] = {"l2": {"eps": 0.5, "budgets": [0.5]}}
        found = [r.model_copy(update={"cell": f"{i}"}) for i, (attack, figure) in enumerate(ran)
                 for r in rows(attack, *figure)]
        return only([*clean(), *found], name, made=made).level

    return level, (0.0, -medium / 4, medium / 2), (medium / 2, 0.0, 2 * medium), strong


def test_low_where_all_of_it_lies_below_and_a_strong_attack_ran(topic):
    level, calm, _, strong = topic
    assert level((strong, calm)) == level((OWN, calm), (strong, calm)) == level((strong, calm), (strong, calm)) == "low"


def test_no_weak_attack_makes_low(topic):
    level, calm, *_ = topic
    assert level((OWN, calm)) == "inconclusive"


def test_one_attack_that_is_not_settled_is_enough_against_it(topic):
    level, calm, loud, strong = topic
    for ran in (((strong, calm), (OWN, loud)), ((OWN, loud), (strong, calm)), ((strong, calm), (strong, loud)),
                ((strong, loud), (strong, calm))):
        assert level(*ran) == "inconclusive"


def test_one_attack_that_shows_a_risk_is_enough_for_it(topic):
    level, calm, (_, _, above), strong = topic
    high = 20 * above, 10 * above, 30 * above
    assert level((strong, calm), (OWN, high)) == level((OWN, high), (strong, calm)) == "high"


def test_on_rows_that_the_model_may_have_learned_from_nothing_is_low(topic):
    level, calm, _, strong = topic
    assert level((strong, calm), training_known=False) in ("inconclusive", "not tested")
