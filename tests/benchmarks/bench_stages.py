"""The first stage of the imaging audit against the passes that it cannot avoid.

    python tests/benchmarks/bench_stages.py [--run FOLDER] [--jobs 2]

Runs `medsec audit imaging` (or reads a run of it that is there, of this machine), then times one forward pass, one
forward and input-gradient pass, and one training step of its model. The floor is the number of passes that the run's
rows report, in these times; what is above it is data loading, statistics, the report and whatever is wasted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from suite.audit.plan import Plan
from suite.audit.request import open_data
from suite.audit.runner import Audit
from suite.base import registry
from suite.models import artifacts
from suite.results.run import Run

REPEATS = 5
BATCH = 385


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--run", type=Path)
    args.add_argument("--jobs", type=int, default=2)
    args = args.parse_args()
    wall = None
    if args.run is None:
        args.run, began = Path(tempfile.mkdtemp()) / "run", time.perf_counter()
        subprocess.run([sys.executable, "-m", "suite.cli", "audit", "imaging", "--jobs", str(args.jobs), "--out",
                        str(args.run)], check=True)
        wall = time.perf_counter() - began
    torch.set_num_threads(1)
    run = Run.open(args.run)
    rows, plan = run.rows(), Plan.model_validate(run.manifest["plan"])
    data, _ = open_data(plan)
    audit = Audit(plan, data, "")
    spent = sum(r.value for r in rows if r.metric == "cell_seconds")
    floors: dict[str, float] = {}
    for model in plan.models:
        recipe = registry.make("models", model.source, model.params)
        target = artifacts.load(run.model(f"{model.slug}--none--fit"), model.source, len(data.classes), data.space,
                                "cpu", audit.defenses["none"])
        x = torch.from_numpy(data.test.x[:BATCH])
        forward = seconds(target.scores, x) / len(x)
        both = seconds(target.gradient, x, lambda z: z[:, 0]) / len(x)
        some = data.train.take(slice(0, 512)), data.val.take(slice(0, 32))
        training = seconds(recipe.fit, *some, 0, "cpu", repeats=1) / (len(some[0]) * recipe.epochs)
        print(f"{model.name}: forward {1e6 * forward:.0f} us a row, with input gradient {1e6 * both:.0f}, "
              f"training {1e6 * training:.0f}")
        seen = set()
        for r in rows:
            if r.model == model.name and r.metric == "gradients" and r.cell not in seen:
                seen.add(r.cell)
                floors[r.cell] = r.n * (r.value * both + max(r.queries - r.value, 0) * forward)
            elif r.model == model.name and r.cell.endswith("--fit") and r.metric == "accuracy" and not r.subgroup:
                steps = r.defense_params.get("steps", 0)
                once = recipe.epochs * len(data.train) * (training + steps * both)
                floors[r.cell] = once + r.n * forward
            elif r.metric == "membership_auroc" and not r.subgroup and "shadows" in r.attack_params:
                floors[r.cell] = r.attack_params["shadows"] * recipe.epochs * len(data.train) * training
    took = {r.cell: r.value for r in rows if r.metric == "cell_seconds"}
    for cell, floor in floors.items():
        print(f"{cell:48s} {took[cell]:7.1f} s   {took[cell] / floor:6.2f} x its passes" if floor else cell)
    floor = sum(floors.values())
    print(json.dumps({"cells": len(took), "wall_s": wall and round(wall), "sum_of_cells_s": round(spent),
                      "passes_s": round(floor), "sum_over_passes": round(spent / floor, 2),
                      "wall_over_passes_of_each_job": wall and round(wall / (floor / args.jobs), 2)}))


def seconds(work, *inputs, repeats=REPEATS):
    """Median seconds of a call."""
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        work(*inputs)
        took.append(time.perf_counter() - began)
    return sorted(took)[repeats // 2]


if __name__ == "__main__":
    main()
