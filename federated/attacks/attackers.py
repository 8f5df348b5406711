"""Attacks by hospitals that take part in a federation, and what becomes of the model under them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np

from federated.flower.grid import Tamper
from federated.training.defense import FederatedTraining
from suite.base.bounds import Count
from suite.base.errors import InputError
from suite.core.attack import Attack, Poisoned
from suite.core.data import Split
from suite.core.defense import Defense
from suite.evaluate.poisoning import measure_victim
from suite.evaluate.subject import Arrays, Subject, measure, people, subgroups
from suite.results import metrics
from suite.results.measurement import Sheet


@dataclass(frozen=True)
class FederationAttack(Attack):
    """Base of attacks on a federation, which nothing else can be attacked by."""

    retrains: ClassVar[bool] = True

    def faces(self, defense: Defense) -> bool:
        return isinstance(defense, FederatedTraining)


@dataclass(frozen=True)
class HostileAttack(FederationAttack):
    """Base of attacks by hospitals: a frozen dataclass with an `info`.

    Attributes:
        hospitals: How many are hostile, at least 1; drawn at random by the seed of the measurement, among those whose
            rows let them (`hindered`).
    """

    hospitals: Count = field(default=1, kw_only=True)

    def caution(self, defense: FederatedTraining, train: Split) -> str:
        rule, sites = defense.aggregator, len(np.unique(train.subgroups[defense.column]))
        most = rule.tolerates(sites)
        name = defense.rule if isinstance(defense.rule, str) else defense.rule["name"]
        if most >= self.hospitals:
            return ""
        return (f"{name} can be asked to withstand {max(most, 0)} hostile of {sites} hospitals, and meets "
                f"{self.hospitals}")

    def chosen(self, sites: int, seed: int = 0, hindered: Callable[[int], str] = lambda _: "") -> frozenset[int]:
        """Numbers of the hostile hospitals among so many; `hindered` says of a number why it cannot be one.

        Raises:
            InputError: No honest one would be left, or fewer than wanted can be hostile.
        """
        if self.hospitals >= sites:
            raise InputError(f"{self.hospitals} hostile hospitals of {sites} leave no honest one")
        found, why = [], ""
        for k in np.random.default_rng([seed, 7]).permutation(sites).tolist():
            if (own := hindered(k)):
                why = own
            else:
                found.append(k)
            if len(found) == self.hospitals:
                return frozenset(found)
        raise InputError(f"{len(found)} of {sites} hospitals can be hostile in this way, and {self.hospitals} should: "
                         f"{why}")

    def hindered(self, rows: Split, seed: int = 0) -> str:
        """Why a hospital with these rows cannot be hostile in this way; empty where it can."""
        return ""

    def poisoned(self, rows: Sequence[Split], bad: frozenset[int], seed: int = 0) -> tuple[Sequence[Split],
                                                                                         Poisoned | None]:
        """What all hospitals train on, and what was done to the rows of the hostile ones; nothing here."""
        return rows, None

    def tamper(self, bad: frozenset[int], seed: int = 0) -> Tamper | None:
        """What the hostile ones do to their replies; nothing here."""
        return None


@measure.register
def hostile(attack: HostileAttack, subject: Subject, sheet: Sheet, _: int | None = None) -> Arrays:
    """Train the federation again with hostile hospitals, and measure as after poisoning: the model on clean test rows,
    by hospital too, and for a backdoor on triggered ones.

    "hostile_hospitals" stands beside "tolerated", the most that the rule can be asked to withstand. "hostile_share" is
    the share of the training rows that the hostile ones hold, and `attack_params["who"]` names them, sorted.
    "refused_replies" is the share of all replies that the border did not let in.
    """
    data, seed = subject.data, subject.seed
    federation = subject.defense.federation(subject.recipe, data.train, data.val, seed, subject.device)
    sites = len(federation.names)
    bad = attack.chosen(sites, seed, lambda k: attack.hindered(federation.rows[k], seed))
    who = sorted(federation.names[k] for k in bad)
    began = time.perf_counter()
    own, poisoned = attack.poisoned(federation.rows, bad, seed)
    federation = federation.with_rows(own)
    weights, record = federation.train(attack.tamper(bad, seed), subject.log, attack=repr(attack), hostile=who)
    victim = federation.model(weights)
    at = {"attack_params": asdict(attack) | {"who": who}, "seconds": time.perf_counter() - began}
    sheet.add("hostile_hospitals", float(len(bad)), sites, **at)
    counts = np.array([len(rows) for rows in federation.rows])
    sheet.add("hostile_share", float(counts[sorted(bad)].sum() / counts.sum()), int(counts.sum()), **at)
    sheet.add("tolerated", float(federation.rule.tolerates(sites)), sites, **at)
    replies = sites * federation.rounds
    sheet.add("refused_replies", metrics.proportion(record.events.get("refused", 0), replies), **at)
    arrays = measure_victim(victim, poisoned, subject, sheet, at)
    right, before = arrays["pred"] == data.test.y, subject.classifier.predict(data.test.x) == data.test.y
    for label, which in subgroups(data.test, subject.smallest_group):
        if label.startswith(f"{subject.defense.column}="):
            sheet.add("accuracy_change", metrics.paired(right[which], before[which]), subgroup=label,
                      people=people(data.test, which), **at)
    return arrays
