"""Gradient attacks against the cost of their passes alone, and against ART.

    python tests/benchmarks/bench_gradient.py [--threads 1] [--repeats 15] [--no-art]

Targets: a network 8-64-64-2 on a made-up table of 154 to 16384 rows (in batches of 4096), as a plain box and as
possible patients (six integer columns, one immutable); and a small CNN on 256 made-up images 1 x 28 x 28.

"Passes alone" replays the passes that our attack bought: for each, a leaf tensor of the same number of rows, the
module, `logits.sum()`, and where the attack took one the input gradient, with frozen parameters and nothing between.
Ours takes the passes of plain ReLU networks without autograd (`suite/core/passes.py`), so it can be below 1 there.
`x passes` is the attack's time over that, and `us a pass` what it spends beside each pass; `ART x ours` is ART's time
over ours (ART knows the box only). All in one process, interleaved; the ratios are medians over the repeats of ratios
within a repeat. Process time.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from suite.attacks.apgd import APGD
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.minimal import CarliniWagnerL2, DeepFool
from suite.core.classifier import TorchClassifier
from suite.core.space import Space
from tabular.schema import Schema


def table(rows: int, patients: bool) -> tuple[TorchClassifier, Tensor, Tensor]:
    """A trained network on a table of eight columns."""
    names = [f"c{i}" for i in range(8)]
    space = Schema(columns={name: {"min": 0, "max": 100, "integer": i < 6, "change": "never" if i == 5 else "any"}
                            for i, name in enumerate(names)}).space() if patients else Space(0.0, 100.0, 100.0)
    x = (50 + 15 * torch.randn(rows + 600, 8)).clamp(0, 100).round()
    score = (x[:, :4] - 50).sum(1) / 30 + ((x[:, 4] - 50) / 15) * ((x[:, 5] - 50) / 15)
    y = (score + 0.5 * torch.randn(len(x)) > 0).long()
    body = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    train(body, (x[rows:] - 50) / 15, y[rows:], 200)
    with torch.no_grad():  # normalisation folded into the first layer: the module takes data units
        body[0].weight.div_(15)
        body[0].bias.sub_(body[0].weight.sum(1) * 50)
    return correct(TorchClassifier(body, 2, space), x[:rows], y[:rows])


def pictures(rows: int) -> tuple[TorchClassifier, Tensor, Tensor]:
    """A trained CNN on noisy blobs, wide or tall."""
    n = rows + 1500
    y = torch.arange(n) % 2
    axis, stretch = torch.arange(28.0), torch.where(y == 1, 1.15, 1 / 1.15).view(-1, 1, 1)
    u, v = (axis.view(shape) - 10 - 7 * torch.rand(n, 1, 1) for shape in ((1, 28, 1), (1, 1, 28)))
    x = (0.3 + 0.4 * torch.exp(-((u * stretch)**2 + (v / stretch)**2) / 18) + 0.06 * torch.randn(n, 28, 28))
    x = x.clamp(0, 1)[:, None]
    body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(),
                         nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(32 * 49, 2))
    train(body, x[rows:], y[rows:], 20, batch=32, lr=1e-3)
    return correct(TorchClassifier(body, 2, Space(0.0, 1.0)), x[:rows], y[:rows])


def train(module: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int = 10**6, lr: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[index]), y[index]).backward()
            optimizer.step()
    module.zero_grad()


def correct(classifier: TorchClassifier, x: Tensor, y: Tensor) -> tuple[TorchClassifier, Tensor, Tensor]:
    """With the labels that the classifier gives, so that every row takes part."""
    print(f"  clean accuracy {(classifier.judge(x) == y).float().mean():.3f}", end="")
    return classifier, x, classifier.judge(x)


class Tape(nn.Module):
    """The module, keeping for each forward pass its rows and its backward passes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.passes = module, []
        self.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        entry = [len(x), 0]
        self.passes.append(entry)
        out = self.module(x)
        if out.requires_grad:
            out.register_hook(lambda _: entry.__setitem__(1, entry[1] + 1))
        return out


def replay(classifier: TorchClassifier, x: Tensor, passes: list[list[int]]) -> None:
    """The passes alone."""
    module = classifier.module
    with classifier.frozen():
        for rows, backwards in passes:
            if not backwards:
                with torch.no_grad():
                    module(x[:rows])
                continue
            leaf = x[:rows].detach().requires_grad_()
            total = module(leaf).sum()
            for k in range(backwards):
                torch.autograd.grad(total, leaf, retain_graph=k + 1 < backwards)


