"""The worst case over all attacks on one model, and the checks that an attack was not merely blinded."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from suite.attacks.gradient import FGSM, PGD
from suite.base.errors import InputError
from suite.core.attack import CertifiedAttack, EvasionAttack, GradientAttack
from suite.core.classifier import TorchClassifier
from suite.core.space import Space
from suite.evaluate.evasion import SLACK
from suite.evaluate.subject import Arrays, Subject, people, subgroups
from suite.results import metrics
from suite.results.measurement import Sheet

CONTROL = "noise"
"""Registered name of the random control: what it fools is the base rate of every evasion attack."""


REACHES = (0.1, 0.3, 1.0)
"""Shares of the range that an unlimited attack tries."""


@dataclass(frozen=True)
class Part:
    """One finished evasion cell: the attack, its registered name, and the arrays it left."""

    name: str
    attack: EvasionAttack
    arrays: Arrays

    def fooled(self, eps: float, size: int, counted: str = "linf") -> tuple[np.ndarray, np.ndarray]:
        """(size,) bool each: which test rows were fooled within a budget, and which were attacked at all.

        Args:
            eps: Budget.
            size: Test rows.
            counted: In what: "linf", or "distance" for the attack's own norm.
        """
        fooled, tried = np.zeros(size, bool), np.zeros(size, bool)
        tried[self.arrays["positions"]] = True
        fooled[self.arrays["positions"]] = self.arrays[counted] <= eps + SLACK
        return fooled, tried

    def inputs(self, clean: np.ndarray, most: int) -> np.ndarray:
        """The first rows that were attacked, as the attack left them where that was kept, and clean elsewhere.

        Args:
            clean: (n, ...) all test inputs.
            most: How many rows at most.
        """
        x, kept = clean[self.arrays["positions"][:most]], self.arrays["kept"]
        x[kept[kept < most]] = self.arrays["x_adv"][kept < most]
        return x

    @property
    def aimed(self) -> bool:
        """Whether it searches the Linf ball: neither the control nor an attack in another norm, whose failure says
        nothing of what lies in the ball."""
        return self.name != CONTROL and self.attack.norm == "linf"

    def same(self, other: Part) -> bool:
        """Whether both are the same attack with the same hyper-parameters, on the same rows."""
        return (self.name, self.attack) == (other.name, other.attack) and np.array_equal(
            self.arrays["positions"], other.arrays["positions"])


def withstood(parts: list[Part], wrong: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool each: test rows judged rightly whatever was tried within `eps` (Linf), and rows that met an attack.

    Args:
        parts: Finished evasion cells. What the random control and attacks in other norms fool within `eps` counts, too,
            but whom they alone met has met no attack.
        wrong: (n,) bool: rows that are misjudged, or refused, without any attack.
        eps: Budget.
    """
    met, fooled = np.zeros(len(wrong), bool), wrong.copy()
    for part in parts:
        hit, tried = part.fooled(eps, len(wrong))
        fooled |= hit
        if part.aimed:
            met |= tried
    return ~fooled, met


def measure_worst_case(subject: Subject, sheet: Sheet, parts: list[Part]) -> Arrays:
    """Robust accuracy when every row meets the attack that suits it best, at every budget and by subgroup."""
    test, attacks = subject.data.test, [p for p in parts if p.aimed]
    tried = attacks or [p for p in parts if p.attack.norm == "linf"]
    if not tried:
        raise InputError("every evasion attack in Linf on this model failed")
    # whom no attack was tried on is not robust for it
    rows = np.flatnonzero(np.any([p.fooled(subject.eps, len(test))[1] for p in tried], axis=0))
    wrong = subject.classifier.predict(test.x) != test.y
    for eps in subject.budgets:
        # whom mere noise fools is fooled, too, and whom an attack in another norm does without leaving the ball
        fooled = wrong | np.any([p.fooled(eps, len(test))[0] for p in parts], axis=0)
        sheet.add("robust_accuracy", metrics.proportion(~fooled[rows]), attack_params={"eps": eps})
        if eps == subject.eps:
            at = {"attack_params": {"eps": eps}}
            here = np.isin(np.arange(len(test)), rows)
            sheet.add("attack_success_rate", metrics.proportion(fooled[rows][~wrong[rows]]), **at)
            for label, members in subgroups(test, subject.smallest_group):
                if (few := people(test, members & here)) >= subject.smallest_group:
                    sheet.add("robust_accuracy", metrics.proportion(~fooled[members & here]), subgroup=label,
                              people=few, **at)
            robust = ~fooled
            for part in parts:
                _against(part, parts, fooled, wrong, subject, sheet, at)
    if isinstance(subject.classifier, TorchClassifier):
        _masking(subject, sheet, parts, wrong)
    return {"positions": rows, "robust": robust[rows]}


