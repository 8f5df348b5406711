"""Defensive distillation on images: a defense that blinds attacks instead of withstanding them.

Threat: evasion by an attacker who has the model with its gradients (white box). Distillation makes logits so large that
the cross-entropy of a softmax in float32 has no gradient left: attacks that follow it, as most libraries do, report a
robust model. An attack on the logits does not care.

Run: python examples/imaging_distillation.py [DATASET]
"""

import torch
import torch.nn.functional as F
from common import console, load_data, percent, show

from imaging.models.models import SimpleCNN
from suite.attacks.ascent import ascend, uniform
from suite.attacks.gradient import PGD
from suite.base.seeding import torch_generator
from suite.defenses.plain import Plain
from suite.defenses.robust.distillation import Distillation
from suite.evaluate.evasion import fools
from suite.results.metrics import paired, proportion

EPS = 4 / 255  # each pixel by at most 4 of 255 grey levels

data = load_data("pneumoniamnist", "chest-phantom")
train, val, test = data.train.take(slice(0, 1500)), data.val.take(slice(0, 400)), data.test.take(slice(0, 300))
x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)


def textbook_pgd(model) -> torch.Tensor:
    """PGD on the cross-entropy of probabilities, as a library would do it that is handed a softmax."""
    box = model.space.ball(x, EPS)

    def gradient(z: torch.Tensor) -> torch.Tensor:
        return model.gradient(z, lambda logits: F.nll_loss((logits.softmax(1) + 1e-30).log(), y, reduction="none"))[2]

    with model.frozen():
        return ascend(gradient, uniform(box, torch_generator(0)), box, EPS / 10, 40)


rows, kept = [], {}
for name, defense in (("none", Plain()), ("distilled at 100", Distillation(temperature=100.0))):
    model = defense(SimpleCNN(epochs=10), train, val, seed=0)
    clean = (model.judge(x) == y).numpy()
    kept[name] = [~fools(model, z, y) & clean for z in (textbook_pgd(model), PGD(eps=EPS)(model, x, y, seed=0))]
    rows.append([name, f"{model.scores(x).diff(dim=1).abs().median():.0f}",
                 *(percent(proportion(p)) for p in (clean, *kept[name]))])
show(f"A small CNN on {len(test)} test images, PGD-40 within 4 of 255 grey levels",
     ["Defense", "Logit gap", "Accuracy", "PGD on softmax", "PGD on logits"], rows)
seems, is_ = (paired(a, b) for a, b in zip(kept["distilled at 100"], kept["none"], strict=True))
console.print(f"Distillation seems to buy {percent(seems)} of accuracy under attack; attacked on its logits it buys "
              f"{percent(is_)}.")
