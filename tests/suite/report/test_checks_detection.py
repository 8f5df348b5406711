"""What is said of detectors, which is about the audit and no finding."""

from suite.report.rules.every import findings
from tests.support.rows import about, clean, manifest, row


def detected(adaptive=(0.8, 0.7, 0.88), fitted_on=None):
    """Rows of one detector: it finds 90 % of PGD, 60 % of FGSM and all of noise."""
    marked = {"fitted_on": fitted_on} if fitted_on else {}
    rows = [row("detection_leak[watch]", 0.5, 0.45, 0.55), row("detection_fpr[watch@0.05]", 0.06, 0.03, 0.12)]
    for attack, tpr in (("pgd", (0.9, 0.8, 0.95)), ("fgsm", (0.6, 0.5, 0.7)), ("noise", (1.0, 0.9, 1.0))):
        found = row("detection_tpr[watch@0.05]", *tpr, n=50, attack=attack)
        rows.append(found.model_copy(update={"attack_params": marked}))
    if adaptive:
        rows += [row(f"{kind}_evasion[watch]", *value, n=70, attack="adaptive")
                 for kind, value in (("adaptive", adaptive), ("unguarded", (0.85, 0.75, 0.9)))]
    return rows


def watch(rows):
    says, = about(clean() + rows, "detection")
    return says


def test_a_detector_is_told_by_the_attack_that_knows_it_and_is_no_finding():
    says = watch(detected())
    assert "watch detects 60% (50–70%) of 50 inputs that fgsm got misclassified" in says
    assert "6% (3–12%), n" in says and "gets 80% (70–88%) of 70" in says and "85% (75–90%)" in says
    assert all("watch" not in f.text for f in findings(clean() + detected(), manifest()))


def test_what_a_detector_learned_from_and_noise_are_no_evidence():
    assert "90% (80–95%) of 50 inputs that pgd" in watch(detected(fitted_on="fgsm"))


def test_what_a_detector_finds_least_is_quoted_unless_of_few():
    few = row("detection_tpr[watch@0.05]", 0.2, 0.05, 0.5, n=9, attack="speckle")
    assert "of 50 inputs that fgsm" in watch([*detected(), few])
    enough = few.model_copy(update={"n": 10})
    assert "watch detects 20% (5–50%) of 10 inputs that speckle" in watch([*detected(), enough])


def test_where_only_the_attack_that_knows_the_detector_was_measured_nothing_is_compared():
    rows = [r for r in detected() if not r.metric.startswith("unguarded")]
    assert watch(rows).endswith("correctly classified inputs misclassified without an alarm.")


def test_a_detector_that_met_no_attack_which_knows_it_is_told_so():
    assert watch(detected(None)).endswith("No attack that knows the detector was tried.")
