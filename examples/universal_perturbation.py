"""A universal perturbation: one pattern, made once, that turns the model's answer around for patients yet to come.

Threat: someone who can alter the way from the scanner to the model (a driver, a gateway) adds the same faint pattern to
every image. The attacker makes it from images of his own, with the model's gradients (white box), for all to be called
healthy or all to be called ill; the test images are none of these. Noise of the same size stands beside it.

Run: python examples/universal_perturbation.py [DATASET]
"""

import numpy as np
import torch
from common import console, load_data, percent, show

from imaging.models.models import ResNetSmall
from suite.attacks.universal import UniversalGradient
from suite.results.metrics import paired, proportion

OWN = 150  # images that the attacker has
MAIN = 0.04  # 10 of 255 grey levels

data = load_data("pneumoniamnist", "chest-phantom")
order = np.random.default_rng(0)
train, own, test = (split.take(order.permutation(len(split))[:n])
                    for split, n in ((data.train, 1500), (data.val, OWN), (data.test, 300)))
model = ResNetSmall(epochs=8).fit(train, data.val, seed=0)
(x, y), (mine, labels) = ((torch.from_numpy(s.x), torch.from_numpy(s.y)) for s in (test, own))


def turned(images, target) -> np.ndarray:
    """(n,) bool, of the test images that are not of the target class: whether they are called so."""
    return (model.judge(images) == target)[y != target].numpy()


rows, kept = [], {}
for eps in (0.02, MAIN, 0.06):
    for target, name in enumerate(data.classes):
        attack = UniversalGradient(eps=eps, target=target)
        signs = torch.rand(x[0].shape, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
        before = turned(x, target)
        noise, pattern = (turned(attack.apply(model, x, v), target)
                          for v in (eps * signs, attack.craft(model, mine, labels, seed=0)))
        shares = (percent(proportion(hit)) for hit in (before, noise, pattern))
        rows.append([f"{255 * eps:.0f} levels, all {name}", *shares])
        if eps == MAIN:
            kept[name] = paired(pattern, noise)
show(f"Called so wrongly: {len(test)} test images, one pattern from {OWN} others",
     ["Allowed, and wanted", "Unchanged", "Noise", "Pattern"], rows)
for name, gain in kept.items():
    sure = "skill, not noise" if gain.low > 0 else "no more than noise does"
    console.print(f"Within {255 * MAIN:.0f} grey levels the pattern calls {percent(gain)} more of the others {name} "
                  f"than noise: {sure}.")
