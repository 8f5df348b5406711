"""What only a machine with a GPU can show: that attacks agree with the CPU there, how fast and how busy they are, and
that they go on when its memory runs out.

    python tests/benchmarks/gpu_check.py [--device cuda] [--minutes 9] [--only attacks memory table] [--smoke]

Each part has a share of the minutes; what no longer fits is named and left out. Exit code 1 where an attack disagrees
or the memory check fails. `--smoke` runs every part on the CPU, tiny, in under a minute, so that the script itself is
known to work before there is a GPU.

attacks: every registered evasion attack, with the same random numbers on both devices. Rounding may turn single
decisions of a search, so what is compared is how many inputs are misclassified, judged on the CPU both times.
memory: an attack in batches that do not fit into what memory this process may take must halve them and finish.
table: time of each attack over that of its passes alone, for ResNet-18 and EfficientNet-B0 at 224 px, untrained, which
is all the same to the time of their passes, on synthetic images, in fp32 and bf16, with how busy the GPU was.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parent))
from bench_gradient import Tape
from bench_images import clock, replay, trained

from imaging.models.models import EfficientNetB0, ResNet18
from imaging.space import ImageSpace
from suite.attacks.apgd import APGD
from suite.attacks.gradient import BIM, FGSM, PGD
from suite.attacks.minimal import DeepFool
from suite.base import registry
from suite.base.devices import describe_device, resolve_device
from suite.base.errors import InputError, NotApplicable
from suite.core.attack import EvasionAttack
from suite.core.classifier import TorchClassifier
from suite.training.folding import fold
from suite.training.loop import build

EPS = 4 / 255
SHARES = {"attacks": 0.35, "memory": 0.1, "table": 0.55}
"""Of the minutes, for each part."""
FEW = {"queries": 300, "generations": 10, "steps": 40, "search": 3, "max_iter": 5, "draws": 20, "population": 50,
       "angles": 7, "shifts": 3, "samples": 20, "init_size": 20, "own": 32}
"""Of the hyper-parameters that say how long an attack takes, so much at most."""
TOLERANCE = 0.05
"""Share of the inputs by which the devices may differ."""
DRAWS = {torch.rand, torch.randn, torch.randint, torch.randperm}
DRAWS_IN_PLACE = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.random_, torch.Tensor.bernoulli_}


class SameDraws(TorchFunctionMode):
    """Inside, a generator of another device draws the numbers that one of the CPU with its seed would."""

    def __init__(self) -> None:
        super().__init__()
        self.twins: dict[torch.Generator, torch.Generator] = {}

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is None or generator.device.type == "cpu" or func not in DRAWS | DRAWS_IN_PLACE:
            return func(*args, **kwargs)
        if generator not in self.twins:
            self.twins[generator] = torch.Generator().manual_seed(generator.initial_seed())
        kwargs["generator"] = self.twins[generator]
        if func in DRAWS:
            return func(*args, **kwargs | {"device": "cpu"}).to(generator.device)
        return args[0].copy_(func(torch.empty(args[0].shape, dtype=args[0].dtype), *args[1:], **kwargs))


class Budget:
    """The time of one part."""

    def __init__(self, seconds: float) -> None:
        self.until = time.perf_counter() + seconds

    def spent(self, what: str) -> bool:
        """Whether the time is over; then says what is left out."""
        if time.perf_counter() < self.until:
            return False
        print(f"  {what}: left out, no time left")
        return True


def check_attacks(device: torch.device, budget: Budget, smoke: bool) -> bool:
    """Every registered evasion attack against the CPU."""
    near, x, y = trained(3, "cpu", 4 if smoke else 10)
    x, y = (t[:8 if smoke else 64] for t in (x, y))
    far = TorchClassifier(copy.deepcopy(near.module), 3, ImageSpace(), device=device)
    there, truth, fine = x.to(device), y.to(device), True
    print(f"\nattacks, {len(x)} images 1 x 28 x 28\n"
          f"  {'attack':<24}{'CPU':>6}{'device':>8}{'same':>7}{'CPU s':>9}{'s':>9}")
    for name in registry.names("attacks"):
        attack = registry.make("attacks", name)
        if not isinstance(attack, EvasionAttack) or budget.spent(name):
            continue
        most = {key: value // 10 + 2 for key, value in FEW.items()} if smoke else FEW
        attack = dataclasses.replace(attack, **{k: v for k, v in most.items()
                                                if isinstance(now := getattr(attack, k, None), int) and now > v})
        try:
            attack.check(near)
        except (InputError, NotApplicable):
            continue  # it is for trees, or for tables
        start = time.perf_counter()
        expected = attack(near, x, y, seed=1)
        middle = time.perf_counter()
        try:
            with SameDraws():
                found = attack(far, there, truth, seed=1).cpu()
        except Exception:
            print(f"  {name:<24}FAILS\n{traceback.format_exc()}")
            fine = False
            continue
        seconds = middle - start, time.perf_counter() - middle
        fooled = [(near.judge(z) != y).float().mean().item() for z in (expected, found)]
        same = (found - expected).abs().flatten(1).amax(1).le(1e-3).float().mean().item()
        agrees = abs(fooled[0] - fooled[1]) <= TOLERANCE
        fine &= agrees
        print(f"  {name:<24}{fooled[0]:>6.0%}{fooled[1]:>8.0%}{same:>7.0%}{seconds[0]:>9.2f}{seconds[1]:>9.2f}"
              f"{'' if agrees else '  DISAGREES'}", flush=True)
    return fine


class Cramped(nn.Module):
    """A network that runs out of memory above so many images, where there is no GPU's memory to run out of."""

    def __init__(self, module: nn.Module, room: int) -> None:
        super().__init__()
        self.module, self.room = module, room

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("out of memory, as said")
        return self.module(x)


