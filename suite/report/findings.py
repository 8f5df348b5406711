"""What a run found out, worst first. Every level follows from thresholds that the report prints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

from suite.results.measurement import Measurement

Level = Literal["high", "error", "medium", "inconclusive", "low", "not tested"]
LEVELS: dict[Level, tuple[str, str]] = {
    "high": ("red", "the whole 95% interval lies above the upper threshold, or a result must not be relied on"),
    "error": ("magenta", "a cell failed: nothing is known there, and nothing has passed"),
    "medium": ("yellow", "the whole 95% interval lies above the lower threshold"),
    "inconclusive": ("bright_black", "not settled: the interval includes the lower threshold, there is none, no strong "
                     "attack ran, or the model may have learned from the rows it was tested on; the finding says which "
                     "of these, and how many cases would settle it"),
    "low": ("green", "for every attack that ran (of evasion: in that norm) the whole 95% interval lies below the lower "
            "threshold, and at least one strong attack ran"),
    "not tested": ("bright_black", "nothing was measured: no attack of this kind ran, or the model's training set is "
                   "unknown"),
}
"""Level -> terminal colour and meaning, worst first."""


class Threshold(NamedTuple):
    """From where on a figure is called medium and high."""

    what: str
    medium: float
    high: float


THRESHOLDS = {
    "performance": Threshold("share of cases with the disease (beyond two classes, of the class missed most) that "
                             "the model misses, without any attack", 0.2, 0.5),
    "evasion": Threshold("share of correctly classified cases that an attack within the budget gets misclassified",
                         0.1, 0.3),
    "natural changes": Threshold("share of correctly classified cases that are misclassified after a change that can "
                                 "come about without an attacker, the worst of several: a turn, speckle, uneven light",
                                 0.1, 0.3),
    "poisoning": Threshold("loss by poisoned training data of sensitivity, specificity, accuracy or balanced accuracy, "
                           "whichever loses most", 0.05, 0.2),
    "backdoor": Threshold("share of cases for which the trigger works, above the same trigger on the clean model",
                          0.1, 0.5),
    "membership": Threshold("AUROC of telling training patients from others; judged by how far it exceeds 0.5",
                            0.05, 0.15),
    "single patients": Threshold("share of patients whom a membership attack finds almost surely: an AUROC above 0.9, "
                                 "patient by patient, over shadow models", 0.02, 0.1),
    "attribute": Threshold("accuracy of guessing a hidden column with the model's answer, above imputation alone",
                           0.05, 0.15),
    "inversion": Threshold("share of the distance to a class's mean patient that the reconstruction covers, beyond "
                           "the mean of everyone (no interval)", 0.25, 0.5),
    "reconstruction": Threshold("share of training patients that are rebuilt, each from the model and all others; "
                                "judged by how far it exceeds that of the mean of their class", 0.01, 0.1),
    "extraction": Threshold("agreement of a stolen copy with the model, above that of the same kind of model trained "
                            "on as many true labels of the attacker's own", 0.1, 0.25),
}
THRESHOLDS |= {
    "hostile hospitals": THRESHOLDS["poisoning"]._replace(
        what="loss by hostile hospitals that take part in a federation of sensitivity, specificity, accuracy or "
             "balanced accuracy, whichever loses most"),
    "curious server": THRESHOLDS["membership"]._replace(
        what="AUROC of telling a hospital's training patients from others by its updates; judged by how far it "
             "exceeds 0.5"),
    "rebuilt patients": THRESHOLDS["reconstruction"]._replace(
        what="share of a hospital's patients that are rebuilt from its first update; judged by how far it exceeds "
             "that of guessing (no thresholds for images)"),
    "taking part": THRESHOLDS["poisoning"]._replace(
        what="loss of accuracy at a hospital by taking part in a federation, against the model it trains alone"),
}
"""Topic -> thresholds."""
TOPICS = ("errors", "evasion", "natural changes", "trust", "performance", "subgroups", "taking part", "poisoning",
          "backdoor", "hostile hospitals", "defense", "privacy budget", "membership", "single patients",
          "curious server", "attribute", "inversion", "reconstruction", "rebuilt patients", "extraction", "coverage")
"""All topics; harm to the patient who is judged comes before harm to privacy, and that before harm to the owner."""


@dataclass(frozen=True)
class Finding:
    """One sentence of the report's first page.

    Attributes:
        level: One of `LEVELS`.
        model: The model it is about, or "all".
        text: With value, interval and n.
        topic: One of `TOPICS`; it leads to the report's section.
        defense: What the model stood behind.
        figure: The key number, short.
        weight: Orders findings of one level.
        command: What to type to settle or test it; empty for nothing.
        above: Inconclusive, though a value is at or above the lower threshold.
        improves: Of a defense: something got better, beyond its interval.
        threat: Of what was not tested: its name.
    """

    level: Level
    model: str
    text: str
    topic: str
    defense: str = "none"
    figure: str = ""
    weight: float = 0.0
    command: str = ""
    above: bool = False
    improves: bool = False
    threat: str = ""

    @property
    def colour(self) -> str:
        """For the terminal."""
        return LEVELS[self.level][0]


@dataclass(frozen=True)
class Check:
    """One sentence about the audit itself: its attacks, detectors and checks, and what they cannot show.

    Attributes:
        subject: What it is about.
        text: With value, interval and n.
        section: Id of the report's section with the numbers.
    """

    subject: str
    text: str
    section: str


def grade(topic: str, low: float, high: float) -> Level:
    """The level of a figure whose 95 % interval is `low` to `high`, larger being worse, where one figure decides.

    A level is given only where the whole interval supports it; what lies between is inconclusive.
    """
    threshold = THRESHOLDS[topic]
    if low >= threshold.high:
        return "high"
    if low >= threshold.medium:
        return "medium"
    return "low" if high < threshold.medium else "inconclusive"


def widened(row: Measurement, among: int) -> tuple[float, float]:
    """The row's interval, widened (Bonferroni) because the row was chosen among several as the most extreme.

    Args:
        row: With its 95 % interval.
        among: How many there were to choose from.
    """
    if row.ci_low is None or row.ci_high is None:
        return -math.inf, math.inf
    z = NormalDist().inv_cdf
    factor = z(1 - 0.025 / max(among, 1)) / z(0.975)
    return row.value - factor * (row.value - row.ci_low), row.value + factor * (row.ci_high - row.value)
