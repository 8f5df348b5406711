"""The nearest possible patient in a box of cells when linear relations tie the columns together."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from tabular.trees.reach import Cells, Reach


def generous(reach: Reach) -> np.ndarray:
    """(relations,) limits that no possible patient exceeds: the space sums in float32 and then grants its slack."""
    factors, limits, slack = reach.relations
    # The slack is 1e-6 of the greatest terms, so this is twice the largest error of a sum of so many.
    return limits + slack * (1 + 0.12 * (1 + (factors != 0).sum(1)))


def resolution(reach: Reach) -> float:
    """How far, in units of the scale, bounds and witnesses may differ only because relations have slack."""
    factors, _, slack = reach.relations
    width = np.abs(factors) @ reach.scale
    return max(1e-5, float((4 * slack[width > 0] / width[width > 0]).max(initial=0))) if len(slack) else 0.0


def bound(reach: Reach, cells: Cells, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, np.ndarray]:
    """Lower bound of the distance to the box `low .. high` under all relations, by linear programming.

    Returns:
        The bound, and the (relations,) weights >= 0 with which the weighted sum of the relations alone gives the same
        bound. Such a sum holds for every possible patient, so it can rule out other boxes as well.
    """
    factors, limits, _ = reach.relations
    index = np.arange(len(x))
    problem = linprog(np.r_[np.zeros(len(x)), 1],
                      np.vstack([np.pad(factors, ((0, 0), (0, 1))), _change(reach, 0)]),
                      np.r_[generous(reach), x / reach.scale, -x / reach.scale],
                      bounds=[*zip(cells.least[index, low], cells.most[index, high], strict=True), (0, None)])
    if problem.status != 0:
        return 0.0, np.zeros(len(limits))
    return float(problem.fun), np.maximum(-problem.ineqlin.marginals[:len(limits)], 0)


def nearest(reach: Reach, cells: Cells, x: np.ndarray, low: np.ndarray, high: np.ndarray, limits: np.ndarray
            ) -> tuple[np.ndarray | None, float]:
    """The row of the box that meets all relations and is nearest to `x`, by mixed-integer programming.

    Args:
        limits: (relations,) what the relations may reach.

    Returns:
        A (columns,) float32 row and its distance; `None` and infinity when the box holds no possible patient.
    """
    factors = reach.relations[0]
    columns, index = len(x), np.arange(len(x))
    least, most = cells.least[index, low], cells.most[index, high]
    options = {f: np.unique(np.r_[codes, x[f]]) for f, codes in reach.codes.items() if least[f] < most[f]}
    options = {f: values[(values >= least[f]) & (values <= most[f])] for f, values in options.items()}
    picks = sum(len(values) for values in options.values())
    # Variables: the columns, their greatest scaled change, one binary per code that can be picked.
    rules = [LinearConstraint(_change(reach, picks), ub=np.r_[x / reach.scale, -x / reach.scale]),
             LinearConstraint(np.pad(factors, ((0, 0), (0, 1 + picks))), ub=limits)]
    place = columns + 1
    for f, values in options.items():
        pick = np.zeros((2, columns + 1 + picks))
        pick[0, place:place + len(values)] = 1
        pick[1, place:place + len(values)], pick[1, f] = values, -1
        rules.append(LinearConstraint(pick, [1, 0], [1, 0]))
        place += len(values)
    whole = reach.integer & (least < most) & (least == np.ceil(least)) & (most == np.floor(most))
    solution = milp(np.eye(columns + 1 + picks)[columns], constraints=rules, options={"mip_rel_gap": 0},
                    bounds=Bounds(np.r_[least, 0, np.zeros(picks)], np.r_[most, np.inf, np.ones(picks)]),
                    integrality=np.r_[whole, False, np.ones(picks, bool)])
    if solution.x is None:
        return None, (np.inf if solution.status == 2 else 0.0)
    z = np.where(whole, np.round(solution.x[:columns]), solution.x[:columns])
    for f, values in options.items():
        z[f] = values[np.abs(values - z[f]).argmin()]
    return np.clip(z, least, most).astype(np.float32), float(solution.fun)


def _change(reach: Reach, more: int) -> np.ndarray:
    """Rows `|z - x| / scale <= d`, without `x`, over the columns, the distance `d` and `more` other variables."""
    unit = np.diag(1 / reach.scale)
    rows = np.hstack([np.vstack([unit, -unit]), -np.ones((2 * len(unit), 1))])
    return np.pad(rows, ((0, 0), (0, more)))
