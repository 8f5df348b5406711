"""Adversarial training: a defense against evasion, and what it costs.

Threat: evasion by an attacker who has the model with its gradients (white box), as in tabular_evasion.py. The defense
trains on the worst possible patients near each training patient; its budget is chosen on validation data, as too large
a one yields a model that says the same of everyone. Such a model looks robust, so balanced accuracy stands beside.

Run: python examples/adversarial_training.py [DATASET]
"""

import numpy as np
import torch
from common import console, decimal, load_data, percent, show

from suite.attacks.apgd import APGD
from suite.attacks.gradient import PGD
from suite.defenses.plain import Plain
from suite.defenses.robust.adversarial import AdversarialTraining, Trades
from suite.results.metrics import balanced_accuracy, bootstrap, collapsed, paired, proportion
from tabular.models import MLP

EPS = 0.05  # of each column's plausible range

data = load_data()
test = data.test
x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)


def survives(model, eps: float) -> np.ndarray:
    """(n,) bool: whether the model is right about each patient, whatever the attacks try."""
    return np.all([model.predict(attack(model, x, y, seed=0).numpy()) == test.y
                   for attack in (PGD(eps=eps, restarts=3), APGD(eps=eps))], axis=0)


rows, right, kept = [], {}, {}
for name, defense in (("none", Plain()), ("PGD training", AdversarialTraining()), ("TRADES", Trades())):
    model = defense(MLP(), data.train, data.val, seed=0)
    pred = model.predict(test.x)
    right[name], kept[name] = pred == test.y, survives(model, EPS)
    balanced = bootstrap(lambda i, p=pred: balanced_accuracy(p[i], test.y[i]), len(test), strata=test.y)
    rows.append([name + (" COLLAPSED" if collapsed(pred, test.y) else ""), f"{model.notes.get('eps', 0):.1%}",
                 decimal(balanced), percent(proportion(right[name])), percent(proportion(kept[name]))])
show(f"An MLP on {len(test)} test patients, under attack within {EPS:.0%} of each range",
     ["Defense", "Trained at", "Balanced", "Accuracy", "Under attack"], rows)


def sure(change) -> str:
    """What the interval of a change allows to say."""
    kind = "surely a gain" if change.low > 0 else "surely a loss" if change.high < 0 else "nothing sure"
    return f"{percent(change)}, {kind}"


for name in ("PGD training", "TRADES"):
    gain, cost = paired(kept[name], kept["none"]), paired(right[name], right["none"])
    console.print(f"{name} changes accuracy under attack by {sure(gain)}; without an attack by {sure(cost)}.")