def _against(part: Part, parts: list[Part], fooled: np.ndarray, wrong: np.ndarray, subject: Subject, sheet: Sheet,
             at: dict) -> None:
    """How far an attack exceeds the random control of its norm, and how much robustness in Linf it leaves for others to
    take away. Says nothing across norms."""
    eps = subject.ladder(part.attack)[0]
    mine, tried = part.fooled(eps, len(fooled), "distance")
    for control in (p for p in parts if p.name == CONTROL and p is not part and p.attack.norm == part.attack.norm):
        chance, also = control.fooled(eps, len(fooled), "distance")
        both = tried & also & ~wrong
        sheet.add(f"lift[{part.name}]", metrics.paired(mine[both], chance[both]), attack_params={"eps": eps})
    if part.attack.norm == "linf":
        left = mine | wrong
        sheet.add(f"overstated[{part.name}]", metrics.paired(fooled[tried], left[tried]), **at)


def _masking(subject: Subject, sheet: Sheet, parts: list[Part], wrong: np.ndarray) -> None:
    """Signs of masked gradients (Athalye et al. 2018, arXiv 1802.00420; Carlini et al. 2019, arXiv 1902.06705).

    Each check is a row `check[...]`: 1 passed, 0 suspicious. Only attacks that search in Linf for any wrong label, and
    where many steps are asked for take many, stand for the white box, and none that also asks, as it cannot lose to a
    black box: others may without any masking.
    """
    n = len(subject.data.test)
    at = {"attack_params": {"eps": subject.eps}}
    gradient = [p for p in parts if p.aimed and isinstance(p.attack, GradientAttack)
                and getattr(p.attack, "target", None) is None]
    iterative = [p for p in gradient if getattr(p.attack, "steps", 1) > 1]
    white = [p for p in iterative if "evasion-query" not in p.attack.info.threats]
    blind = [p for p in parts if p.name != CONTROL and not isinstance(p.attack, GradientAttack | CertifiedAttack)]

    def passes(name: str, strong: list[Part], weak: list[Part]) -> None:
        """The strong attacks must not miss clearly more rows that the weak ones fool than the other way round."""
        if strong and weak:
            (a, in_a), (b, in_b) = (np.stack([p.fooled(subject.eps, n) for p in side], 1) for side in (strong, weak))
            # every strong attack has to have had its chance, but a slow weak one hides nothing that another fooled
            rows, a, b = in_a.all(0) & in_b.any(0) & ~wrong, a.any(0), b.any(0)
            only_weak, only_strong = int((b & ~a & rows).sum()), int((a & ~b & rows).sum())
            fine = only_weak <= only_strong + 2 * np.sqrt(max(only_strong, 1))
            sheet.add(f"check[{name}]", fine, int(rows.sum()), **at)

    passes("white box beats black box", white, blind)
    passes("many steps beat one", *([p for p in gradient if isinstance(p.attack, kind)] for kind in (PGD, FGSM)))
    _steps_and_reach(subject, sheet, at)
    if iterative:
        _same_answer(subject, sheet, iterative, at)


def _same_answer(subject: Subject, sheet: Sheet, attacks: list[Part], at: dict) -> None:
    """The same input must get the same label again: else one draw decides who was fooled, and gradients are those of
    another draw. Asked where it matters, on the attacks' inputs, which lie near the borders between classes."""
    asked = np.concatenate([p.inputs(subject.data.test.x, 100) for p in attacks])
    x = torch.from_numpy(asked).to(subject.classifier.device)
    first, *again = (subject.classifier.judge(x) for _ in range(4))
    changed = torch.stack([label != first for label in again]).any(0).double().mean()
    sheet.add("check[same answer again]", float(changed) <= 0.02, len(asked), **at)


def _steps_and_reach(subject: Subject, sheet: Sheet, at: dict) -> None:
    """More steps must not raise accuracy, and with every value free to change nearly everyone must be fooled."""
    model, test = subject.classifier, subject.test(100)
    space = model.space
    x, y = (torch.from_numpy(a).to(model.device) for a in (test.x, test.y))

    def kept(scale: torch.Tensor, **changes: float) -> np.ndarray:
        free = copy.copy(model)
        free.space = Space(space.lower, space.upper, scale)
        return (free.judge(PGD(**changes)(free, x, y, subject.seed)) == y).cpu().numpy()

    few, many = (kept(space.scale, eps=subject.eps, steps=steps).mean() for steps in (3, 30))
    sheet.add("check[loss rises with steps]", many <= few + 0.02, len(test), **at)
    # a scale may be far less than the range, and no limit means from one end of it to the other; who may go anywhere
    # need not start far away, where a guard refuses everything
    width = space.upper - space.lower
    width = torch.where(width.isfinite() & (width > 0), width, space.scale)
    left = np.all([kept(width, eps=reach, steps=40) for reach in REACHES], axis=0).mean()
    chance = np.bincount(test.y).max() / len(test) / 2
    sheet.add("check[unlimited attack succeeds]", left <= chance, len(test), **at)
