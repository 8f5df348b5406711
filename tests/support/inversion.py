"""Small hospitals, and what a curious server rebuilds of them."""


import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from federated.evaluate.rebuilt import matched
from federated.task.local import seen
from federated.task.task import Task, draws
from imaging.datasets.phantom import draw
from imaging.models.models import SimpleCNN
from imaging.space import ImageSpace
from suite.core.data import Split
from suite.core.space import Space
from tabular.models import MLP
from tabular.schema import Column, Schema

PLAIN = {"balanced": False, "weight_decay": 0.0}


def normal(n, seed=0, columns=8):
    """Rows of a table of independent normal columns, as the benchmark of federations has it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, columns)).clip(-4, 4).astype(np.float32)
    return Split(x, (x[:, 0] > 0).astype(np.int64), Space(torch.full((columns,), -4.0), torch.full((columns,), 4.0)),
                 ("well", "ill"), np.arange(n))


def clinic(n, seed=0):
    """Rows of whole numbers, codes and one continuous column."""
    rng = np.random.default_rng(seed)
    schema = Schema(columns={
        "age": Column(min=18, max=98, integer=True, change="never"), "pain": Column(min=1, max=7, values=(1, 3, 4, 7)),
        "sex": Column(min=0, max=1, values=(0, 1)), "pressure": Column(min=80, max=200, integer=True),
        "depression": Column(min=0, max=6)})
    x = np.stack([rng.integers(18, 99, n), rng.choice([1, 3, 4, 7], n), rng.integers(0, 2, n),
                  rng.integers(80, 201, n), 6 * rng.random(n)], 1).astype(np.float32)
    return Split(x, np.arange(n) % 2, schema.space(), ("well", "ill"), np.arange(n))


def pictures(n, size=12):
    """Phantom chests; those of one patient would be too much alike."""
    x, y, _ = draw(size, patients=n, each=1)
    return Split(x.numpy(), y.numpy(), ImageSpace(), ("clear", "opacity"), np.arange(n))


def task_of(rows, recipe, **named):
    return Task(recipe, rows.x.shape[1:], rows.classes, rows.space, **({"batch": 64, "epochs": 1} | named))


def mlp(rows, hidden=(32,), **named):
    return task_of(rows, MLP(hidden=hidden, **PLAIN), **named)


def cnn(rows, **named):
    return task_of(rows, SimpleCNN(widths=(32, 64), modality="none", **PLAIN), **named)


def attacked(attack, task, rows, update=None, **named):
    """What an attack makes of the update of one local training, of a server that knows the labels and the draws."""
    came = task.initial()
    update = seen(task, came, rows, 0, 1) if update is None else update
    found = attack(task, came, update, len(rows), **({"labels": rows.y, "drawn": draws(task, 0, 1)} | named))
    return found, matched(found, rows.x, rows.space)
