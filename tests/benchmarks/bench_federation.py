"""What a federation on Flower's messages costs over plain FedAvg: the same model, hospitals and order of rows.

    python tests/benchmarks/bench_federation.py [--threads 1] [--repeats 7] [--rounds 5] [--sites 5 20 100] [--no-ray]

Plain FedAvg is the loop that anybody would write in PyTorch: load the state, train by SGD, average the states. Its
model must be ours but for rounding, or the benchmark ends in an error. 768 rows are dealt evenly, so that at 100
hospitals each has one batch of 7 or 8 and a round has the least work to hide the messages behind. Both take turns in
one process: process time of a round, medians over all rounds, and of the ratio of the same turn. Flower's simulation on
Ray (the extra `simulation`) works in other processes, so it is held by the wall clock against the plain loop's.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from federated.aggregate import Mean
from federated.client_app import hospital
from federated.grid import FIRST, Border
from federated.server_app import Joined, rounds
from federated.simulate import federate
from federated.task import Task
from imaging.models import SimpleCNN
from suite.data import Split
from suite.space import Space
from tabular.models import MLP

ROWS = 768
EVEN = 16
"""Rows of each hospital where growth is measured."""
BARS = {"MLP 8-32-2": 1.5, "simple-cnn": 1.2}
"""Times a plain round that ours may take."""
MEMORY_BAR = 2048
"""MiB that a hundred hospitals may take."""
Told = Callable[[int, np.ndarray], None]


def task_of(model: str) -> tuple[Task, tuple[int, ...]]:
    """What is trained, and the shape of an input."""
    if model == "simple-cnn":
        recipe, inputs = SimpleCNN(balanced=False, weight_decay=0.0), (1, 28, 28)
    else:
        recipe, inputs = MLP(hidden=(32,), balanced=False, weight_decay=0.0), (8,)
    return Task(recipe, inputs, ("well", "ill"), Space(0.0, 1.0)), inputs


def deal(task: Task, inputs: tuple[int, ...], rows: int, sites: int) -> list[Split]:
    """Drawn inputs, of which the mean of the first few decides the label, dealt evenly."""
    x = np.random.default_rng(0).random((rows, *inputs), np.float32)
    y = (x.reshape(rows, -1)[:, :3].mean(1) > 0.5).astype(np.int64)
    whole = Split(x, y, task.space, task.classes, np.arange(rows))
    return [whole.take(part) for part in np.array_split(np.arange(rows), sites)]


def plain(task: Task, hospitals: Sequence[Split], number: int, seen: Told) -> np.ndarray:
    """FedAvg without messages, checks or a log. Seeds are ours, so that rows come in the same order."""
    module = task.network()[0].train()
    data = [(torch.from_numpy(rows.x), torch.from_numpy(rows.y)) for rows in hospitals]
    seeds = [[int(np.random.SeedSequence([task.seed, k, turn]).generate_state(1)[0]) for k in range(len(data))]
             for turn in range(1, number + 1)]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    seen(0, task.initial())
    for turn in range(number):
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for (x, y), seed in zip(data, seeds[turn], strict=True):
            module.load_state_dict(state)
            optimizer, generator = torch.optim.SGD(module.parameters(), task.lr, 0.9), torch.Generator()
            generator.manual_seed(seed)
            for _ in range(task.epochs):
                for index in torch.randperm(len(y), generator=generator).split(task.batch):
                    optimizer.zero_grad()
                    F.cross_entropy(module(task.recipe.augment(x[index], generator)), y[index]).backward()
                    optimizer.step()
            for name, value in module.state_dict().items():
                total[name] += value * (len(y) / ROWS)
        state = total
        module.load_state_dict(state)
        with torch.no_grad():
            seen(turn + 1, torch.nn.utils.parameters_to_vector(module.parameters()).numpy())
    with torch.no_grad():
        return torch.nn.utils.parameters_to_vector(module.parameters()).numpy()
