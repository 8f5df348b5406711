"""A privacy budget audited: a DP-SGD that keeps its promise beside two that say the same and break it.

Threat: membership inference that differential privacy rules out on paper. An epsilon is a claim about code, and code
has bugs: one training forgets to clip, one adds a thirtieth of the noise. Two accountants confirm both, as they see
parameters only. The audit trains once more with mislabeled images of noise, each by a coin, and guesses the coins.

Run: python examples/epsilon_audit.py [DATASET]
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from common import console, load_data, percent, show
from torch import nn

from privacy.canaries import OneRunAudit
from suite.attack import Info
from suite.defenses.dpsgd import DPSGD
from suite.defenses.plain import Plain
from suite.metrics import proportion
from suite.recipe import TorchRecipe


@dataclass(frozen=True)
class OneLayer(TorchRecipe):
    info: ClassVar[Info] = Info("Logistic regression on pixels", "none")

    def network(self, inputs, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(inputs), classes))


class Unclipped(DPSGD):
    def _train(self, module, train, rate, steps, sigma, *rest):
        never = replace(self, max_grad_norm=1e6)  # the noise stays what it was
        DPSGD._train(never, module, train, rate, steps, sigma * self.max_grad_norm / 1e6, *rest)


class Quiet(DPSGD):
    def _train(self, module, train, rate, steps, sigma, *rest):
        super()._train(module, train, rate, steps, sigma / 30, *rest)


data, recipe, audit = load_data("pneumoniamnist", "chest-phantom"), OneLayer(), OneRunAudit(source="random")
train, val = data.train.take(slice(300)), data.val.take(slice(100))
terms = {"epsilon": 1.0, "delta": 1e-5, "epochs": 60, "batch": 300, "max_grad_norm": 0.1}
broken = {"never clips": Unclipped(**terms), "noise / 30": Quiet(**terms)}
rows, caught = [], []
for name, defense in ({"no privacy": Plain(), "DP-SGD": DPSGD(**terms)} | broken).items():
    reference = defense(recipe, train, val, seed=0)
    found = audit(lambda split, seed, d=defense: d(recipe, split, val, seed), reference, train, data.test, seed=0)
    claims = [found.model.notes.get(f"epsilon_{who}", math.inf) for who in ("claimed", "independent")]
    caught += [name] * (found.epsilon > claims[0])
    rows.append([name, *[f"{e:.2f}" for e in claims], f"{found.epsilon:.2f}", f"{found.epsilon_gdp:.2f}",
                 percent(proportion(found.right, found.made))])
show("Epsilon: claimed and checked (at most), audited (at least, 95% sure)",
     ["Training", "Claimed", "Checked", "Audited", "If Gaussian", "Right guesses"], rows)
console.print(f"{len(found.inside)} canaries refute what is claimed for: {', '.join(caught) or 'none'}. "
              "What is not refuted is not proved.")
