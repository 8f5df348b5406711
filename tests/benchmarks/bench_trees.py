"""Exact tree attacks against Veritas and HopSkipJump on Pima: same models, same rows, one thread, one process.

    pip install -r tests/benchmarks/requirements.txt
    MEDSEC_DATA=... python tests/benchmarks/bench_trees.py [--rows 154] [--repeats 5] [--seconds 5]

Models are trained on 614 rows in clinical units; zeros in Glucose to BMI stand for missing and become the training
median. Rows: the correctly classified ones of the other 154. All distances are Linf in units of the observed range of
each column.

free      ours, any float32 value of any column
schema    ours, possible patients of the shipped schema (immutable and whole-number columns, ranges), same units
veritas   dtai-veritas 0.3.1, VeritasRobustnessSearch, 20 steps, any float64 value. It gets the same trees with their
          thresholds divided by the range of the column, as it knows one unit only
hsj       ART's HopSkipJump, 10 iterations, on the first rows only

Rows are interleaved: each is solved by all in turn. A row's time is its median over the repeats (one repeat where a
row takes longer than 0.1 s). "agree" counts the rows whose exact distance lies in Veritas' interval, and "patient"
those of the rest where it does once Veritas has 60 s: a step that runs out of its share of time counts as a flip there.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

from suite.core.space import Space
from tabular.data import shipped_schema
from tabular.trees.ensemble import Ensemble
from tabular.trees.exact import solve
from tabular.trees.reach import Reach

EPS = 0.1
MODELS = {
    "XGBoost 100x4": XGBClassifier(n_estimators=100, max_depth=4, learning_rate=0.1, n_jobs=1, random_state=0),
    "XGBoost 100x6": XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, n_jobs=1, random_state=0),
    "RandomForest 100x6": RandomForestClassifier(100, max_depth=6, random_state=0, n_jobs=1),
}


def pima() -> tuple[np.ndarray, ...]:
    """Training and test rows, their labels."""
    folder = os.environ.get("MEDSEC_DATA")
    if not folder:
        sys.exit("bench_trees: set MEDSEC_DATA to the folder of real data; there is no other table to run on")
    table = np.genfromtxt(Path(folder) / "tabular/pima_diabetes.csv", delimiter=",", skip_header=1)
    x, y = table[:, :8].astype(np.float32), table[:, 8].astype(int)
    x, z, y, v = train_test_split(x, y, test_size=154, stratify=y, random_state=0)
    for column in range(1, 6):
        median = np.median(x[x[:, column] > 0, column])
        for rows in (x, z):
            rows[rows[:, column] == 0, column] = median
    return x, z, y, v


def spaces(width: np.ndarray) -> dict[str, Space]:
    schema = shipped_schema("pima")
    columns = {name: column.model_copy(update={"scale": float(w)})
               for (name, column), w in zip(schema.columns.items(), width, strict=True)}
    return {"free": Space(torch.full((8,), -1e6), torch.full((8,), 1e6), torch.from_numpy(width)),
            "schema": schema.model_copy(update={"columns": columns}).space()}


def veritas_search(model: Any, width: np.ndarray) -> Callable[[np.ndarray, int, float], tuple[float, float]]:
    """`(row, label, seconds) -> (lower, upper)` by Veritas."""
    import veritas

    trees = veritas.get_addtree(model, silent=True)
    scaled = veritas.AddTree(1, veritas.AddTreeType.REGR)
    scaled.set_base_score(0, trees.get_base_score(0))
    for i in range(len(trees)):
        source, target = trees[i], scaled.add_tree()
        stack = [(source.root(), target.root())]
        while stack:
            a, b = stack.pop()
            if source.is_leaf(a):
                target.set_leaf_value(b, 0, source.get_leaf_value(a, 0))
                continue
            split = source.get_split(a)
            target.split(b, split.feat_id, split.split_value / float(width[split.feat_id]))
            stack += [(source.left(a), target.left(b)), (source.right(a), target.right(b))]

    def search(row: np.ndarray, label: int, seconds: float) -> tuple[float, float]:
        pair = (None, scaled) if label == 0 else (scaled, None)
        found = veritas.VeritasRobustnessSearch(row.astype(float) / width.astype(float), 1.0, *pair, num_steps=20,
                                                max_time=seconds, silent=True)
        return found.search()[1:]

    return search


def hopskipjump(model: Any, width: np.ndarray, row: np.ndarray) -> float:
    """Distance that ART's HopSkipJump finds."""
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import BlackBoxClassifier

    low = np.full(8, -0.5, np.float32)
    wrapped = BlackBoxClassifier(lambda z: np.eye(2)[model.predict(np.float32(z * width))], (8,), 2,
                                 clip_values=(float(low[0]), float((row / width).max() + 1)))
    attack = HopSkipJump(wrapped, norm=np.inf, max_iter=10, max_eval=500, init_eval=20, verbose=False)
    start = (row / width).astype(np.float32)[None]
    z = attack.generate(start)
    flipped = model.predict(np.float32(z * width))[0] != model.predict(row[None])[0]
    return float(np.abs(z - start).max()) if flipped else np.inf


