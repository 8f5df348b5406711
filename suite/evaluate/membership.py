"""Membership: whether the model's answers tell its training patients from others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np

from suite.base.errors import InputError
from suite.core.attack import Leaked, MembershipAttack, ShadowScore
from suite.core.data import Split, patients_of
from suite.core.odds import log_odds
from suite.evaluate.patients import measure_patients
from suite.evaluate.subject import Arrays, Subject, measure, subgroups
from suite.models.artifacts import Fitted
from suite.models.surrogate import described
from suite.results import metrics
from suite.results.measurement import Sheet
from suite.results.metrics import Estimate
from suite.shadows.patients import by_person
from suite.shadows.shadowing import Shadowing

FPRS = (0.001, 0.01, 0.05, 0.1)
SCORED = 400
"""Members and non-members that are scored at most, each: label-only attacks walk for every one."""
FEWEST = 10
"""Members and non-members, each, below which a subgroup is not told."""


@measure.register
def membership(attack: MembershipAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Members and test rows are told apart, as many of both, and one row of each patient.

    From the training rows of other patients, and from the validation rows, the attacker may learn; the latter stopped
    the training, so the model is a little surer of them than of strangers. Test patients with a row in the training
    split, by their number or to the byte, are no others. "null" is the AUROC between two halves of the members: how far
    chance alone takes it with so many.

    Where shadow models answer, also how well each of the 2 n patients is found in these (`measure_patients`).

    Of the 2 n rows scored, these arrays are kept: "score", "member", and "row", their numbers in the source; with
    shadow models "patient_auroc", too.
    """
    model, seed = subject.classifier, subject.seed
    # rows that are attacked cost time one by one; of those that shadow models answer, more cost nothing
    limit = rows or (None if attack.retrains else subject.rows)
    members, others, known = _panel(subject, min(limit or SCORED, SCORED))
    shadowing = known.shadows
    if shadowing is not None:
        known = replace(known, shadows=cache(shadowing))  # they are needed twice, and there may be no shelf
    x, y, row = (np.concatenate([getattr(s, a) for s in (members, others)]) for a in ("x", "y", "rows"))
    n, member = len(x), np.repeat([True, False], len(members))
    model.queries, started = 0, time.perf_counter()
    score = attack(model, known, x, y, seed)
    at = {"attack_params": asdict(attack) | _stand_in(attack, subject),
          "seconds": time.perf_counter() - started, "queries": model.queries / n}
    if not np.isfinite(score).all():
        raise InputError(f"{type(attack).__name__} gave {int((~np.isfinite(score)).sum())} scores that are not finite")
    sheet.add("membership_auroc", told_apart(score, member, seed), **at)
    sheet.add("membership_advantage", metrics.bootstrap(lambda i: _advantage(score[i], member[i]), n, seed, member),
              **at)
    sheet.add("membership_null", told_apart(score[member], np.arange(len(members)) % 2 == 0, seed), **at)
    tell_rates(score, member, seed, sheet, at)
    groups = list(_groups(members, others, max(FEWEST, subject.smallest_group)))
    for name, which in groups:
        sheet.add("membership_auroc", told_apart(score[which], member[which], seed), subgroup=name,
                  people=int(min(member[which].sum(), (~member[which]).sum())), **at)  # a row is a person here
    kept = {"score": score, "member": member, "row": row}
    if isinstance(attack, ShadowScore) and known.shadows is not None:
        shadows = known.shadows(attack.shadows)
        kept |= measure_patients(attack, shadows, groups, sheet, at, seed)
        if shadows.owner is not None:
            further = shadowing.further_rows()
            odds = log_odds(model, np.concatenate([x, further.x]), np.concatenate([y, further.y]))
            for how, of_all in by_person(attack.score(odds, shadows.by_row)[None], shadows.owner, n).items():
                sheet.add(f"patient_membership_auroc[{how}]", told_apart(of_all[0], member, seed), **at)
    return kept