def check_memory(device: torch.device, budget: Budget, smoke: bool) -> bool:
    """Batches that do not fit are halved until they do, and the result is that of small ones."""
    if budget.spent("memory"):
        return True
    side, n, small = (32, 16, 4) if smoke else (224, 512, 16)
    module = fold(build(ResNet18(), (3, side, side), 2).eval()).to(device)
    x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    attack, y = BIM(EPS, steps=2, early_stop=False), torch.zeros(n, dtype=torch.long, device=device)
    expected = attack(TorchClassifier(module, 2, ImageSpace(), device=device, batch=small), x, y)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        whole = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + 2**31) / whole, device)
    else:
        module = Cramped(module, n // 3)
    classifier = TorchClassifier(module, 2, ImageSpace(), device=device, batch=n)
    try:
        found = attack(classifier, x, y)
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    # other sizes of batches round otherwise, which a sign may make a step of
    same = (found - expected).abs().le(1e-6).float().mean().item()
    fine = classifier.batch < n and same > 0.98
    print(f"\nmemory: batches of {n} became {classifier.batch}; {same:.1%} of the pixels as in batches of {small}: "
          f"{'fine' if fine else 'FAILS'}", flush=True)
    return fine


class Autocast(nn.Module):
    """A network in bf16 where PyTorch thinks it safe, with float32 inputs and logits."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.module(x).float()


class Utilisation(threading.Thread):
    """Appends to `samples`, while it is entered, what nvidia-smi says the GPU is busy, in percent."""

    def __init__(self, device: torch.device, samples: list[float]) -> None:
        super().__init__(daemon=True)
        self.device, self.samples, self.stop = device, samples, threading.Event()

    def __enter__(self) -> None:
        if self.device.type == "cuda":
            self.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if self.device.type == "cuda":
            self.join()

    def run(self) -> None:
        ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits",
               f"--id={self.device.index or 0}"]
        while not self.stop.wait(0.2):
            done = subprocess.run(ask, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self.samples.append(float(done.stdout.split()[0]))


def show_table(device: torch.device, budget: Budget, smoke: bool) -> bool:
    """Ratio of each attack to its passes alone, and how busy the attack keeps the GPU."""
    side, n, repeats, steps = (32, 4, 1, 2) if smoke else (224, 64, 3, None)
    print(f"\ntable, {n} images 3 x {side} x {side}, synthetic; median of {repeats}\n"
          f"  {'network':<18}{'type':<6}{'attack':<10}{'s':>9}{'images/s':>10}{'x passes':>10}{'busy%':>8}")
    x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    x = x.to(memory_format=torch.channels_last)
    attacks = {"FGSM": FGSM(EPS), "PGD-40": PGD(EPS, steps=steps or 40, early_stop=False),
               "APGD-100": APGD(EPS, steps=steps or 100, early_stop=False), "DeepFool": DeepFool(steps=steps or 10)}
    for network, recipe in {"ResNet-18": ResNet18(), "EfficientNet-B0": EfficientNetB0()}.items():
        plain = fold(build(recipe, (3, side, side), 2).eval()).to(device).requires_grad_(False)
        plain = plain.to(memory_format=torch.channels_last)
        for kind, module in (("fp32", plain), ("bf16", Autocast(plain))):
            classifier = TorchClassifier(module, 2, ImageSpace(), device=device)
            y = classifier.judge(x)
            for name, attack in attacks.items():
                if budget.spent(f"{network} {kind} {name}"):
                    continue
                classifier.module = taped = Tape(module).eval()
                attack(classifier, x, y)
                classifier.module = module
                times, busy = [], []
                for _ in range(repeats):
                    alone = clock(lambda module=module, taped=taped: replay(module, x, taped.passes), x)
                    with Utilisation(device, busy):
                        times.append((clock(lambda attack=attack, c=classifier, y=y: attack(c, x, y), x), alone))
                took = statistics.median(a for a, _ in times)
                print(f"  {network:<18}{kind:<6}{name:<10}{took:>9.3f}{n / took:>10.1f}"
                      f"{statistics.median(a / b for a, b in times):>10.2f}"
                      f"{f'{statistics.median(busy):.0f}' if busy else '-':>8}", flush=True)
    return True


PARTS = {"attacks": check_attacks, "memory": check_memory, "table": show_table}


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--device", default="cuda")
    ask.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    ask.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="some parts")
    ask.add_argument("--smoke", action="store_true", help="every part on the CPU, tiny, in under a minute")
    args = ask.parse_args()
    try:
        device = resolve_device("cpu" if args.smoke else args.device)
    except InputError as e:
        print(f"{e}; --smoke tries this script on the CPU", file=sys.stderr)
        return 2
    minutes = args.minutes
    print(f"torch {torch.__version__}, {describe_device(device)}")
    failed = [part for part in args.only if not PARTS[part](device, Budget(60 * minutes * SHARES[part]), args.smoke)]
    print(f"\n{'all fine' if not failed else 'FAILED: ' + ', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
