"""Large networks on a GPU: the part of `bench_images.py` that needs one."""

from __future__ import annotations

import statistics
import subprocess
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from imaging.models import EfficientNetB0, ResNet18
from imaging.space import ImageSpace
from suite.attacks.apgd import APGD
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.minimal import DeepFool
from suite.classifier import TorchClassifier
from suite.folding import fold
from suite.training import build

EPS, N = 4 / 255, 64


class Autocast(nn.Module):
    """A network in bf16 where PyTorch thinks it safe, with float32 inputs and logits."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return self.module(x).float()


def networks() -> dict[str, nn.Module]:
    """As an audit would attack them: normalisation inside, batch normalisation folded. Untrained, but that is all the
    same to the time of their passes."""
    recipes = {"ResNet-18": ResNet18(), "EfficientNet-B0": EfficientNetB0()}
    return {name: fold(build(recipe, (3, 224, 224), 2).eval()) for name, recipe in recipes.items()}


class Utilisation(threading.Thread):
    """Appends to `samples`, while it is entered, what nvidia-smi says the GPU is busy, in percent."""

    def __init__(self, samples: list[float]) -> None:
        super().__init__(daemon=True)
        self.samples, self.stop = samples, threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()

    def run(self) -> None:
        ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.stop.wait(0.2):
            done = subprocess.run(ask, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self.samples.append(float(done.stdout.split()[0]))


def table(repeats: int, clock: Callable, replay: Callable, tape: type[nn.Module]) -> None:
    """Ratio of each attack to its passes alone, and how busy the attack keeps the GPU."""
    print(f"\n{torch.cuda.get_device_name()}, {N} images 3 x 224 x 224, synthetic, wall time")
    print(f"  {'network':<18}{'type':<6}{'attack':<10}{'s':>9}{'x passes':>9}{'busy%':>8}")
    x = torch.rand(N, 3, 224, 224, generator=torch.Generator().manual_seed(0)).cuda()
    x = x.to(memory_format=torch.channels_last)
    attacks = {"FGSM": FGSM(EPS), "PGD-40": PGD(EPS, early_stop=False), "APGD-100": APGD(EPS, early_stop=False),
               "DeepFool": DeepFool(steps=10)}
    for network, plain in networks().items():
        plain = plain.cuda().eval().requires_grad_(False).to(memory_format=torch.channels_last)
        for kind, module in (("fp32", plain), ("bf16", Autocast(plain))):
            classifier = TorchClassifier(module, 2, ImageSpace(), device="cuda")
            y = classifier.judge(x)
            for name, attack in attacks.items():
                classifier.module = taped = tape(module).eval()
                attack(classifier, x, y)
                classifier.module = module
                times, busy = [], []
                for _ in range(repeats):
                    alone = clock(lambda module=module, taped=taped: replay(module, x, taped.passes), x)
                    with Utilisation(busy):
                        times.append((clock(lambda attack=attack, c=classifier, y=y: attack(c, x, y), x), alone))
                busy = f"{statistics.median(busy):.0f}" if busy else "-"
                print(f"  {network:<18}{kind:<6}{name:<10}{statistics.median(a for a, _ in times):>9.3f}"
                      f"{statistics.median(a / b for a, b in times):>9.2f}{busy:>8}", flush=True)
