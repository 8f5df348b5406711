"""Exact attacks on tree models: the nearest possible patient that is judged differently, and proof that none is nearer.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from suite.base.bounds import Count, Nodes, Positive, Unbounded
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.base.progress import advance
from suite.core.attack import Certified, CertifiedAttack
from suite.core.classifier import Classifier, EstimatorClassifier
from tabular.trees.ensemble import Ensemble
from tabular.trees.exact import NODES, SECONDS, Robustness, solve
from tabular.trees.reach import Reach


@dataclass(frozen=True)
class _ExactTrees(CertifiedAttack):
    """What the two exact attacks share.

    Attributes:
        eps: Linf distance, in units of the space's scale, beyond which it need not look.
        nodes_per_row: Boxes of the space, see `Robustness.nodes`, after which the bounds found so far are taken.
            Results do not depend on the machine or its load as long as this limit comes first.
        seconds_per_row: Time after which they are taken in any case; positive. Rows cut by it are reported.
        workers: Threads that solve rows. They change nothing but the time, unless the clock cuts a row.
    """

    eps: Unbounded = float("inf")
    nodes_per_row: Nodes = NODES
    seconds_per_row: Positive = SECONDS
    workers: Count = 1

    needs: ClassVar[Literal["trees"]] = "trees"

    def __post_init__(self) -> None:
        if not (self.eps > 0 and self.nodes_per_row >= 1 and self.seconds_per_row > 0 and self.workers >= 1):
            raise InputError(f"{type(self).__name__}: eps and seconds_per_row must be positive, nodes_per_row and "
                             "workers at least 1")

    def check(self, classifier: Classifier) -> None:
        self._ensemble(classifier)

    def search(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Certified:
        """Bounds and witnesses of (n, columns) rows; see `certify`. Nothing is random, so `seed` changes nothing."""
        rows = self.certify(classifier, x, y)
        x_adv = x.clone()
        for i, row in enumerate(rows):
            if row.witness is not None:
                x_adv[i] = torch.from_numpy(row.witness)
        return Certified(x_adv, *(np.array([getattr(row, name) for row in rows]) for name in ("lower", "upper",
                                                                                              "cut_by")))

    def certify(self, classifier: Classifier, x: Tensor, y: Tensor) -> list[Robustness]:
        """The robustness of each row; rows that the model gets wrong anyway have distance 0 and no witness.

        Args:
            classifier: A tree model; see `Ensemble.of`.
            x: (n, columns) float32 possible patients.
            y: (n,) int64 true labels.

        Raises:
            NotApplicable: The model is no tree model of a known kind.
        """
        ensemble, lock = self._ensemble(classifier), Lock()
        reach, rows, labels = Reach(ensemble, classifier.space), x.cpu().numpy(), classifier.predict(x.cpu().numpy())
        wrong = Robustness(0.0, 0.0, None, True, 0.0, 0)

        def predict(z: np.ndarray) -> np.ndarray:
            with lock:  # the classifier counts queries
                return classifier.predict(z)

        def one(i: int) -> Robustness:
            if labels[i] != y[i]:
                return wrong
            return solve(ensemble, predict, reach, rows[i], self.counted, self.eps, self.nodes_per_row,
                         self.seconds_per_row, int(labels[i]))

        out = []
        with ThreadPoolExecutor(self.workers) as pool:
            # without threads, progress and interrupts arrive row by row
            for found in (map if self.workers == 1 else pool.map)(one, range(len(rows))):
                out.append(found)
                advance("exact search", len(out), len(rows))
        return out

    @staticmethod
    def _ensemble(classifier: Classifier) -> Ensemble:
        if not isinstance(classifier, EstimatorClassifier):
            raise NotApplicable(f"exact tree attacks need a tree model, and {type(classifier).__name__} is none; "
                                "use a gradient attack (apgd, deepfool) or a query attack (hopskipjump)")
        return Ensemble.of(classifier.estimator)


@dataclass(frozen=True)
class ExactLinf(_ExactTrees):
    """The nearest possible patient that a tree model judges differently, in Linf, in units of the space's scale.

    Every patient found is replayed on the model. `lower` is proven: no possible patient nearer than it is judged
    differently. It is `eps` where nothing was found within a finite `eps`, and infinite where no possible patient at
    all is judged differently.
    """

    info: ClassVar[Info] = Info(
        "Exact nearest evasion of trees (Linf)",
        "Kantchelian, Tygar and Joseph 2016, arXiv 1509.07892; Chen et al. 2019, arXiv 1906.03849; Devos, Meert and "
        "Davis 2021, arXiv 2010.11598", "white-box", ("evasion",), "milliseconds per row; at most `nodes_per_row`",
        "branch and bound over leaves as bit sets, not a mixed-integer program; searches possible patients only; "
        "values and ties are exact in the model's own floating point", strong=True)


@dataclass(frozen=True)
class ExactFewest(_ExactTrees):
    """The fewest columns of a possible patient whose change makes a tree model judge differently.

    `lower` and `upper` count columns; among equals, the patient that is nearest in Linf is taken. `eps` bounds how far
    each column may move (Linf, in units of the scale); `lower` is infinite where no number of columns is enough.
    """

    info: ClassVar[Info] = Info(
        "Exact sparsest evasion of trees (L0)",
        "Kantchelian, Tygar and Joseph 2016, arXiv 1509.07892; Devos, Meert and Davis 2021, arXiv 2010.11598",
        "white-box", ("evasion",), "milliseconds per row with 8 columns, grows with the number of subsets of columns",
        "each subset of columns is decided by branch and bound; searches possible patients only")
    counted: ClassVar[Literal["linf", "l0"]] = "l0"
