"""Four hospitals train one model of heart disease without sharing a patient; then one of them turns hostile.

Threat: a hospital that is broken or bought sends what it likes, and plain averaging takes it. The border refuses what
is no sound reply; a robust rule bounds what a sound one can do, at a price for the hospital that differs most.

Run: python examples/hospital_federation.py [DATASET]
"""

import numpy as np
from common import console, load_data, percent, show

from federated.aggregation.aggregate import GeometricMedian, Mean, Median
from federated.attacks.collusion import Collusion
from federated.attacks.hostile import IPM, SignFlip
from federated.flower.client_app import packed
from federated.flower.grid import FIRST
from federated.flower.simulate import federate
from federated.partition.check import check_sites
from federated.partition.sites import BySubgroup, Dirichlet
from federated.task.task import Task
from suite.results.metrics import proportion
from tabular.models import MLP

ROUNDS, HOSTILE = 40, 0
data = load_data("heart-4sites", "pima-synthetic")
sites = (BySubgroup() if "site" in data.train.subgroups else Dirichlet(4, 0.5))(data)
for warning in check_sites(sites):
    console.print(f"warning  {warning}")
task, rows = Task(MLP(hidden=(16,)), data.train.x.shape[1:], data.classes, data.space), [s.train for s in sites]


def broken(_, came, replies):
    """The hostile hospital sends no number."""
    for reply in replies:
        if reply.metadata.src_node_id == HOSTILE + FIRST:
            reply.content["arrays"] = packed(np.full_like(came, np.nan))
    return replies


def right(weights, part):
    return proportion(task.classifier(weights).predict(part.x) == part.y)


together = federate(task, rows, Mean(), ROUNDS)
show("Right about a hospital's own test patients", ["hospital", "training rows", "alone", "federated", "n"],
     [[s.name, str(len(s.train)), percent(right(federate(task, [s.train], Mean(), ROUNDS), s.test)),
       percent(right(together, s.test)), str(len(s.test))] for s in sites])
sent = {"its own updates": None, "NaN": broken, "sign flip x 5": Collusion(SignFlip(5.0), frozenset({HOSTILE})),
        "inner product": Collusion(IPM(3.0), frozenset({HOSTILE}))}
rules, lines, lost = {"mean": Mean(), "median": Median(), "geometric median": GeometricMedian()}, [], {}
for what, tamper in sent.items():
    refused = []
    found = [right(federate(task, rows, rule, ROUNDS, tamper, lambda *told, to=refused: to.append(told)), data.test)
             for rule in rules.values()]
    lines.append([what, *map(percent, found), f"{len(refused)} of {3 * ROUNDS}"])
    lost[what] = [f"{100 * f.value:.0f}%" for f in found]
show(f"Right about all {len(data.test)} test patients", [f"{sites[HOSTILE].name} sends", *rules, "refused"], lines)
console.print(f"An update that turns the mean round leaves the mean {lost['inner product'][0]} right, the median "
              f"{lost['inner product'][1]}; honest updates give {lost['its own updates'][0]} and "
              f"{lost['its own updates'][1]}.")
