"""Universal perturbations against ART's, on images that neither has seen.

    MEDSEC_DATA=... python tests/benchmarks/bench_universal.py [--seeds 5] [--only NAME]

For each data set and seed: a small CNN is trained, both attacks craft one pattern on the same 100 validation images
with eps 0.03 (Linf, pixels in [0, 1]), and it is added to the same 300 test images. ART's `UniversalPerturbation` and
`TargetedUniversalPerturbation` take FGSM steps of eps / 5 and as many passes over the images as cost no less than ours:
cost is images sent forward plus images differentiated, both counted at the network. "hits" are the test images that are
misclassified (without a target) or classified as the target. The last lines are the ratios, ours over ART's, with the
smallest of the seeds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from imaging.datasets.data import breast_ultrasound_28, ham10000, pneumoniamnist
from imaging.models.models import SimpleCNN
from suite.attacks.universal import UniversalGradient
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier
from suite.core.data import Split

SETS = {"pneumoniamnist": pneumoniamnist, "breast-ultrasound-28": breast_ultrasound_28, "ham10000": ham10000}
EPS, OWN, UNSEEN, TRAIN = 0.03, 100, 300, 1500
MOST_PASSES = 30
"""Of ART's; it takes at least `LEAST_PASSES`."""
LEAST_PASSES = 2


class Task(NamedTuple):
    """A trained network, the attacker's own images and unseen ones, each with labels."""

    classifier: TorchClassifier
    own: tuple[Tensor, Tensor]
    unseen: tuple[Tensor, Tensor]


class Counted(nn.Module):
    """A network that counts the images it is given, twice where they are differentiated."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.spent = module, 0

    def forward(self, x: Tensor) -> Tensor:
        self.spent += len(x) * (1 + (torch.is_grad_enabled() and x.requires_grad))
        return self.module(x)


def tasks(name: str, seeds: int) -> Iterator[Task]:
    data = SETS[name]()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)

        def some(part: Split, n: int, rng: np.random.Generator = rng) -> Split:
            return part.take(np.sort(rng.choice(len(part), min(n, len(part)), replace=False)))

        classifier = SimpleCNN(epochs=12).fit(some(data.train, TRAIN), data.val, seed)
        own, unseen = ((torch.from_numpy(part.x), torch.from_numpy(part.y))
                       for part in (some(data.val, OWN), some(data.test, UNSEEN)))
        yield Task(classifier, own, unseen)


def hits(task: Task, v: Tensor, target: int | None, eps: float = EPS) -> int:
    """Unseen images that the pattern takes where it shall."""
    x, y = task.unseen
    judged = task.classifier.judge(UniversalGradient(eps=eps).apply(task.classifier, x, v))
    return int(((judged != y) if target is None else (judged == target)).sum())


def by_art(task: Task, target: int | None, passes: int, seed: int, eps: float = EPS) -> tuple[Tensor, int]:
    """ART's pattern after so many passes, and its cost."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    (x, y), network = task.own, Counted(task.classifier.module)
    classes = len(task.classifier.classes_)
    wrapped = PyTorchClassifier(network, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes,
                                clip_values=(0.0, 1.0), device_type="cpu")
    terms = {"attacker": "fgsm", "eps": eps, "norm": np.inf, "delta": 0.0, "max_iter": passes,
             "attacker_params": {"eps": eps / 5, "targeted": target is not None}}
    with seeded(seed):
        random.seed(seed)  # the order of its images
        if target is None:
            attack = evasion.UniversalPerturbation(wrapped, verbose=False, **terms)
            attack.generate(x.numpy(), y.numpy())
        else:
            attack = evasion.TargetedUniversalPerturbation(wrapped, **terms)
            attack.generate(x.numpy(), np.eye(classes)[np.full(len(x), target)])
    return torch.from_numpy(attack.noise[0]), network.spent


def compare(name: str, seeds: int) -> None:
    ratios: dict[str, list[float]] = {}
    for seed, task in enumerate(tasks(name, seeds)):
        clean = {t: hits(task, torch.zeros_like(task.own[0][0]), t) for t in (None, 0, 1)}
        for target in (None, 0, 1):
            attack, classifier = UniversalGradient(eps=EPS, target=target), task.classifier
            classifier.queries = classifier.gradients = 0
            pattern = attack.craft(classifier, *task.own, seed)
            spent = classifier.queries + classifier.gradients
            # one pass tells what a pass costs
            passes = int(np.clip(np.ceil(spent / by_art(task, target, 1, seed)[1]), LEAST_PASSES, MOST_PASSES))
            art, cost = by_art(task, target, passes, seed)
            ours, theirs = (hits(task, v, target) for v in (pattern, art))
            label = "untargeted" if target is None else f"target {target}"
            ratios.setdefault(label, []).append(ours / max(theirs, 1))
            print(f"{name:21} seed {seed} {label:10} clean {clean[target]:4} ours {ours:4} ART {theirs:4} of "
                  f"{len(task.unseen[0])}   cost {spent:6} and {cost:6}", flush=True)
    for label, of in ratios.items():
        print(f"{name:21} {label:10} ratio: median {statistics.median(of):.2f}, smallest {min(of):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=SETS, action="append")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name in args.only or SETS:
        compare(name, args.seeds)


if __name__ == "__main__":
    main()
