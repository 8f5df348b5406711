"""Gradient inversion on a table: the server of a federation rebuilds patients from what their hospital sent.

Threat: rows never leave the hospital, updates do. A server that keeps to the protocol and is curious knows the model it
sent out and the update that came back, and looks for rows whose training gives this update. A record counts when every
column is right to 1 % of its scale; other patients, drawn at random, are the yardstick. What the first layer does not
give away is searched for only briefly here: that nothing is found says little, and longer searches find more.

Run: python examples/gradient_inversion.py [DATASET]
"""

from dataclasses import replace

import numpy as np
from common import console, load_data, percent, show

from federated.attacks.gradient_inversion import TabLeak
from federated.evaluate.rebuilt import baselines, matched
from federated.task.local import seen
from federated.task.task import Task, draws
from suite.results.metrics import proportion
from tabular.models import MLP

PATIENTS = 16
data = load_data()
step = Task(MLP(), data.train.x.shape[1:], data.classes, data.space, batch=64)
attack, order = TabLeak(restarts=4, iterations=150), np.random.default_rng(0).permutation(len(data.train))


def clipped(update):
    """To half its length."""
    return update / 2


def noised(update):
    """The same, with noise of a tenth of that length in each number."""
    half = clipped(update)
    noise = np.random.default_rng(1).standard_normal(len(half))
    return (half + 0.1 * np.linalg.norm(half) * noise).astype(np.float32)


def rebuilt(task, rows, sent=lambda update: update):
    """Which cells are right, of hospitals that send an update of so many rows each."""
    right = []
    for k in range(max(PATIENTS // rows, 1)):
        own = data.train.take(order[k * rows:(k + 1) * rows])
        came = task.initial()
        update = sent(seen(task, came, own, k, 1))
        found = attack(task, came, update, rows, own.y, seed=k, drawn=draws(task, k, 1), public=data.val.x)
        right.append(matched(found, own.x, data.space).right)
    return np.concatenate(right)


ways = {"one step": (step,), "clipped": (step, clipped), "noised": (step, noised),
        "3 epochs": (replace(step, epochs=3),)}
records, cells = {}, {}
for rows in (1, 4, 16, 64):
    found = {way: rebuilt(task, rows, *sent) for way, (task, *sent) in ways.items()}
    truth = data.train.x[order[:max(rows, PATIENTS)]]
    found["guess"] = matched(baselines(data.val, len(truth))["others"], truth, data.space).right
    records[rows] = {way: percent(proportion(right.all(1))) for way, right in found.items()}
    cells[rows] = {way: f"{right.mean():.0%}" for way, right in found.items()}
headings = ["patients", *ways, "guess"]
show("Records rebuilt, every column right", headings[:-1],
     [[str(n), *(line[way] for way in ways)] for n, line in records.items()])
show("Cells right", headings, [[str(n), *line.values()] for n, line in cells.items()])
few, many = ({way: told.split()[0] for way, told in records[n].items()} for n in (4, 64))
console.print(f"Of hospitals that send one step of 4 patients {few['one step']} of the records are rebuilt, of 64 "
              f"patients {many['one step']}; of those of 4 clipping alone leaves {few['clipped']}, with noise "
              f"{few['noised']}.")
