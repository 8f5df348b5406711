"""What a defense buys and costs, patient by patient: paired differences are much sharper than two intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from suite.base.limits import SMALLEST_GROUP
from suite.core.attack import Attack, PoisoningAttack
from suite.core.data import Split
from suite.evaluate.subject import Arrays, people, subgroups
from suite.evaluate.worst_case import Part, withstood
from suite.results import metrics
from suite.results.measurement import Sheet


@dataclass(frozen=True)
class Poisoning:
    """One finished poisoning cell: the attack, its registered name, and the arrays it left (`pred`, for a backdoor
    also `hit`).
    """

    name: str
    attack: PoisoningAttack
    arrays: Arrays


@dataclass(frozen=True)
class Outcome:
    """What the cells of one model behind one defense left.

    Attributes:
        fit: Of training (`pred`).
        parts: Of its evasion attacks.
        leaks: Of its membership attacks (`score` and `member`), by name and attack.
        poisonings: Of its poisoning attacks.
    """

    fit: Arrays
    parts: list[Part] = field(default_factory=list)
    leaks: Mapping[tuple[str, Attack], Arrays] = field(default_factory=dict)
    poisonings: list[Poisoning] = field(default_factory=list)


def measure_gains(sheet: Sheet, test: Split, plain: Outcome, defended: Outcome, eps: float, attack: str,
                  seed: int = 0, smallest: int = SMALLEST_GROUP) -> None:
    """Add `gain[...]` rows: the defended model less the plain one, on the same patients and under the same attacks.

    A defense that fewer attacks were tried on would otherwise look strong for it.

    Args:
        sheet: Receives the rows.
        test: The test split.
        plain, defended: The model without a defense, and behind one.
        eps: The budget of the worst case.
        attack: Name of the worst case in rows.
        seed: Of the bootstrap.
        smallest: People of a subgroup below which nothing is told about it.
    """
    before, after, y = plain.fit["pred"] == test.y, defended.fit["pred"] == test.y, test.y
    sheet.add("gain[accuracy]", metrics.paired(after, before))
    sheet.add("gain[balanced_accuracy]", metrics.balanced_change(after, before, y, seed))
    for label, which in subgroups(test, smallest):
        sheet.add("gain[accuracy]", metrics.paired(after[which], before[which]), subgroup=label,
                  people=people(test, which))
    if len(test.classes) == 2:
        for name, k in (("sensitivity", 1), ("specificity", 0)):
            sheet.add(f"gain[{name}]", metrics.paired(after[y == k], before[y == k]))
    _robustness(sheet, y, plain, defended, eps, attack, seed)
    for (name, made), leak in plain.leaks.items():
        if (name, made) in defended.leaks:
            at = {"attack": name, "attack_params": asdict(made)}
            sheet.add("gain[membership_auroc]", _leakage(leak, defended.leaks[name, made], seed), **at)
    for theirs in plain.poisonings:
        for mine in defended.poisonings:
            if (mine.name, mine.attack) == (theirs.name, theirs.attack):
                _poisoned(sheet, test, theirs, mine)


def _robustness(sheet: Sheet, y: np.ndarray, plain: Outcome, defended: Outcome, eps: float, attack: str,
                seed: int) -> None:
    """The worst case over the attacks that ran on both, on the same rows."""
    (theirs, rows), (mine, _) = (
        withstood([p for p in one.parts if any(p.same(q) for q in other.parts)], one.fit["pred"] != y, eps)
        for one, other in ((plain, defended), (defended, plain)))
    if rows.any():
        at = {"attack": attack, "attack_params": {"eps": eps}}
        sheet.add("gain[robust_accuracy]", metrics.paired(mine[rows], theirs[rows]), **at)
        change = metrics.balanced_change(mine[rows], theirs[rows], y[rows], seed)
        sheet.add("gain[robust_balanced_accuracy]", change, **at)


def _poisoned(sheet: Sheet, test: Split, plain: Poisoning, defended: Poisoning) -> None:
    """What the defense saves of a model trained on poisoned rows; success of a backdoor should fall."""
    at = {"attack": plain.name, "attack_params": asdict(plain.attack)}
    after, before = (p.arrays["pred"] == test.y for p in (defended, plain))
    sheet.add("gain[poisoned_accuracy]", metrics.paired(after, before), **at)
    if len(test.classes) == 2:
        for name, k in (("sensitivity", 1), ("specificity", 0)):
            own = test.y == k
            sheet.add(f"gain[poisoned_{name}]", metrics.paired(after[own], before[own]), **at)
    if "hit" in plain.arrays:
        sheet.add("gain[attack_success_rate]", metrics.paired(defended.arrays["hit"], plain.arrays["hit"]), **at)


def _leakage(plain: Arrays, defended: Arrays, seed: int) -> metrics.Estimate:
    """Change of the membership AUROC; above 0, the defended model leaks more."""
    before, after, member = plain["score"], defended["score"], plain["member"]

    def change(i: np.ndarray) -> float:
        return metrics.auroc(after[i], member[i]) - metrics.auroc(before[i], member[i])

    return metrics.bootstrap(change, len(member), seed, member, least=-1.0)
