"""Possible patients: the exact robustness of tree models, which have no gradient to follow.

Threat: evasion of an XGBoost by an attacker who has its trees (white box). For every patient the exact attack finds the
smallest change that turns the answer around, or proves that there is none, among possible patients only: whole numbers,
plausible ranges, and age, pregnancies and pedigree as they are. HopSkipJump, which only asks the model, is what one
would otherwise trust; what it misses it reports as robustness.

Run: python examples/possible_patients_on_trees.py [DATASET]
"""

import numpy as np
import torch
from common import console, load_data, percent, show

from suite.attacks.query.hopskipjump import HopSkipJump
from suite.results.metrics import paired, proportion
from tabular.defenses import RobustTrees
from tabular.exact import ExactFewest, ExactLinf
from tabular.models import XGBoost

BUDGETS, EPS = (0.01, 0.02, 0.05, 0.1), 0.05  # of each column's plausible range

data = load_data()
test = data.test
x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)
plain = XGBoost().fit(data.train, data.val, seed=0)
hardened = RobustTrees(eps=EPS)(XGBoost(), data.train, data.val, seed=0)

walked = HopSkipJump(eps=max(BUDGETS))(plain, x, y, seed=0)
walk = np.where((walked == x).all(1), np.inf, plain.space.distance(walked, x))
exact, exact_hard = (ExactLinf(eps=max(BUDGETS)).search(model, x, y, seed=0) for model in (plain, hardened))
right, right_hard = (model.predict(test.x) == test.y for model in (plain, hardened))

rows = [["none", *(percent(proportion(r)) for r in (right, right, right_hard)), "0"]]
for eps in BUDGETS:
    near = eps + 1e-5  # distances are float32
    kept = right & (walk > near), right & (exact.upper > near), right_hard & (exact_hard.upper > near)
    undecided = (kept[1] & (exact.lower < eps - 1e-5)).sum() + (kept[2] & (exact_hard.lower < eps - 1e-5)).sum()
    rows.append([f"{eps:.0%} of range", *(percent(proportion(k)) for k in kept), str(undecided)])
    if eps == EPS:
        overstated, gain = paired(kept[0], kept[1]), paired(kept[2], kept[1])
show(f"Accuracy of XGBoost on {len(test)} test patients under attack",
     ["Change allowed", "HopSkipJump", "Exact", "Exact, hardened", "Undecided"], rows)
console.print(f"At {EPS:.0%} HopSkipJump overstates robustness by {percent(overstated)}. Training on exact "
              f"adversarial patients changes exact robustness by {percent(gain)} and accuracy by "
              f"{percent(paired(right_hard, right))}.")

fewest = ExactFewest(eps=max(BUDGETS), nodes_per_row=100_000).search(plain, x, y, seed=0).x_adv.numpy()
delta = (fewest - test.x)[right & (plain.predict(fewest) != test.y)]
unit = {name: column.unit for name, column in data.space.schema.columns.items()}
rows = [[name, percent(proportion(d != 0)), f"{np.median(np.abs(d[d != 0])):.3g} {unit[name]}"]
        for name, d in zip(data.features, delta.T, strict=True) if (d != 0).any()]
show(f"{len(delta)} patients fooled within {max(BUDGETS):.0%}",
     ["Column", "Changed in", "Median change"], rows)
console.print("These are the fewest columns found to suffice; a single one does for "
              f"{percent(proportion((delta != 0).sum(1) == 1))} of these patients.")
