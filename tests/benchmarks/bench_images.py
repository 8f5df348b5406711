"""Attacks on images against the cost of their passes alone, and against other libraries.

    make bench                                            (installs the peers)
    python tests/benchmarks/bench_images.py [--threads 1] [--repeats 5] [--quick] [--only DeepFool ...]

A small CNN on synthetic speckled blobs, 256 images 1 x 28 x 28, all classified correctly, eps 4/255. One process; our
attack, the passes alone and each peer in turn, several times over; ratios are medians over ratios within a repeat.
Process time on a CPU, wall time on a GPU.

"passes" are the forward and input-gradient passes that the attack cannot do without, back to back with nothing between:
1, 40, 100, 200 (C&W) of the full batch; for DeepFool those that our attack bought. A row says whether its bar is met,
which takes both: the time, and a result no weaker than that of the strongest peer. AutoAttack is one start of each of
its attacks, here and in every library. Growth is measured in a fresh process for each number of images (Linux).
Large networks on a GPU are measured by `gpu_check.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from bench_gradient import Tape
from image_peers import PEERS

from imaging.attacks.autoattack import AutoAttack
from imaging.attacks.square import Square
from imaging.space import ImageSpace
from suite.attacks.apgd import APGD
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.minimal import CarliniWagnerL2, DeepFool
from suite.core.classifier import TorchClassifier

EPS, N = 4 / 255, 256
TWO = 200 / N
"""Two images of robust accuracy, in percent: what another random start is worth."""


def blobs(n: int, seed: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    """n synthetic grey images (n, 1, 28, 28); the label says how elongated the blob is."""
    g = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=g)

    y = torch.randint(classes, (n,), generator=g)
    axis = torch.arange(28.0)
    u, v, angle = axis[None, :, None] - uniform(10, 17), axis[None, None, :] - uniform(10, 17), uniform(0, math.pi)
    along, across = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
    width, stretch = uniform(2.5, 4.0), 1 + 0.9 * (y.view(-1, 1, 1) + 0.3 * uniform(0, 1)) / (classes - 0.5)
    blob = (-0.5 * ((along / (width * stretch))**2 + (across * stretch / width)**2)).exp()
    clean = (uniform(0.25, 0.4) + uniform(0.25, 0.45) * blob) * (1 + 0.15 * torch.randn(n, 28, 28, generator=g))
    return (clean + 0.03 * torch.randn(n, 28, 28, generator=g)).clamp(0, 1)[:, None], y


def trained(classes: int, device: str, epochs: int) -> tuple[TorchClassifier, Tensor, Tensor]:
    """A CNN, and the first 256 of some images that it gets right."""
    torch.manual_seed(0)
    layers = [m for i, o, s in ((1, 8, 2), (8, 16, 1), (16, 16, 2), (16, 32, 1))
              for m in (nn.Conv2d(i, o, 3, s, 1), nn.ReLU())]
    module, (x, y) = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, classes)), blobs(6000, 1, classes)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    classifier = TorchClassifier(module.requires_grad_(False), classes, ImageSpace(), device=device)
    x, y = (t.to(device) for t in blobs(1200, 2, classes))
    right = (classifier.judge(x) == y).nonzero()[:, 0]
    print(f"{classes} classes: clean accuracy {len(right) / len(x):.3f}")
    return classifier, x[right[:N]], y[right[:N]]


def replay(module: nn.Module, x: Tensor, passes: list[list[int]]) -> None:
    """The passes alone."""
    for rows, backwards in passes:
        with torch.set_grad_enabled(backwards > 0):
            leaf = x[:rows].detach().requires_grad_(backwards > 0)
            total = module(leaf).sum()
        for k in range(backwards):
            torch.autograd.grad(total, leaf, retain_graph=k + 1 < backwards)


def clock(run: Callable[[], object], x: Tensor) -> float:
    cuda = x.device.type == "cuda"
    now = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    torch.manual_seed(0)  # for those that draw from it
    start = now()
    run()
    if cuda:
        torch.cuda.synchronize()
    return now() - start


def quietly(attack: Callable, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return attack(module, x, y).detach().float()


@dataclass(frozen=True)
class Row:
    """What a row of the table measures.

    Attributes:
        attack: Ours.
        passes: Full batches of passes that it cannot do without; 0 for those that it bought.
        bar: Most that it may take, as a share of the time of `against`.
        against: "passes", a peer, or "the fastest peer".
        quality: In which of its results it may not be behind the best peer: robust accuracy or the median L2, the lower
            the better.
        slack: By how much it may be: what is drawn, or rounded, differs.
    """

    attack: object
    passes: int
    bar: float
    against: str = "passes"
    quality: str = "robust"
    slack: float = 0.0


def rows(steps: int, queries: int) -> dict[str, Row]:
    return {"FGSM": Row(FGSM(EPS), 1, 1.05), "PGD-40": Row(PGD(EPS, early_stop=False), 40, 1.05, slack=TWO),
            "PGD-40 stops": Row(PGD(EPS), 40, 0.5), "APGD-100": Row(APGD(EPS, early_stop=False), 100, 1.05, slack=TWO),
            "DeepFool": Row(DeepFool(), 0, 1.05, quality="l2", slack=5e-4),
            "C&W 4x50": Row(CarliniWagnerL2(search=4, steps=50), 200, 1.0, quality="l2", slack=1e-4),
            "Square": Row(Square(eps=EPS, queries=queries), 0, 0.9, "the fastest peer"),
            **{f"AutoAttack {k}": Row(AutoAttack(EPS, steps=steps, queries=queries), 0, 0.8, "torchattacks",
                                      slack=TWO) for k in (2, 3, 7)}}


def compare(name: str, target: tuple[TorchClassifier, Tensor, Tensor], row: Row, peers: dict, repeats: int) -> None:
    classifier, x, y = target
    module = classifier.module
    others = {peer: made[name] for peer, made in peers.items() if name in made}
    runs = {"medsec": lambda module, x, y: row.attack(_with(classifier, module), x, y)} | others
    tapes, quality = {}, {}
    for peer, run in list(runs.items()):
        tapes[peer] = Tape(module).eval()
        torch.manual_seed(0)
        try:
            found = quietly(run, tapes[peer], x, y)
        except Exception as e:
            print(f"  {name:<14}{peer:<14}fails: {type(e).__name__}: {str(e).splitlines()[0][:70]}")
            runs.pop(peer)
            continue
        quality[peer] = _quality(_with(classifier, module), found, x, y)
    passes = [[len(x), 1]] * row.passes or tapes["medsec"].passes
    times = {peer: [] for peer in ("passes", *runs)}
    for _ in range(repeats):
        times["passes"].append(clock(lambda: replay(module, x, passes), x))
        for peer, run in runs.items():
            times[peer].append(clock(lambda run=run: quietly(run, module, x, y), x))
    for peer in runs:
        forward, backward = (sum(n * b for n, b in counts) / len(x) for counts in (
            [(n, 1) for n, _ in tapes[peer].passes], tapes[peer].passes))
        over = _ratio(times[peer], times["passes"])
        print(f"  {name:<14}{peer:<14}{statistics.median(times[peer]):>9.3f}{over:>9.2f}{forward:>9.1f}"
              f"{backward:>9.1f}{quality[peer]['robust']:>8.1f}{quality[peer]['l2']:>8.3f}", flush=True)
    print(f"  {'':<28}{_verdict(row, times, quality)}", flush=True)


def _quality(classifier: TorchClassifier, found: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
    """Robust accuracy in percent, and the median L2 distance, infinite where the attack failed."""
    held = classifier.judge(found) == y
    l2 = (found - x).flatten(1).norm(dim=1).masked_fill(held, torch.inf)
    return {"robust": 100 * float(held.float().mean()), "l2": float(l2.median())}


def _verdict(row: Row, times: dict[str, list[float]], quality: dict[str, dict[str, float]]) -> str:
    rivals = [p for p in times if row.against in (p, "the fastest peer" if p not in ("medsec", "passes") else "")]
    if not rivals:
        return f"bar {row.bar} x {row.against}: not here"
    took = max(_ratio(times["medsec"], times[p]) for p in rivals)  # the worst ratio is that against the fastest
    ours = quality["medsec"][row.quality]
    best = min([q[row.quality] for peer, q in quality.items() if peer != "medsec"], default=float("inf"))
    met = took <= row.bar and ours <= best + row.slack
    return (f"{took:.2f} x {row.against} (bar {row.bar}), {row.quality} {ours:.4g} (best peer {best:.4g}): "
            f"{'met' if met else 'MISSED'}")


def _with(classifier: TorchClassifier, module: nn.Module) -> TorchClassifier:
    classifier.module = module
    return classifier


def _ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def growth(device: str, threads: int, repeats: int, most: int) -> None:
    """Time an image and peak memory, from 256 images to many."""
    print("\nGrowth, PGD-40 full strength:")
    for n in (256, 1024, most):
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            each, batch, peak = alone.submit(_grown, n, device, threads, repeats).result()
        print(f"  {n:>6} images in batches of {batch}: {1e3 * each:.2f} ms an image, peak {peak:.0f} MiB", flush=True)


def _grown(n: int, device: str, threads: int, repeats: int) -> tuple[float, int, float]:
    """Seconds an image, images in a batch, and the peak resident memory of this process in MiB."""
    torch.set_num_threads(threads)
    classifier, *_ = trained(2, device, 1)
    x, y = (t.to(device) for t in blobs(n, 3))
    times = [clock(lambda: PGD(EPS, early_stop=False)(classifier, x, y), x) / n for _ in range(repeats)]
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return statistics.median(times), classifier.batch, int(peak.split()[1]) / 1024


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--quick", action="store_true", help="2 repeats; 20 steps and 200 queries of AutoAttack")
    ask.add_argument("--only", nargs="*", metavar="ROW", help="some rows, for example FGSM 'C&W 4x50'")
    ask.add_argument("--peers", nargs="*", choices=PEERS, help="some of the other libraries, or none")
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    repeats, steps, queries = (2, 20, 200) if args.quick else (args.repeats, 100, 1000)
    print(f"torch {torch.__version__}, {name}, {args.threads} thread(s), median of {repeats}, synthetic blobs")
    peers = {}
    for peer in PEERS if args.peers is None else args.peers:
        try:
            peers[peer] = PEERS[peer](EPS, steps, queries)
        except ImportError as e:
            print(f"{peer} left out: {e}")
    targets = cache(lambda classes: trained(classes, args.device, 6 if classes == 2 else 20))
    targets(2)
    heads = ("s", "x passes", "forward", "backward", "robust%", "L2")
    print(f"\n  {'row':<14}{'library':<14}" + "".join(f"{h:>{8 if h in heads[4:] else 9}}" for h in heads))
    for row, what in rows(steps, queries).items():
        if not args.only or row in args.only:
            classes = int(row.split()[-1]) if row.startswith("AutoAttack") else 2
            compare(row, targets(classes), what, peers, repeats)
    if not args.only:
        growth(args.device, args.threads, min(repeats, 3), 2000 if args.quick else 10000)


if __name__ == "__main__":
    main()
