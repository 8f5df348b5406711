"""No-box transfer: a model that nobody outside can reach is fooled through a look-alike.

Threat: someone who neither has the model nor can ask it attacks a surrogate of his own. What fools that may fool the
model, too, depending on what both share: patients, architecture, and where training started, at random or (here) from a
network that had learned to read synthetic chests.

Run: python examples/no_box_transfer.py [DATASET]
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from common import console, load_data, percent, show

from imaging.datasets.phantom import draw
from imaging.models.models import ResNetSmall, SimpleCNN
from suite.attacks.transfer import Transfer
from suite.results.metrics import proportion

EPS, EACH, EPOCHS = 0.02, 420, 5  # 5 of 255 grey levels; images to learn from
data = load_data("pneumoniamnist", "chest-phantom")
data = replace(data, train=data.train.take(np.random.default_rng(0).permutation(len(data.train))[:EACH]))
x, y = torch.from_numpy(data.test.x[::5]), torch.from_numpy(data.test.y[::5])
chests, labels, _ = draw(x.shape[-1], patients=EACH, each=1, seed=1)
lessons = replace(data.train, x=chests.repeat(1, x.shape[1], 1, 1).numpy(), y=labels.numpy(), subgroups={})


def warm(kind):
    """A recipe whose training starts from a network that has learned to read synthetic chests."""
    learned = []

    class Warm(kind):
        def network(self, inputs, classes):
            learned.append(copy.deepcopy(learned[0]) if learned else super().network(inputs, classes))
            return learned[-1]

    Warm(epochs=EPOCHS).fit(lessons, lessons, seed=9)  # trains learned[0]
    return Warm(epochs=EPOCHS)


rows, rates = [], {}
for start, make in (("random", lambda kind: kind(epochs=EPOCHS)), ("task", warm)):
    recipes = make(ResNetSmall), make(SimpleCNN)
    model = recipes[0].fit(data.train, data.val, seed=0)
    right = model.judge(x) == y
    for net, patients in (("same", "same"), ("same", "other"), ("other", "same"), ("other", "other")):
        attack = Transfer(eps=EPS, data=patients, steps=10)
        surrogate = attack.surrogate_of(recipes[net == "other"], data, seed=0)
        found = attack(surrogate, x[right], y[right], seed=0)
        there, here = ((m.judge(found) != y[right]).numpy() for m in (surrogate, model))
        rates[f"{start} start, {net} net, {patients} patients"] = here.mean()
        rows.append([f"{start:6} {net:5} {patients}", *(percent(proportion(p)) for p in (there, here, here[there])),
                     f"{model.space.visibility(found, x[right])['ssim'].mean():.3f}"])
show(f"Changes of {255 * EPS:.0f} of 255 grey levels, crafted on a surrogate",
     ["Start, net, patients", "Fools it", "Fools the model", "Of the first", "SSIM"], rows)
least, *_, most = sorted(rates, key=rates.get)
console.print(f"Fooled most ({rates[most]:.0%}) with {most}; least ({rates[least]:.0%}) with {least}.")
