"""Defenses of tree models: retraining on exact adversarial patients."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from suite.base.bounds import Nodes, Positive, Whole
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.base.progress import advance
from suite.core.classifier import EstimatorClassifier
from suite.core.data import Split, joined
from suite.core.defense import Defense
from suite.core.recipe import Recipe
from tabular.trees.ensemble import Ensemble
from tabular.trees.exact import Reach, solve


@dataclass(frozen=True)
class RobustTrees(Defense):
    """Trees that are fitted again and again, each time with the patients added that fool the last fit.

    The patients are exact: for each training row that is judged rightly, the nearest possible patient that is not. The
    fit that withstands the exact attack within `eps` on most validation rows is returned; `notes["round"]` tells which
    (0: plain training) and `notes["robust_validation"]` on what share.

    Attributes:
        eps: Linf budget to withstand, in units of the space's scale.
        rounds: Times that patients are added.
        margin: Patients are sought within `margin * eps`: the nearest ones lie on the very boundary, so those beyond
            `eps` are needed to push it away from validation rows too.
        nodes_per_row: Boxes after which the search at a row takes the nearest patient found so far; most rows need
            few. `notes["cut_short"]` counts the searches that it cut.
        seconds_per_row: Time after which it does in any case. Results repeat exactly as long as the clock cuts no
            search (`notes["cut_by_clock"]` counts).
    """

    info: ClassVar[Info] = Info(
        "Adversarial boosting of trees", "Kantchelian, Tygar and Joseph 2015, arXiv 1509.07892",
        threats=("evasion",), cost="`rounds` + 1 trainings, and milliseconds per row and round",
        departs="nearest patient in Linf among the possible ones, for forests too; the round is chosen on validation "
                "rows")
    eps: Positive = 0.05
    rounds: Whole = 6
    margin: Positive = 2.0
    nodes_per_row: Nodes = 250_000
    seconds_per_row: Positive = 30.0

    def __post_init__(self) -> None:
        if not (self.eps > 0 and self.rounds >= 0 and self.margin >= 1 and self.nodes_per_row >= 1
                and self.seconds_per_row > 0):
            raise InputError("RobustTrees: needs eps > 0, rounds >= 0, margin >= 1, nodes_per_row >= 1 and "
                             "seconds_per_row > 0")

    def check(self, recipe: Recipe) -> None:
        if "trees" not in recipe.offers:
            raise NotApplicable(f"RobustTrees trains tree models only, and {type(recipe).__name__} is none; use "
                                "adversarial-training or trades")

    def __call__(self, recipe: Recipe, train: Split, val: Split, seed: int = 0,
                 device: str = "cpu") -> EstimatorClassifier:
        self.check(recipe)
        grown, best, cuts = train, None, Counter()
        for turn in range(self.rounds + 1):
            advance("hardening trees", turn, self.rounds + 1)
            classifier = recipe.fit(grown, val, seed, device)
            _, fooled, cut = self._attack(classifier, val, self.eps)
            cuts += cut
            robust = float(((classifier.predict(val.x) == val.y) & ~fooled).mean())
            if best is None or robust > best.notes["robust_validation"]:
                best = classifier
                best.notes |= {"eps": self.eps, "round": turn, "added": len(grown) - len(train),
                               "robust_validation": robust}
            if turn == self.rounds:
                break
            patients, fooled, cut = self._attack(classifier, train, self.margin * self.eps)
            cuts += cut
            if not fooled.any():
                break
            grown = joined(grown, train.with_data(patients, train.y).take(fooled))
        best.notes |= {"cut_short": cuts["nodes"], "cut_by_clock": cuts["clock"]}
        return best

    def _attack(self, classifier: EstimatorClassifier, rows: Split, eps: float
                ) -> tuple[np.ndarray, np.ndarray, Counter]:
        """The nearest possible patients that fool a model.

        Returns:
            (n, columns) patients, the rows themselves where there are none within `eps` or the model is wrong anyway;
            (n,) bool whether there is one; and how many searches each limit cut short.
        """
        ensemble = Ensemble.of(classifier.estimator)
        reach, labels = Reach(ensemble, rows.space), classifier.predict(rows.x)
        patients, fooled, cuts = rows.x.copy(), np.zeros(len(rows), bool), Counter()
        for i in np.flatnonzero(labels == rows.y):
            # asking the model itself about one patient at a time costs far more than the search does
            found = solve(ensemble, lambda z: ensemble.margin(z).argmax(1), reach, rows.x[i], eps=eps,
                          nodes=self.nodes_per_row, seconds=self.seconds_per_row, label=int(labels[i]))
            cuts[found.cut_by] += 1
            if found.witness is not None:
                patients[i], fooled[i] = found.witness, True
        return patients, fooled & (classifier.predict(patients) != rows.y), cuts
