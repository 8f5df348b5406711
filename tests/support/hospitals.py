"""Four hospitals in this process, a task for them, and FedAvg as anybody would write it."""

from itertools import pairwise

import torch

from federated.flower.client_app import hospital
from federated.flower.grid import FIRST, Border, InProcessGrid
from federated.task.task import Task
from tabular.models import MLP

SITES = 4


def mean(changes, counts, _=None):
    return (changes * (counts / counts.sum())[:, None]).sum(0)


def four(train):
    """Hospitals of 20, 40, 60 and the other rows."""
    return [train.take(slice(a, b)) for a, b in pairwise([0, 20, 60, 120, len(train)])]


def task_of(train):
    return Task(MLP(hidden=(8,), balanced=False, weight_decay=0.0), train.x.shape[1:], train.classes, train.space)


def grid(task, sites, spoil=None, events=None, **named):
    """A border around hospitals in this process; `spoil(message, reply)` stands between."""
    app = hospital(lambda context: (task, sites[context.node_config["partition-id"]],
                                    context.node_config["partition-id"]))
    if spoil:
        sound = app
        app = lambda message, context: spoil(message, sound(message, context))  # noqa: E731
    absent = named.pop("absent", lambda *_: False)
    counts = {n + FIRST: len(rows) for n, rows in enumerate(sites)}
    told = (lambda what, facts: events.append((what, facts))) if events is not None else (lambda *_: None)
    return Border(InProcessGrid(app, len(sites), absent), task.size, counts, event=told, **named)


def plain(task, sites, number, who=None):
    """FedAvg as anybody would write it."""
    weights = task.initial()
    for turn in range(1, number + 1):
        part = [(n, rows) for n, rows in enumerate(sites) if who is None or n in who]
        counts = torch.tensor([float(len(rows)) for _, rows in part])
        came = torch.from_numpy(weights)
        changes = torch.stack([torch.from_numpy(task.train(weights, rows, n, turn)) - came for n, rows in part])
        weights = (came + mean(changes, counts)).numpy()
    return weights
