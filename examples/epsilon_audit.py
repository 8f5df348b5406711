"""A privacy budget audited: a DP-SGD that keeps its promise beside two that say the same and break it.

Threat: membership inference that differential privacy rules out on paper. An epsilon is a claim about code, and code
has bugs: one training forgets to clip, one adds a thirtieth of the noise. Two accountants confirm both, as they see
parameters only. The audit trains once more with mislabeled images of noise, each by a coin, and guesses the coins.
Another audit trains many times with and without one such image, and assumes the least of what it sees.

Run: python examples/epsilon_audit.py [DATASET]
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from common import console, load_data, percent, show
from torch import nn

from privacy.canaries import OneRunAudit
from privacy.many_runs import ManyRunsAudit
from suite.base.info import Info
from suite.defenses.plain import Plain
from suite.defenses.private.dpsgd import DPSGD
from suite.results.metrics import proportion
from suite.training.loop import TorchRecipe


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
patient = ManyRunsAudit(runs=64, source="random")
train, val = data.train.take(slice(300)), data.val.take(slice(100))
terms = {"epsilon": 1.0, "delta": 1e-5, "epochs": 60, "batch": 300, "max_grad_norm": 0.1}
broken = {"never clips": Unclipped(**terms), "noise / 30": Quiet(**terms)}
rows, often, caught = [], [], []
for name, defense in ({"no privacy": Plain(), "DP-SGD": DPSGD(**terms)} | broken).items():
    def retrain(split, seed, defense=defense):
        return defense(recipe, split, val, seed)

    reference = retrain(train, 0)
    found, many = (a(retrain, reference, train, data.test, seed=0) for a in (audit, patient))
    claims = [found.model.notes.get(f"epsilon_{who}", math.inf) for who in ("claimed", "independent")]
    caught += [name] * (max(found.epsilon, many.epsilon) > claims[0])
    rows.append([name, *[f"{e:.2f}" for e in (*claims, found.epsilon, found.epsilon_gdp)],
                 percent(proportion(found.right, found.made))])
    often.append([name, *[f"{e:.2f}" for e in (many.epsilon, many.epsilon_gdp)],
                  percent(proportion(many.right, many.made))])
show("Epsilon: claimed and checked (at most), audited (at least, 95% sure)",
     ["Training", "Claimed", "Checked", "Audited", "If Gaussian", "Right guesses"], rows)
show(f"Audited by {patient.runs} trainings, half of them with one canary (at least, 95% sure)",
     ["Training", "Audited", "If Gaussian", "Right guesses"], often)
console.print(f"{len(found.inside)} canaries in one training, or one canary in many, refute what is claimed for: "
              f"{', '.join(caught) or 'none'}. What is not refuted is not proved.")
