"""Large networks on a GPU: the part of `bench_images.py` that needs one."""

from __future__ import annotations

import statistics
import subprocess
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from imaging.space import ImageSpace
from suite.attacks.apgd import APGD
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.minimal import DeepFool
from suite.classifier import TorchClassifier

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
    from monai.networks.nets import EfficientNetBN, resnet18

    torch.manual_seed(0)
    return {"ResNet-18": resnet18(spatial_dims=2, n_input_channels=3, num_classes=2, conv1_t_stride=2),
            "EfficientNet-B0": EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3,
                                              num_classes=2)}


class Utilisation(threading.Thread):
    """Samples of what nvidia-smi says the GPU is busy, in percent, until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples, self.stop = [], threading.Event()

    def run(self) -> None:
        ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.stop.wait(0.2):
            done = subprocess.run(ask, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self.samples.append(float(done.stdout.split()[0]))


def table(repeats: int, clock: Callable, replay: Callable, tape: type[nn.Module]) -> None:
    """Untrained networks on random images: the passes cost the same as those of trained ones."""
    print(f"\n{torch.cuda.get_device_name()}, {N} images 3 x 224 x 224, synthetic, wall time")
    print(f"  {'network':<18}{'type':<6}{'attack':<10}{'s':>9}{'x passes':>9}{'busy%':>8}")
    x = torch.rand(N, 3, 224, 224, generator=torch.Generator().manual_seed(0)).cuda()
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
                watch, times = Utilisation(), []
                watch.start()
                for _ in range(repeats):
                    alone = clock(lambda module=module, taped=taped: replay(module, x, taped.passes), x)
                    times.append((clock(lambda attack=attack, c=classifier, y=y: attack(c, x, y), x), alone))
                watch.stop.set()
                busy = f"{statistics.median(watch.samples):.0f}" if watch.samples else "-"
                print(f"  {network:<18}{kind:<6}{name:<10}{statistics.median(a for a, _ in times):>9.3f}"
                      f"{statistics.median(a / b for a, b in times):>9.2f}{busy:>8}", flush=True)
