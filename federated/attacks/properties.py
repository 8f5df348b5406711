"""What a curious server learns of a hospital as a whole: which share of its patients has which disease."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from federated.attacks.attackers import FederationAttack
from federated.attacks.curious import View
from federated.task.task import Task
from suite.base.bounds import Count
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.data import Split

PENALTIES = np.logspace(-6, 2, 9)
"""Of the regression on standardised changes; the one that predicts left-out virtual hospitals best is taken."""


@dataclass(frozen=True)
class LabelMix(FederationAttack):
    """Estimates a hospital's label mix from how its update moves the biases of the last layer.

    The gradient by the bias of a class is the model's mean probability of it less the class's share, so the change of
    the biases is nearly linear in the mix. By how much depends on the training, which the server repeats: it trains
    virtual hospitals of its own rows with random mixes, in the same round and with as many rows as the hospital says
    it has, and regresses their mixes on their changes. Rounds are averaged, each by how well that predicts left-out
    virtual hospitals.

    A loss that is balanced by class, as most recipes have it, hides the mix from the first order of this.

    Attributes:
        rounds: So many of the first rounds in which the hospital answered are looked at; later ones tell less.
        draws: Virtual hospitals a round.
    """

    info: ClassVar[Info] = Info(
        "Label mix from updates", "Wainakh et al. 2022, arXiv 2105.09369; Ma et al. 2025, arXiv 2504.21436",
        "white-box", ("property",), "`rounds` x `draws` rounds of one hospital's training",
        "the first paper has a formula for one step and no model of several; the second's virtual hospitals are told "
        "by their change of accuracy on each class, here by their biases", strong=True)
    rounds: Count = 5
    draws: Count = 32

    def __call__(self, view: View, task: Task, public: Split, hospital: int, seed: int = 0) -> np.ndarray:
        """Estimate the shares of the classes among a hospital's training rows.

        Args:
            view: What the server has seen.
            task: What the hospitals train; a federation whose hospitals train privately has a task that does.
            public: Rows of the server's own, some of each class, drawn with replacement.
            hospital: Whose mix, from 0 up.
            seed: Of the virtual hospitals.

        Returns:
            (classes,) float64, none negative, sum 1.

        Raises:
            InputError: No public rows of a class, or a hospital of which nothing was seen.
            NotApplicable: The last parameters of the network are no biases of the classes.
        """
        classes = len(task.classes)
        if [*task.network()[0].parameters()][-1].shape != (classes,):
            raise NotApplicable("LabelMix reads the biases of the last layer, and this network's has none")
        pools = [np.flatnonzero(public.y == k) for k in range(classes)]
        for name, pool in zip(task.classes, pools, strict=True):
            if not len(pool):
                raise InputError(f"public rows: none is of class '{name}'")
        turns = view.answered(hospital)[:self.rounds]
        rng, own = np.random.default_rng(seed), replace(task, seed=seed)
        guesses, errors = zip(*(self._of_round(view, own, public, pools, hospital, turn, rng) for turn in turns),
                              strict=True)
        mix = np.average(guesses, 0, 1 / np.array(errors)).clip(0)
        return mix / mix.sum()

    def _of_round(self, view: View, task: Task, public: Split, pools: list[np.ndarray], hospital: int, turn: int,
                  rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """(classes,) shares as of one round, and the mean squared error that such guesses have."""
        from sklearn.linear_model import RidgeCV
        from sklearn.preprocessing import StandardScaler

        came, count, last = view.came[turn], int(view.counts[turn, hospital]), slice(-len(pools), None)
        mixes, changes = np.empty((self.draws, len(pools))), np.empty((self.draws, len(pools)))
        for number in range(self.draws):
            held = rng.multinomial(count, rng.dirichlet(np.ones(len(pools))))
            drawn = np.concatenate([rng.choice(pool, n) for pool, n in zip(pools, held, strict=True)])
            trained = task.train(came, public.take(drawn), number, turn + 1)
            mixes[number], changes[number] = held / count, (trained - came)[last]
        scaler = StandardScaler().fit(changes)
        model = RidgeCV(PENALTIES).fit(scaler.transform(changes), mixes)
        guess = model.predict(scaler.transform(view.sent[turn, hospital][None, last].astype(np.float64)))[0]
        return guess, max(float(-model.best_score_), 1e-12)
