"""Evasion: robustness curves, success against the base rate, and the worst case over all attacks."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np
import torch

from suite.attacks.art.query import QueryAttack
from suite.attacks.transfer import Transfer
from suite.attacks.universal import Universal
from suite.base.errors import InputError
from suite.core.attack import CertifiedAttack, EvasionAttack
from suite.core.classifier import Classifier, TorchClassifier
from suite.core.data import Split
from suite.evaluate.pictures import picture
from suite.evaluate.subject import Arrays, Subject, measure, people, subgroups
from suite.results import metrics
from suite.results.measurement import Sheet
from suite.training.loop import tensors

SLACK = 1e-5
"""Budgets are compared in float32."""
FEATURES = 3
"""Success of attacks that change few features is told up to this many."""


@measure.register
def evasion(attack: EvasionAttack, subject: Subject, sheet: Sheet, rows: int | None = None) -> Arrays:
    """Robust accuracy at every budget, and what the successes look like at the main one.

    A row that is fooled within one budget is fooled within every larger one, and is not attacked again. Where the
    attack has a target, rows that bear its label are left out, and fooled means judged as the target. A universal
    attack makes one pattern for each budget, and each is measured on all rows by itself; the arrays below are for each
    row of the pattern of the least budget that fools it; what it asks is told for each pattern ("crafting_queries"),
    and no row is charged for it.

    Of the n rows attacked, these arrays are kept: "positions" (n,) in the test split, "wrong" (n,) bool without attack,
    "distance" (n,) float64 in the attack's norm and "linf" (n,), infinite where nothing was found; and "x_adv" (k, ...)
    of the k successes within the main budget (in either norm) that `Subject.held` makes room for, with "kept" (k,),
    where among the n they are.
    """
    if isinstance(attack, CertifiedAttack) and attack.counted == "l0":
        return _fewest(attack, subject, sheet, rows)
    model, space, target = subject.classifier, subject.classifier.space, getattr(attack, "target", None)
    positions = subject.positions(rows)
    if target is not None:
        positions = positions[subject.data.test.y[positions] != target]
        if not len(positions):
            raise InputError(f"every test row bears label {target}, the target: there is none to attack")
    test = subject.data.test.take(positions)
    main, budgets = subject.ladder(attack)
    x, y = (torch.from_numpy(a).to(model.device) for a in (test.x, test.y))
    wrong = model.predict(test.x) != test.y
    model.queries = 0
    if isinstance(model, TorchClassifier):
        model.gradients = 0
    started = time.perf_counter()
    # a transfer attack never meets the model, but only a surrogate
    met = model
    if isinstance(attack, Transfer):
        met = attack.surrogate_of(subject.recipe, subject.data, subject.seed, subject.device)
    best, distance, extra = x.clone(), np.where(wrong, 0.0, np.inf), {}
    cut_by: list[np.ndarray] = []
    patterns: dict[float, torch.Tensor] = {}
    if isinstance(attack, Universal):  # fitted on the attacker's own inputs, never on those that it is judged on
        own = tensors(subject.data.val, model.device)
        patterns = {eps: replace(attack, eps=eps).craft(model, *own, subject.seed) for eps in budgets}
        extra["pattern"] = patterns[main].cpu().numpy()
    crafted, model.queries = model.queries, 0

    def attempt(budget: float, which: np.ndarray) -> None:
        """Attack the rows `which` and keep what succeeded within the budget."""
        if not which.any():
            return
        todo = torch.from_numpy(which).to(model.device)
        found = trial(replace(attack, eps=budget), x[todo], y[todo])
        spent = model.queries  # checking a result is not part of the attack
        fooled = fools(model, found, y[todo], target)
        model.queries = spent
        assert bool(space.contains(found, x[todo]).all()), f"{type(attack).__name__} left the space"
        if attack.norm == "own":  # it keeps to its budget itself
            far = np.full(len(fooled), budget)
        else:
            far = space.distance(found, x[todo], attack.norm).double().cpu().numpy()
            fooled &= far <= budget + SLACK
        index = np.flatnonzero(which)[fooled]
        best[torch.from_numpy(index).to(model.device)] = found[torch.from_numpy(fooled).to(model.device)]
        distance[index] = far[fooled]

    def trial(now: EvasionAttack, x0: torch.Tensor, y0: torch.Tensor) -> torch.Tensor:
        if isinstance(now, CertifiedAttack):
            certified = now.search(model, x0, y0, subject.seed)
            lower = np.zeros(len(test))
            lower[~wrong] = certified.lower
            extra.update(lower=lower, upper=np.where(wrong, 0.0, np.inf))
            extra["upper"][~wrong] = certified.upper
            cut_by.append(certified.cut_by)
            return certified.x_adv
        if patterns:
            return now.apply(model, x0, patterns[now.eps])
        return now(met, x0, y0, subject.seed)

    for budget in budgets[-1:] if attack.minimal else budgets:
        attempt(budget, np.isinf(distance))
    seconds, asked = time.perf_counter() - started, model.queries
    within, there, far = {eps: distance <= eps + SLACK for eps in budgets}, best, distance
    for eps, pattern in patterns.items():
        found = replace(attack, eps=eps).apply(model, x, pattern)
        within[eps] = wrong | fools(model, found, y, target)
        if eps == main:
            there, far = found, space.distance(found, x, attack.norm).double().cpu().numpy()

    params = {k: v for k, v in asdict(attack).items() if k != "eps"}
    cost = {"queries": asked / len(test), "seconds": seconds}
    for eps in budgets:
        at = {"attack_params": params | {"eps": eps}} | cost
        fooled = within[eps]
        sheet.add("robust_accuracy", metrics.proportion(~fooled), **at)
        sheet.add("attack_success_rate", metrics.proportion(fooled[~wrong]), **at)
        if "lower" in extra:
            # where the search found nothing it looked no further than the greatest budget, and proves no more
            proved = (extra["lower"] > eps + SLACK) | (np.isinf(extra["upper"]) & (extra["lower"] >= eps - SLACK))
            sheet.add("certified_accuracy", metrics.proportion(proved), **at)
    at = {"attack_params": params | {"eps": main}} | cost
    if isinstance(model, TorchClassifier):
        sheet.add("gradients", model.gradients / len(test), len(test), **at)
    if "lower" in extra:
        with np.errstate(invalid="ignore"):  # infinite less infinite: proven unreachable
            solved = extra["upper"] - extra["lower"] <= SLACK
        unreachable = extra["lower"] >= budgets[-1] - SLACK
        sheet.add("solved", metrics.proportion((solved | unreachable)[~wrong]), **at)
        _cuts(sheet, np.concatenate([*cut_by, np.empty(0, "<U5")]), at)
    _describe(attack, subject, sheet, test, there, far, within[main], wrong, at)
    right = torch.from_numpy(~wrong).to(model.device)
    if isinstance(attack, QueryAttack):
        _as_claimed(attack, subject, sheet, x[right], y[right], at)
    shown = picture(model, x, there, within[main], wrong, test.y, test.classes) if subject.pictures else {}
    if patterns:  # under a name of its own, as it is of one perturbation and not of one for each row
        sheet.add("pattern_success_rate", metrics.proportion(within[main][~wrong]), **at)
        sheet.add("crafting_queries", crafted / len(patterns), len(own[0]), **at)
    if isinstance(attack, Transfer):
        _transferred(replace(attack, eps=main), met, subject, sheet, x[right], y[right], at)
    linf = np.where(np.isfinite(distance), space.distance(best, x).double().cpu().numpy(), np.inf)
    found = ((distance <= main + SLACK) | (linf <= subject.eps + SLACK)) & ~wrong
    kept = np.flatnonzero(found & np.isin(positions, subject.positions(subject.held)))
    return {"positions": positions, "wrong": wrong, "distance": distance, "linf": linf, "kept": kept,
            "x_adv": best[torch.from_numpy(kept).to(model.device)].cpu().numpy(), **extra, **shown}


def _fewest(attack: CertifiedAttack, subject: Subject, sheet: Sheet, rows: int | None) -> Arrays:
    """How many features must change, by however much, until the model judges differently."""
    model, test = subject.classifier, subject.test(rows)
    x, y = (torch.from_numpy(a).to(model.device) for a in (test.x, test.y))
    right = model.predict(test.x) == test.y
    model.queries, started = 0, time.perf_counter()
    found = replace(attack, eps=float("inf")).search(model, x, y, subject.seed)
    params = {k: v for k, v in asdict(attack).items() if k != "eps"}
    at = {"attack_params": params, "queries": model.queries / len(test), "seconds": time.perf_counter() - started}
    fooled = fools(model, found.x_adv, y) & right
    changed = np.where(fooled, (found.x_adv != x).flatten(1).sum(1).cpu().numpy(), np.inf)
    for most in range(1, FEATURES + 1):
        sheet.add(f"flipped_by_features[{most}]", metrics.proportion(changed[right] <= most), **at)
    sheet.add("solved", metrics.proportion((found.upper == found.lower)[right]), **at)
    _cuts(sheet, found.cut_by[right], at)
    return {"positions": subject.positions(rows), "changed": changed}


def _cuts(sheet: Sheet, cut_by: np.ndarray, at: dict) -> None:
    """The share of the rows attacked on which each limit cut the search: by the clock, another machine may differ."""
    for limit in ("nodes", "clock"):
        sheet.add(f"cut_by_{limit}", metrics.proportion(cut_by == limit), **at)


def fools(model: Classifier, x: torch.Tensor, y: torch.Tensor, target: int | None = None) -> np.ndarray:
    """(n,) bool: whether the label is neither `y` nor a refusal, or whether it is the target."""
    pred = model.judge(x).cpu().numpy()
    return pred == target if target is not None else (pred != y.cpu().numpy()) & (pred >= 0)


def _describe(attack: EvasionAttack, subject: Subject, sheet: Sheet, test: Split, best: torch.Tensor,
              distance: np.ndarray, fooled: np.ndarray, wrong: np.ndarray, at: dict) -> None:
    """Performance under attack at the main budget, and the size and visibility of the successful perturbations."""
    attacked = np.where(fooled.reshape(-1, *[1] * (test.x.ndim - 1)), best.cpu().numpy(), test.x)
    model, proba = subject.classifier, None
    if hasattr(attack, "early_stop") and not attack.minimal:
        # who is after scores pushes every row as far as it goes; where the search just stops at the border between the
        # labels, and leaves alone who cannot cross it, scores flatter the model
        pushed = replace(attack, eps=at["attack_params"]["eps"], early_stop=False)
        x, y = (torch.from_numpy(a).to(model.device) for a in (test.x, test.y))
        proba = model.predict_proba(pushed(model, x, y, subject.seed).cpu().numpy())
    under = metrics.classification(test.y, model.predict(attacked), proba, test.classes, subject.seed)
    sheet.extend({f"attacked_{name}": value for name, value in under.items()}, **at)
    hit = fooled & ~wrong
    if hit.any():
        rows = torch.from_numpy(hit).to(best.device)
        space, found, clean = model.space, best[rows], torch.from_numpy(test.x[hit]).to(best.device)
        seen = {f"visibility[{name}]": values.median() for name, values in space.visibility(found, clean).items()}
        if not seen:  # nobody looks at a table, but somebody pays for each change
            seen = {"median_cost": space.price(found, clean).quantile(0.5)}
        for metric, number in {"median_perturbation": np.median(distance[hit]), **seen,
                               "features_changed": space.distance(found, clean, "l0").mean()}.items():
            sheet.add(metric, float(number), int(hit.sum()), **at)
    for label, members in subgroups(test, subject.smallest_group):
        sheet.add("robust_accuracy", metrics.proportion(~fooled[members]), subgroup=label,
                  people=people(test, members), **at)


def _as_claimed(attack: QueryAttack, subject: Subject, sheet: Sheet, x: torch.Tensor, y: torch.Tensor,
                at: dict) -> None:
    """What a user of the library would see, who tells it no more than ranges; and how much of that is possible."""
    model, space = subject.classifier, subject.classifier.space
    raw = replace(attack, eps=subject.eps).raw(model, x, y, subject.seed)
    near = space.distance(raw, x).cpu().numpy() <= subject.eps + SLACK
    fooled = fools(model, raw, y) & near
    sheet.add("claimed_success_rate", metrics.proportion(fooled), **at)
    sheet.add("claimed_impossible", metrics.proportion(~space.contains(raw, x).cpu().numpy()[fooled]), **at)


def _transferred(attack: Transfer, surrogate: TorchClassifier, subject: Subject, sheet: Sheet, x: torch.Tensor,
                 y: torch.Tensor, at: dict) -> None:
    """How good the surrogate is, how often the attack fools it, and how many of these the model falls for, too."""
    test = subject.data.test
    sheet.add("surrogate_accuracy", metrics.proportion(surrogate.predict(test.x) == test.y), **at)
    found = attack(surrogate, x, y, subject.seed)
    fooled = fools(surrogate, found.to(surrogate.device), y, attack.target)
    sheet.add("surrogate_success", metrics.proportion(fooled), **at)
    sheet.add("transfer_rate", metrics.proportion(fools(subject.classifier, found, y, attack.target)[fooled]), **at)
