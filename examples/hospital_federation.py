"""Four hospitals train one model of heart disease without sharing a patient; then one of them turns hostile.

Threat: a hospital that is broken or bought sends what it likes, and plain averaging takes it. A border refuses what is
no sound reply; a robust rule bounds what a sound one can do, and costs the hospital that differs most.

Run: python examples/hospital_federation.py [DATASET]
"""

from dataclasses import replace

import numpy as np
import torch
from common import console, load_data, percent, show

from federated.aggregate import GeometricMedian, Mean, Median
from federated.check import check_sites
from federated.client_app import WEIGHTS, hospital, packed
from federated.grid import FIRST, Border, InProcessGrid
from federated.hostile import SignFlip
from federated.server_app import Joined, rounds
from federated.sites import BySubgroup, Dirichlet
from federated.task import Task
from suite.metrics import balanced_accuracy, proportion
from tabular.models import MLP

ROUNDS, HOSTILE = 40, 0
data = load_data("heart-4sites", "pima-synthetic")
partition = BySubgroup() if "site" in data.train.subgroups else Dirichlet(4, 0.5)
sites = partition(data)
for warning in check_sites(sites):
    console.print(f"warning: {warning}")
task = Task(MLP(hidden=(16,)), data.train.x.shape[1:], data.classes, data.space)


def federate(rule, spoil=None, who=range(len(sites))):
    """The federation's model, and what its border refused; `spoil` turns what the hostile hospital sends."""
    rows = [sites[k].train for k in who]
    refused = []

    def tamper(replies):
        for reply in replies:
            if spoil and reply.metadata.src_node_id == HOSTILE + FIRST:
                reply.content["arrays"] = packed(spoil(reply.content["arrays"][WEIGHTS].numpy()))
        return replies

    app = hospital(lambda context: (task, rows[context.node_config["partition-id"]],
                                    context.node_config["partition-id"]))
    grid = Border(InProcessGrid(app, len(rows)), task.size, tamper=tamper, event=lambda *e: refused.append(e))
    return task.classifier(rounds(grid, Joined(rule, len(rows)), task.initial(), ROUNDS)), refused


def right(model, site):
    return proportion(model.predict(site.test.x) == site.test.y)


together = replace(data.test)
lone = [federate(Mean(), who=[k])[0] for k in range(len(sites))]
honest, _ = federate(Mean())
show("Right on each hospital's own test patients", ["hospital", "training rows", "alone", "federated", "n"],
     [[site.name, str(len(site.train)), percent(right(lone[k], site)), percent(right(honest, site)),
       str(len(site.test))] for k, site in enumerate(sites)])

last = {"sent": task.initial()}
attacks = {"nobody": None, "NaN": lambda w: np.full_like(w, np.nan),
           "sign flip": lambda w: (2 * last["came"] - w).astype(np.float32) if "came" in last else -w}