def art_attack(attack: object, classifier: TorchClassifier, x: Tensor, y: Tensor):
    """ART's attack with the same budget, as a function without arguments; `None` where there is no like."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    bounds = (float(classifier.space.lower.min()), float(classifier.space.upper.max()))
    wrapped = PyTorchClassifier(classifier.module, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 2, clip_values=bounds,
                                device_type="cpu")
    eps = attack.eps * float(classifier.space.scale.max())
    if isinstance(attack, PGD) and not attack.early_stop:
        made = evasion.ProjectedGradientDescent(wrapped, eps=eps, eps_step=attack.step * eps, max_iter=attack.steps,
                                                num_random_init=1, batch_size=len(x), verbose=False)
    elif isinstance(attack, DeepFool):
        made = evasion.DeepFool(wrapped, max_iter=50, epsilon=0.02, batch_size=len(x), verbose=False)
    elif isinstance(attack, FGSM):
        made = evasion.FastGradientMethod(wrapped, eps=eps, eps_step=eps, batch_size=len(x))
    else:
        return None
    given, labels = x.numpy(), y.numpy()
    return lambda: torch.from_numpy(np.asarray(made.generate(given, labels)))


def clock(run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(classifier: TorchClassifier, x: Tensor, y: Tensor, eps: float, repeats: int, with_art: bool) -> None:
    print(f"\n  {'attack':<16}{'ms':>9}{'forward':>9}{'backward':>9}{'x passes':>9}{'us a pass':>10}{'fooled':>8}"
          f"{'ART x ours':>12}{'ART fooled':>12}")
    attacks = {"FGSM": FGSM(eps), "PGD-40": PGD(eps, early_stop=False), "PGD-40 stops": PGD(eps),
               "APGD-100": APGD(eps, early_stop=False), "DeepFool": DeepFool(), "C&W 6x100": CarliniWagnerL2()}
    for name, attack in attacks.items():
        tape = Tape(classifier.module)
        classifier.module = tape
        found = attack(classifier, x, y)
        classifier.module = tape.module
        theirs = art_attack(attack, classifier, x, y) if with_art else None
        ours, passes, peers = [], [], []
        slow = isinstance(attack, CarliniWagnerL2)
        for _ in range(5 if slow else repeats):
            passes.append(clock(lambda tape=tape: replay(classifier, x, tape.passes)))
            ours.append(clock(lambda attack=attack: attack(classifier, x, y)))
            if theirs and len(peers) < 5:
                peers.append(clock(theirs))
        forward, backward = sum(n for n, _ in tape.passes) / len(x), sum(n * b for n, b in tape.passes) / len(x)
        over = statistics.median(a / b for a, b in zip(ours, passes, strict=True))
        beside = 1e6 * statistics.median(a - b for a, b in zip(ours, passes, strict=True)) / len(tape.passes)
        hit = [f"{(classifier.judge(a) != y).float().mean():.3f}" for a in ([found, theirs()] if theirs else [found])]
        times = f"{statistics.median(a / b for a, b in zip(peers, ours, strict=False)):.1f}" if theirs else "-"
        print(f"  {name:<16}{1e3 * statistics.median(ours):>9.2f}{forward:>9.1f}{backward:>9.1f}{over:>9.2f}"
              f"{beside:>10.0f}{hit[0]:>8}{times:>12}{hit[1] if theirs else '-':>12}", flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--repeats", type=int, default=15)
    ask.add_argument("--no-art", action="store_true")
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {args.threads} thread(s), process time, median of {args.repeats}")
    for patients in (False, True):
        for rows in (154, 768, 4096, 16384):
            print(f"\nnetwork 8-64-64-2, {rows} rows, {'possible patients' if patients else 'box'}, eps 0.1:", end="")
            compare(*table(rows, patients), 0.1, args.repeats, not args.no_art)
    print("\nCNN, 256 images 1 x 28 x 28, eps 4/255:", end="")
    compare(*pictures(256), 4 / 255, max(args.repeats // 3, 5), not args.no_art)


if __name__ == "__main__":
    main()