def inside(distance: float, interval: tuple[float, float]) -> bool:
    return interval[0] - 1e-5 <= distance <= interval[1] + 1e-5


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    seconds = []
    while True:
        start = time.perf_counter()
        out = run()
        seconds.append(time.perf_counter() - start)
        if len(seconds) >= repeats or seconds[0] > 0.1:
            return out, statistics.median(seconds)


def line(who: str, seconds: list[float], upper: np.ndarray, lower: np.ndarray, note: str = "") -> None:
    exact = "     " if np.isnan(lower).any() else f"{(upper - lower <= 1e-5).mean():5.0%}"
    print(f"  {who:8} {len(seconds):4} {statistics.median(seconds) * 1e3:9.2f} {np.mean(seconds) * 1e3:9.2f} "
          f"{max(seconds) * 1e3:9.2f}   {(upper <= EPS * (1 + 1e-6)).mean():5.0%}   {exact}   {note}", flush=True)


def compare(name: str, model: Any, x: np.ndarray, y: np.ndarray, width: np.ndarray, args: argparse.Namespace) -> None:
    labels = model.predict(x)
    rows = np.flatnonzero(labels == y)
    ensemble, read = timed(lambda: Ensemble.of(model), args.repeats)
    reach = {who: Reach(ensemble, space) for who, space in spaces(width).items()}
    try:
        veritas = veritas_search(model, width)
    except ImportError:
        veritas = None
    for space in reach.values():
        solve(ensemble, model.predict, space, x[rows[0]])  # compile before the clock runs
    times: dict[str, list[float]] = {who: [] for who in (*reach, "veritas", "hsj")}
    bounds: dict[str, list[tuple[float, float]]] = {who: [] for who in times}
    agree = patient = 0
    for count, i in enumerate(rows):
        row, label = x[i], int(labels[i])

        for who, space in reach.items():
            found, seconds = timed(lambda space=space, row=row, label=label: solve(
                ensemble, model.predict, space, row, nodes=1 << 62, seconds=args.seconds, label=label), args.repeats)
            times[who].append(seconds)
            bounds[who].append((found.lower, found.upper))
        if veritas:
            interval, seconds = timed(lambda row=row, label=label: veritas(row, label, args.seconds), args.repeats)
            times["veritas"].append(seconds)
            bounds["veritas"].append(interval)
            exact = bounds["free"][-1][1]
            agreed = inside(exact, interval)
            agree += agreed
            patient += not agreed and inside(exact, veritas(row, label, 60.0))
        if count < args.hsj:
            found, seconds = timed(lambda row=row: hopskipjump(model, width, row), 1)
            times["hsj"].append(seconds)
            bounds["hsj"].append((np.nan, found))
    print(f"{name}: {len(ensemble.low)} leaves, read in {read * 1e3:.0f} ms")
    same = np.array([upper for _, upper in bounds["free"]])[:len(times["hsj"])]
    notes = {"veritas": f"agree {agree}, patient {patient}", "hsj": f"exact on these rows: {(same <= EPS).mean():.0%}"}
    for who, seconds in times.items():
        if seconds:
            lower, upper = np.array(bounds[who]).T
            line(who, seconds, upper, lower, notes.get(who, ""))
    if veritas:
        ratios = (f"{f(times['veritas']) / f(times['free']):.1f} x our {f.__name__}" for f in (np.median, np.mean, max))
        print("  Veritas takes " + ", ".join(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=154)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="cap per row")
    parser.add_argument("--hsj", type=int, default=8, help="rows for HopSkipJump")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 - ART knows the global generator only
    x, z, y, v = pima()
    width = np.ptp(np.concatenate([x, z]), 0)
    print(f"  {'':8} {'rows':>4} {'median ms':>9} {'mean ms':>9} {'max ms':>9}   flips within {EPS}   exact")
    for name, model in MODELS.items():
        compare(name, model.fit(x, y), z[:args.rows], v[:args.rows], width, args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the whole process, libraries included: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