def _panel(subject: Subject, most: int) -> tuple[Split, Split, Leaked]:
    """The members and the others who are told apart, as many of both, and what the attacker has."""
    train, test, val = subject.data.train, subject.data.test, subject.data.val
    rng = np.random.default_rng(subject.seed)
    inside, outside = _one_a_patient(train, rng), _one_a_patient(test, rng)
    outside = _strangers(test, train, outside)
    fitted, spare = isinstance(subject.recipe, Fitted), None
    if fitted and subject.data.declared and "val" not in subject.data.declared:
        # the validation rows were drawn from those that the model learned from: others are taken from the test rows
        cut = len(outside) * 2 // 3
        outside, spare = outside[:cut], test.take(outside[cut:][:SCORED])
    size = min(len(inside), len(outside), most)
    if size < 2:
        raise InputError(f"{len(inside)} members and {len(outside)} others: too few to tell apart")
    inside, outside = inside[:size], outside[:size]
    rest = np.flatnonzero(~np.isin(patients_of(train), patients_of(train)[inside]))
    learned = rest[_one_a_patient(train.take(rest), rng)[:SCORED]]
    new = spare or val.take(_strangers(val, train, _one_a_patient(val, rng))[:SCORED])
    recipe = subject.recipe.shadow if fitted else subject.recipe
    shadows = recipe and Shadowing(recipe, subject.defense, inside, outside, train, test, val, subject.seed,
                                   subject.device, subject.shelf)
    return train.take(inside), test.take(outside), Leaked(train.take(learned), new, shadows)


def _stand_in(attack: MembershipAttack, subject: Subject) -> dict[str, str]:
    """By what recipe the shadow models were trained, where it is not the model's own."""
    if attack.retrains and isinstance(subject.recipe, Fitted):
        return {"shadow_recipe": described(subject.recipe.shadow)}
    return {}


def _one_a_patient(split: Split, rng: np.random.Generator) -> np.ndarray:
    """Positions in random order, the first of each patient only."""
    order = rng.permutation(len(split))
    return order[np.sort(np.unique(patients_of(split)[order], return_index=True)[1])]


def _strangers(split: Split, train: Split, positions: np.ndarray) -> np.ndarray:
    """Those of some positions of a split whose patient, and whose row, the training split does not have.

    Raises:
        InputError: They are fewer than half.
    """
    there = {row.tobytes() for row in train.x}
    new = np.array([split.x[i].tobytes() not in there for i in positions], bool)
    if split.patients is not None and train.patients is not None:
        new &= ~np.isin(split.patients[positions], train.patients)
    if len(new) and new.mean() < 0.5:
        raise InputError(f"{int((~new).sum())} of {len(new)} rows outside the training split are of its patients, or "
                         "equal to its rows: they are no strangers from whom members could be told")
    return positions[new]


def _groups(members: Split, others: Split, fewest: int) -> Iterator[tuple[str, np.ndarray]]:
    """`("sex=F", mask)` over members and others, by class and by subgroup, where there are enough of both."""
    both = [{f"class={name}": split.y == k for k, name in enumerate(split.classes)} | dict(subgroups(split, fewest))
            for split in (members, others)]
    for name in both[0]:
        if name in both[1] and min(group[name].sum() for group in both) >= fewest:
            yield name, np.concatenate([group[name] for group in both])


def told_apart(score: np.ndarray, member: np.ndarray, seed: int) -> Estimate:
    """AUROC of (n,) scores of members and non-members, some of both, with its interval."""
    return metrics.weighted(metrics.resampled_auroc(score, member), len(score), seed, member)


def tell_rates(score: np.ndarray, member: np.ndarray, seed: int, sheet: Sheet, at: dict[str, Any]) -> None:
    """Add the share of members found at each of `FPRS`, but for those that are too small for so many non-members to
    fix a threshold, and which is the least that is not."""
    others = int((~member).sum())
    least = metrics.least_fpr(others)
    sheet.add("resolvable_fpr", least, others, **at)
    for fpr in FPRS:
        if fpr >= least:
            sheet.add(f"tpr_at_fpr[{fpr:g}]", metrics.tpr_at(score, member, fpr), **at)


def _advantage(score: np.ndarray, member: np.ndarray) -> float:
    """Largest TPR - FPR over all thresholds."""
    fpr, tpr = metrics.roc_curve(score, member)
    return float((tpr - fpr).max())
