"""Defensive distillation: a defense that hides the gradient and not the weakness.

Threat: evasion by an attacker who has the model (white box). A network distilled at temperature T has logits about T
times as large, so that the softmax saturates, and the gradient of the cross-entropy is exactly zero in float32. The
textbook attack then stands still and the model looks robust; an attack on the logits does not notice the defense.

Run: python examples/distillation.py [DATASET]
"""

import torch
import torch.nn.functional as F
from common import console, load_data, percent, show

from suite.attacks.gradient import PGD
from suite.defenses.plain import Plain
from suite.defenses.robust.distillation import Distillation
from suite.results.metrics import paired, proportion
from tabular.models import MLP

EPS = 0.2  # of each column's plausible range: so far that whoever sees the gradient fools nearly everyone

data = load_data()
test = data.test
x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)


def slope(model, z: torch.Tensor) -> torch.Tensor:
    """(n, columns) gradient of the cross-entropy, as many libraries follow it."""
    return model.gradient(z, lambda logits: F.cross_entropy(logits, y, reduction="none"))[2]


def textbook_pgd(model) -> torch.Tensor:
    reach, z = model.space.reach(x, EPS), x
    for _ in range(20):
        z = z + 0.1 * EPS * model.space.scale * slope(model, reach.snap(z)).sign()
        z = z.clamp(reach.lower, reach.upper)
    return reach.snap(z)


rows, blind, seeing = [], {}, {}
for name, defense in (("none", Plain()), ("T = 20", Distillation(temperature=20)),
                      ("T = 100", Distillation(temperature=100))):
    model = defense(MLP(), data.train, data.val, seed=0)
    gone = slope(model, x).abs().amax(1).numpy() == 0
    blind[name] = model.predict(textbook_pgd(model).numpy()) == test.y
    seeing[name] = model.predict(PGD(eps=EPS, restarts=3)(model, x, y, seed=0).numpy()) == test.y
    rows.append([name, *(percent(proportion(share)) for share in (
        model.predict(test.x) == test.y, gone, blind[name], seeing[name]))])
show(f"Accuracy of an MLP under attack within {EPS:.0%} of each range",
     ["Distilled", "Clean", "Gradient zero", "Textbook PGD", "PGD on logits"], rows)

seeming, real = paired(blind["T = 100"], blind["none"]), paired(seeing["T = 100"], seeing["none"])
masked = paired(blind["T = 100"], seeing["T = 100"]).low > 0
console.print(f"Distillation at T = 100 seems to gain {percent(seeming)}, and gains {percent(real)} once the attack "
              f"climbs the logits: {'the difference is masking' if masked else 'no masking to be seen here'}.")
