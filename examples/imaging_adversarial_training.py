"""Adversarial training on images: PGD training, TRADES and the cheap forms of it, bought and paid for.

Threat: evasion by an attacker who has the model with its gradients (white box), as in imaging_evasion.py. Each defense
trains on the worst images near each training image; its budget is fixed here, and a collapsed model would be flagged.

Run: python examples/imaging_adversarial_training.py [DATASET]
"""

import time

import numpy as np
import torch
from common import console, decimal, load_data, percent, show

from imaging.models.models import SimpleCNN
from suite.attacks.apgd import APGD
from suite.attacks.gradient import PGD
from suite.defenses.plain import Plain
from suite.defenses.robust.adversarial import AdversarialTraining, Trades
from suite.defenses.robust.fast import FastAdversarialTraining, FreeAdversarialTraining
from suite.results.metrics import balanced_accuracy, bootstrap, collapsed, paired, proportion

EPS = 4 / 255  # each pixel by at most 4 of 255 grey levels

data = load_data("pneumoniamnist", "chest-phantom")
train, val, test = data.train.take(slice(0, 1200)), data.val.take(slice(0, 300)), data.test.take(slice(0, 300))
x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)
recipe = SimpleCNN(epochs=8)
defenses = {"none": Plain(), "PGD training": AdversarialTraining(eps=EPS, steps=4), "TRADES": Trades(eps=EPS, steps=4),
            "fast (1 step)": FastAdversarialTraining(eps=EPS), "free": FreeAdversarialTraining(eps=EPS)}

rows, right, kept = [], {}, {}
for name, defense in defenses.items():
    began = time.process_time()
    model = defense(recipe, train, val, seed=0)
    spent, pred = time.process_time() - began, model.predict(test.x)
    right[name] = pred == test.y
    kept[name] = np.all([(model.judge(attack(model, x, y, seed=0)) == y).numpy()
                         for attack in (PGD(eps=EPS), APGD(eps=EPS, steps=50, loss="margin"))], axis=0)
    balanced = bootstrap(lambda i, p=pred: balanced_accuracy(p[i], test.y[i]), len(test), strata=test.y)
    rows.append([name + (" COLLAPSED" if collapsed(pred, test.y) else ""), f"{spent:.0f} s", decimal(balanced),
                 percent(proportion(right[name])), percent(proportion(kept[name]))])
show(f"A small CNN on {len(test)} test images, under attack within 4 of 255 grey levels",
     ["Defense", "Training", "Balanced", "Accuracy", "Under attack"], rows)
for name in list(defenses)[1:]:
    gain, cost = paired(kept[name], kept["none"]), paired(right[name], right["none"])
    console.print(f"{name}: accuracy under attack {percent(gain)}, without {percent(cost)}.")
