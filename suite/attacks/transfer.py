"""Transfer: the attacker has no access to the model at all, and attacks a look-alike of his own instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from suite.attacks.gradient import MIFGSM, PGD
from suite.base import registry
from suite.base.bounds import Count, Label, Positive
from suite.base.errors import InputError
from suite.base.info import Info
from suite.core.attack import EvasionAttack
from suite.core.classifier import TorchClassifier
from suite.core.data import Dataset
from suite.core.recipe import Recipe
from suite.core.space import Lp
from suite.training.loop import TorchRecipe

_HELD_OUT = 0.2
"""Share of the attacker's own rows on which the training of the surrogate is stopped."""
FEWEST = 10
"""Rows of the attacker's own, at least."""


@dataclass(frozen=True)
class Transfer(EvasionAttack):
    """No-box transfer (Bortsova et al. 2020, arXiv 2006.06356): craft on a surrogate, and hope that others fall, too.

    An audit has `surrogate_of` train the surrogate and calls the attack with it: the `classifier` that it is called
    with is the attacker's own, and what it returns is meant for another one.

    Attributes:
        target: Label to reach; `None` for any wrong one.
        norm: "linf" or "l2".
        surrogate: Registered name of the surrogate's model; None for that of the model under attack.
        data: What it learns from: the training rows of the model under attack ("same"), or the validation rows, other
            patients of the same source ("other").
        reseed: Train it from another initialisation than the model under attack.
        craft: The attack on the surrogate.
        steps: Its steps. All of them are taken, however early the surrogate is fooled.
    """

    info: ClassVar[Info] = Info(
        "No-box transfer", "Bortsova, Gonzalez-Gonzalo, Wetstein et al. 2020, arXiv 2006.06356", "no-box",
        ("transfer",), "1 training and `steps` forward and input-gradient passes of the surrogate; no query",
        "surrogates pre-trained on ImageNet need a download, and are left out", strong=True, strong_from=("steps", 10))
    eps: Positive = 0.02
    target: Label | None = None
    norm: Lp = "linf"
    surrogate: str | None = None
    data: Literal["same", "other"] = "other"
    reseed: bool = True
    craft: Literal["pgd", "mi-fgsm"] = "mi-fgsm"
    steps: Count = 20

    def meets(self, recipe: Recipe) -> bool:
        return self.surrogate is not None or isinstance(recipe, TorchRecipe)

    def surrogate_of(self, recipe: Recipe, data: Dataset, seed: int = 0, device: str = "cpu") -> TorchClassifier:
        """Train the surrogate, without any defense.

        Args:
            recipe: Of the model under attack.
            data: Its dataset; the test rows are not touched.
            seed: That of the model under attack.
            device: Where to train.

        Raises:
            InputError: The surrogate would be no network, and gives no gradients; or there are too few rows.
        """
        own = recipe if self.surrogate is None else registry.make("models", self.surrogate)
        if not isinstance(own, TorchRecipe):
            raise InputError(f"transfer: {self.surrogate or type(own).__name__} is no network that can be trained, and "
                             "gives no gradients; name one as `surrogate`")
        train, val = data.train, data.val
        if self.data == "other":
            if len(val) < FEWEST:
                raise InputError(f"transfer: {len(val)} validation rows are too few for a surrogate to learn from (at "
                                 f"least {FEWEST}); data = \"same\" takes the training rows")
            order = np.random.default_rng(seed).permutation(len(val))
            held = round(_HELD_OUT * len(val))
            train, val = val.take(np.sort(order[held:])), val.take(np.sort(order[:held]))
        return own.fit(train, val, seed + self.reseed, device)

    def __call__(self, classifier: TorchClassifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        make = PGD if self.craft == "pgd" else MIFGSM
        attack = make(eps=self.eps, target=self.target, norm=self.norm, early_stop=False, steps=self.steps)
        # the surrogate may be a network on a GPU where the model is a forest on the CPU
        return attack(classifier, x.to(classifier.device), y.to(classifier.device), seed).to(x.device)
