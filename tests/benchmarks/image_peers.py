"""The attacks of other libraries that `bench_images.py` runs: `{row: attack(module, x, y) -> x_adv}` of each.

What stands beside our C&W from torchattacks has no search for the constant: its 200 steps are all with c = 1.
AutoAttack is put together from the attacks that run on this number of classes, one start of each.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import torch
from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
CW = {"learning_rate": 1e-2, "initial_const": 0.1, "binary_search_steps": 4}


def torchattacks(eps: float, steps: int, queries: int) -> dict[str, Attack]:
    import torchattacks as ta

    def make(attack: type, **fields) -> Attack:
        return lambda module, x, y: attack(module, **fields)(x, y)

    def two_classes(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The parts of its AutoAttack that two classes allow."""
        return ta.MultiAttack([
            ta.APGD(module, eps=eps, steps=steps, n_restarts=1),
            ta.FAB(module, eps=eps, steps=steps, n_restarts=1, multi_targeted=False),
            ta.Square(module, eps=eps, n_queries=queries)])(x, y)

    def many_classes(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Its AutoAttack with this number of steps and queries."""
        k = module(x[:1]).shape[1]
        return ta.MultiAttack([
            ta.APGD(module, eps=eps, steps=steps, n_restarts=1),
            ta.APGDT(module, eps=eps, steps=steps, n_classes=k, n_restarts=1),
            ta.FAB(module, eps=eps, steps=steps, n_classes=k, n_restarts=1, multi_targeted=True),
            ta.Square(module, eps=eps, n_queries=queries)])(x, y)

    return {"FGSM": make(ta.FGSM, eps=eps), "PGD-40": make(ta.PGD, eps=eps, alpha=eps / 10, steps=40),
            "APGD-100": make(ta.APGD, eps=eps, steps=100, n_restarts=1), "DeepFool": make(ta.DeepFool, steps=50),
            "C&W 4x50": make(ta.CW, c=1, lr=1e-2, steps=200), "Square": make(ta.Square, eps=eps, n_queries=queries),
            "AutoAttack 2": two_classes, "AutoAttack 3": many_classes, "AutoAttack 7": many_classes}


def adv_lib(eps: float, steps: int, queries: int) -> dict[str, Attack]:
    _stand_in("torchvision", models=None)
    _stand_in("visdom", Visdom=None)
    from adv_lib import attacks as al

    def make(attack: Callable, **fields) -> Attack:
        return lambda module, x, y: attack(module, x, y, **fields).detach()

    return {"PGD-40": make(al.pgd_linf, ε=eps, steps=40, absolute_step_size=eps / 10),
            "APGD-100": make(al.apgd, eps=eps, norm=float("inf"), loss_function="ce"),
            "DeepFool": make(al.df, steps=50), "C&W 4x50": make(al.carlini_wagner_l2, **CW, max_iterations=50)}


def foolbox(eps: float, steps: int, queries: int) -> dict[str, Attack]:
    import foolbox as fb

    def make(attack: object, bound: float | None) -> Attack:
        return lambda module, x, y: attack(fb.PyTorchModel(module, (0, 1), device=x.device), x, y, epsilons=bound)[1]

    return {"FGSM": make(fb.attacks.LinfFastGradientAttack(), eps),
            "PGD-40": make(fb.attacks.LinfPGD(abs_stepsize=eps / 10, steps=40), eps),
            "DeepFool": make(fb.attacks.L2DeepFoolAttack(steps=50), None),
            "C&W 4x50": make(fb.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=50, stepsize=1e-2,
                                                              initial_const=0.1), None)}


def art(eps: float, steps: int, queries: int) -> dict[str, Attack]:
    from art.attacks import evasion as ev
    from art.estimators.classification import PyTorchClassifier

    def make(attack: type, **fields) -> Attack:
        def run(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            wrapped = PyTorchClassifier(module, nn.CrossEntropyLoss(), tuple(x.shape[1:]), module(x[:1]).shape[1],
                                        clip_values=(0.0, 1.0), device_type="cpu")
            made = attack(wrapped, batch_size=len(x), **fields)
            return torch.from_numpy(made.generate(x.numpy(), y.numpy()))

        return run

    def auto(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Its AutoAttack with this number of steps and queries; its own parts for two classes, where it has no DLR."""
        classes = module(x[:1]).shape[1]
        wrapped = PyTorchClassifier(module, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, clip_values=(0.0, 1.0),
                                    device_type="cpu")
        climbs = [ev.AutoProjectedGradientDescent(wrapped, **strides, max_iter=steps, nb_random_init=1, loss_type=loss,
                                                  batch_size=len(x), **quiet)
                  for loss in ("cross_entropy", "difference_logits_ratio")[:1 if classes == 2 else 2]]
        parts = [*climbs, ev.DeepFool(wrapped, max_iter=50, epsilon=0.02, batch_size=len(x), **quiet),
                 ev.SquareAttack(wrapped, eps=eps, max_iter=queries, batch_size=len(x), **quiet)]
        made = ev.AutoAttack(wrapped, **strides, attacks=parts, batch_size=len(x))
        return torch.from_numpy(made.generate(x.numpy(), y.numpy()))

    quiet, strides = {"verbose": False}, {"eps": eps, "eps_step": 2 * eps}
    return {"FGSM": make(ev.FastGradientMethod, eps=eps, eps_step=eps),
            "PGD-40": make(ev.ProjectedGradientDescent, eps=eps, eps_step=eps / 10, max_iter=40, num_random_init=1,
                           **quiet),
            "APGD-100": make(ev.AutoProjectedGradientDescent, **strides, max_iter=100, nb_random_init=1,
                             loss_type="cross_entropy", **quiet),
            "DeepFool": make(ev.DeepFool, max_iter=50, epsilon=0.02, **quiet),
            "C&W 4x50": make(ev.CarliniL2Method, **CW, max_iter=50, **quiet),
            "Square": make(ev.SquareAttack, eps=eps, max_iter=queries, **quiet),
            **{f"AutoAttack {k}": auto for k in (2, 3, 7)}}


def autoattack(eps: float, steps: int, queries: int) -> dict[str, Attack]:
    """The authors' code, from the index as pyautoattack."""
    from pyautoattack import AutoAttack

    def make(*attacks: str) -> Attack:
        def run(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            made = AutoAttack(module, norm="Linf", eps=eps, seed=0, version="custom", attacks=list(attacks))
            made.apgd.n_restarts = made.fab.n_restarts = 1
            made.square.n_queries, made.square.rescale_schedule = queries, True
            made.apgd_targeted.n_restarts = 1
            made.apgd_targeted.n_target_classes = made.fab.n_target_classes = module(x[:1]).shape[1] - 1
            return made.run_standard_evaluation(x, y, batch_size=len(x))[0]

        return run

    return {"APGD-100": make("apgd-ce"), "Square": make("square"), "AutoAttack 2": make("apgd-ce", "fab", "square"),
            **{f"AutoAttack {k}": make("apgd-ce", "apgd-t", "fab-t", "square") for k in (3, 7)}}


PEERS = {"torchattacks": torchattacks, "adv-lib": adv_lib, "foolbox": foolbox, "ART": art, "AutoAttack": autoattack}


def _stand_in(name: str, **members: object) -> None:
    """An empty module in place of an optional dependency that no attack here uses."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = module = types.ModuleType(name)
        vars(module).update(members, __spec__=ModuleSpec(name, None))
