"""DP-SGD: an epoch of it over an epoch of plain training, ours and Opacus's in each of its modes.

    python tests/benchmarks/bench_dpsgd.py [--threads 1] [--repeats 15]

2048 images of noise, 28 x 28 x 1, two classes, (expected) batches of 128, Adam. All take turns in one process: process
time, medians over repeats of the ratio to the plain epoch of the same turn. "Plain" shuffles and steps and does nothing
else. Opacus is as `make_private` returns it, with its own Poisson loader. A mode that fails is told with its error.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imaging.models.models import ResNetSmall, SimpleCNN
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.private.dpsgd import DPSGD
from suite.training.groupnorm import without_batch_norm
from suite.training.loop import TorchRecipe, build, shuffled

ROWS, BATCH, INPUTS = 2048, 128, (1, 28, 28)
BAR = 3.5
"""Times plain training that ours may take on the small networks."""
MODES = ("hooks", "ghost", "functorch", "ew")


def plain(network: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizer, generator = torch.optim.Adam(network.parameters(), 1e-3), torch.Generator().manual_seed(0)

    def epoch() -> None:
        for rows in shuffled(ROWS, BATCH, generator):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()

    return epoch


def ours(network: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """The loop of the defense, without calibration."""
    split = Split(x.numpy(), y.numpy(), Space(0.0, 1.0), ("well", "ill"), y.numpy())
    module = nn.Sequential(nn.Identity(), network)
    return lambda: DPSGD()._train(module, split, BATCH / ROWS, ROWS // BATCH, 1.0, 0, "cpu")


def opacus(network: nn.Module, x: Tensor, y: Tensor, mode: str) -> Callable[[], None]:
    from opacus import PrivacyEngine

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), BATCH)
    found = PrivacyEngine().make_private(
        module=network.train(), optimizer=torch.optim.Adam(network.parameters(), 1e-3), data_loader=loader,
        noise_multiplier=1.0, max_grad_norm=1.0, grad_sample_mode=mode, criterion=nn.CrossEntropyLoss())
    module, optimizer, criterion, batches = found if mode == "ghost" else (*found[:2], F.cross_entropy, found[2])

    def epoch() -> None:
        for a, b in batches:
            optimizer.zero_grad(set_to_none=True)
            criterion(module(a), b).backward()
            optimizer.step()

    return epoch


def compare(name: str, recipe: TorchRecipe, repeats: int) -> None:
    def network() -> nn.Module:
        return without_batch_norm(build(recipe, INPUTS, 2)[1])[0]

    x, y = torch.rand(ROWS, *INPUTS), torch.randint(0, 2, (ROWS,))
    runs = {"plain": plain(network(), x, y), "medsec": ours(network(), x, y)}
    for mode in MODES:
        try:
            run = opacus(network(), x, y, mode)
            run()
        except Exception as e:
            print(f"  Opacus, {mode}: fails: {type(e).__name__}: {str(e).splitlines()[0]}")
        else:
            runs[f"Opacus, {mode}"] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for which, run in runs.items():
            start = time.process_time()
            run()
            times[which].append(time.process_time() - start)
    print(f"\n{name}")
    for which, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["plain"], strict=True))
        bar = f"   bar {BAR:g} x: {'met' if ratio <= BAR else 'MISSED'}" if which == "medsec" else ""
        print(f"  {which:<20}{1e3 * statistics.median(taken) * BATCH / ROWS:>8.1f} ms a step{ratio:>7.2f} x plain{bar}",
              flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--repeats", type=int, default=15)
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {args.threads} thread(s), process time, median of {args.repeats}")
    for name, recipe in {"simple-cnn, 16-32-64": SimpleCNN(), "tiny CNN, 8-16": SimpleCNN(widths=(8, 16)),
                         "resnet-small with group normalisation": ResNetSmall()}.items():
        compare(name, recipe, args.repeats)


if __name__ == "__main__":
    main()
