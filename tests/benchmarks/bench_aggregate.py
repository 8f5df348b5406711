"""Rules for the updates of a federation, ours and ByzFL's: 100 sites, a million parameters, float32.

    python tests/benchmarks/bench_aggregate.py [--threads 1] [--repeats 5] [--sites 100] [--parameters 1000000]

All take turns in one process: process time, medians over repeats, and of the ratio of the same turn. The floor is one
read of the matrix (`torch.sum`). A row that no time is told for has no counterpart in ByzFL. Its nearest neighbor
mixing copies n - bad updates for each site, 32 GB here, so that row is of a hundredth of the parameters.
ByzFL's package imports torchvision for its data sets; only its aggregators are imported here, which do not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, version

import torch
from torch import Tensor

from federated.aggregation.aggregate import (
    Aggregator,
    Bulyan,
    CenteredClipping,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    MultiKrum,
    NormClipping,
    TrimmedMean,
)
from federated.aggregation.mixing import NNM, Bucketing
from federated.aggregation.trust import FLAME, FLTrust

BAR = 1.5
"""Times ByzFL's that ours may take."""
BAD = 20


def byzfl() -> types.ModuleType | None:
    """ByzFL's aggregators, without its `__init__`, which wants torchvision; None where it is not installed."""
    try:
        folder = distribution("byzfl").locate_file("byzfl")
    except PackageNotFoundError:
        return None
    package = types.ModuleType("byzfl")
    package.__path__ = [str(folder)]
    sys.modules["byzfl"] = package
    import byzfl.aggregators

    return byzfl.aggregators


def rows(peer: types.ModuleType | None, norm: float) -> dict[str, tuple[Aggregator, Callable[[Tensor], Tensor] | None]]:
    """Name -> ours and ByzFL's; lengths are cut at `norm`, which is that of a typical update."""
    ours = {
        "mean": Mean(), "median": Median(), "trimmed mean": TrimmedMean(BAD), "Krum": Krum(BAD),
        "Multi-Krum": MultiKrum(BAD), "Bulyan": Bulyan(BAD), "geometric median": GeometricMedian(),
        "norm clipping": NormClipping(norm), "centered clipping": CenteredClipping(norm), "FLTrust": FLTrust(),
        "FLAME": FLAME(), "bucketing, mean": Bucketing(2, Mean()), "NNM, mean": NNM(BAD, Mean())}
    if peer is None:
        return {name: (rule, None) for name, rule in ours.items()}

    def clipped(x: Tensor) -> Tensor:
        return peer.Average()(peer.Clipping(norm)(x.clone()))  # it overwrites its argument

    theirs: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": peer.Average(), "median": peer.Median(), "trimmed mean": peer.TrMean(BAD), "Krum": peer.Krum(BAD),
        "Multi-Krum": peer.MultiKrum(BAD), "geometric median": peer.GeometricMedian(), "norm clipping": clipped,
        "centered clipping": lambda x: peer.CenteredClipping(tau=norm)(x),  # it remembers its center
        "bucketing, mean": lambda x: peer.Average()(peer.Bucketing(2)(x)),
        "NNM, mean": lambda x: peer.Average()(peer.NNM(BAD)(x))}
    return {name: (rule, theirs.get(name)) for name, rule in ours.items()}


def timed(run: Callable[[], Tensor]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(name: str, ours: Aggregator, theirs: Callable[[Tensor], Tensor] | None, x: Tensor, repeats: int) -> None:
    reference = x.mean(0)
    runs: list[Callable[[], Tensor]] = [x.sum, lambda: ours(x, reference=None if name == "centered clipping" else
                                                            reference)]
    if theirs:
        runs.append(lambda: theirs(x))
    times = [[timed(run) for run in runs] for _ in range(repeats + 1)][1:]  # the first one warms up
    floor, own, *other = (statistics.median(column) for column in zip(*times, strict=True))
    line = f"{name:<22}{1e3 * own:>9.0f} ms{own / floor:>8.1f} x floor"
    if other:
        ratio = statistics.median(turn[1] / turn[2] for turn in times)
        line += f"{1e3 * other[0]:>9.0f} ms{ratio:>8.2f} x   bar {BAR:g} x: {'met' if ratio <= BAR else 'MISSED'}"
    print(line, flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag, default in (("--threads", 1), ("--repeats", 5), ("--sites", 100), ("--parameters", 1_000_000)):
        ask.add_argument(flag, type=int, default=default)
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    peer = byzfl()
    print(f"torch {torch.__version__}, ByzFL {version('byzfl') if peer else 'not installed'}, {args.threads} "
          f"thread(s), process time, medians of {args.repeats}; {args.sites} x {args.parameters:,}, {BAD} bad")
    x = 1 + torch.randn(args.sites, args.parameters, generator=torch.Generator().manual_seed(0))
    floor = statistics.median(timed(x.sum) for _ in range(args.repeats))
    print(f"floor: one read {1e3 * floor:.0f} ms\n{'':<22}{'ours':>12}{'':>16}{'ByzFL':>12}{'ours / ByzFL':>14}")
    few = x[:, :max(args.parameters // 100, 1)].contiguous()
    for name, (ours, theirs) in rows(peer, float(x[0].norm())).items():
        if name.startswith("NNM"):
            compare(name, ours, None, x, args.repeats)
            name, some = f"{name}, {few.shape[1]:,}", few
        else:
            some = x
        compare(name, ours, theirs, some, args.repeats)


if __name__ == "__main__":
    main()
