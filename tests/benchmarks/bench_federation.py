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
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from federated.aggregation.aggregate import Mean
from federated.flower.client_app import hospital
from federated.flower.grid import Border
from federated.flower.server_app import Joined, rounds
from federated.flower.simulate import federate
from federated.task.task import Task
from imaging.models.models import SimpleCNN
from suite.core.data import Split
from suite.core.space import Space
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


def ours(task: Task, hospitals: Sequence[Split], number: int, seen: Told) -> np.ndarray:
    return federate(task, hospitals, Mean(), number, seen=seen)


def on_ray(task: Task, hospitals: Sequence[Split], number: int, seen: Told) -> np.ndarray:
    """The same apps on Flower's simulation: a process for each core, which Ray starts."""
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    def own(context: Context) -> tuple[Task, Split, int]:
        which = int(context.node_config["partition-id"])
        return task, hospitals[which], which

    server, found = ServerApp(), []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        found.append(rounds(Border(grid, task.size), Joined(Mean(), len(hospitals)), task.initial(), number, seen))

    run_simulation(server, hospital(own), len(hospitals), backend_config={
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": os.cpu_count(), "logging_level": "error", "log_to_driver": False,
                      "object_store_memory": 100 * 2**20}})
    return found[0]


def timed(run: Callable[..., np.ndarray], *about: object) -> tuple[np.ndarray, np.ndarray]:
    """What comes out, and (rounds, 2) seconds of each: process time, and by the wall clock."""
    marks: list[tuple[float, float]] = []
    weights = run(*about, lambda *_: marks.append((time.process_time(), time.perf_counter())))
    return weights, np.diff(marks, axis=0)


def compare(model: str, sites: int, args: argparse.Namespace, ray: bool) -> None:
    task, inputs = task_of(model)
    hospitals, turns = deal(task, inputs, ROWS, sites), []
    for _ in range(args.repeats + 1):
        (wanted, a), (found, b) = (timed(run, task, hospitals, args.rounds) for run in (plain, ours))
        check(found, wanted)
        turns.append((a, b))
    own = statistics.median(np.median(b[:, 0]) / np.median(a[:, 0]) for a, b in turns[1:])  # the first one warms up
    (base, wall), (ms, _) = (1e3 * np.median(np.concatenate(side), 0) for side in zip(*turns[1:], strict=True))
    line = f"{model:<12}{sites:>6}{base:>9.1f} ms{ms:>9.1f} ms{own:>7.2f} x   bar {BARS[model]:g} x: "
    line += "met   " if own <= BARS[model] else "MISSED"
    if ray:
        found, each = timed(on_ray, task, hospitals, args.rounds + 1)
        check(found, plain(task, hospitals, args.rounds + 1, lambda *_: None))
        theirs = 1e3 * float(np.median(each[1:, 1]))
        line += f"   Ray {theirs:.0f} ms, {theirs / wall:.1f} x; its first round {each[0, 1]:.0f} s"
    print(line, flush=True)


def check(found: np.ndarray, wanted: np.ndarray) -> None:
    """The same model but for rounding, or an error."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def growth(model: str, sites: Sequence[int], args: argparse.Namespace) -> str:
    """Process time of a hospital's part of a round, whatever their number."""
    task, inputs = task_of(model)
    parts = []
    for n in sites:
        hospitals = deal(task, inputs, EVEN * n, n)
        each = np.concatenate([timed(ours, task, hospitals, args.rounds)[1] for _ in range(3)])
        parts.append(f"{1e3 * np.median(each[:, 0]) / n:.2f} ms at {n}")
    return f"{model:<12} " + ", ".join(parts)


def peak(model: str, sites: int) -> tuple[float, float]:
    """MiB that this process has held at most, before the first hospital and after two rounds of all."""
    task, inputs = task_of(model)
    before = _held()
    federate(task, deal(task, inputs, EVEN * sites, sites), Mean(), 2)
    return before, _held()


def _held() -> float:
    """MiB; `ru_maxrss` would be at least that of the process which has started this one."""
    line, = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag, default in (("--threads", 1), ("--repeats", 7), ("--rounds", 5)):
        ask.add_argument(flag, type=int, default=default)
    ask.add_argument("--sites", type=int, nargs="+", default=[5, 20, 100])
    ask.add_argument("--no-ray", action="store_true")
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    ray = not args.no_ray and importlib.util.find_spec("ray") is not None
    if not ray and not args.no_ray:
        print("Ray is not installed (the extra 'simulation'), so Flower's own simulation is left out.")
    print(f"torch {torch.__version__}, Flower {version('flwr')}, Ray {version('ray') if ray else 'not run'}; "
          f"{args.threads} thread(s), process time of a round, medians of {args.repeats} x {args.rounds}; {ROWS} rows")
    print(f"{'':<12}{'sites':>6}{'plain':>12}{'ours':>12}")
    for model in BARS:
        for sites in args.sites:
            compare(model, sites, args, ray)
    print(f"\nA hospital's part of a round, {EVEN} rows each:")
    for model in BARS:
        print(growth(model, [*args.sites, 4 * max(args.sites)], args), flush=True)
    print(f"\nPeak memory of a fresh process with {max(args.sites)} hospitals, bar {MEMORY_BAR} MiB:")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for model in BARS:
            before, held = pool.apply(peak, (model, max(args.sites)))
            print(f"{model:<12} {held:.0f} MiB: {'met' if held <= MEMORY_BAR else 'MISSED'}; {before:.0f} of them are "
                  "the libraries")


if __name__ == "__main__":
    main()
