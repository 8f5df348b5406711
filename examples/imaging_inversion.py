"""Inversion of an image classifier: what a typical image of each class looks like, seen through the network.

Threat: the network gives away what its training images were like. The attacker has its gradients (white box) and the
mean of all images, where the search starts; a prior keeps the images smooth and near to the start. A reconstruction
tells something only if it is more like the class than that start is: by structural similarity (SSIM) to the mean of the
class, and by another network, which learned from other patients. Images of patients are compared with, never shown.

Run: python examples/imaging_inversion.py [DATASET]
"""

import numpy as np
from common import console, decimal, load_data, percent, show

from imaging.models.models import SimpleCNN
from privacy.inversion import MIFace, PriorInversion
from suite.evaluate.privacy import closeness, likeness
from suite.results.metrics import Estimate, bootstrap, proportion

data = load_data("pneumoniamnist", "chest-phantom")
few = np.random.default_rng(0).permutation(len(data.train))[:1500]
train, start = data.train.take(few), data.train.x.mean(0)
model = SimpleCNN(epochs=8).fit(train, data.val, seed=0)
other = SimpleCNN(epochs=8).fit(data.test, data.val, seed=1)

average = np.stack([start] * len(data.classes))
found = {"mean of all": average, "MIFace": MIFace(max_iter=100)(model, start)}
found |= {f"TV {tv:g}, prior {prior:g}": PriorInversion(tv=tv, prior=prior)(model, start)
          for tv, prior in ((0, 0), (1, 100), (3, 30))}


def similar(x: np.ndarray, k: int) -> Estimate:
    """SSIM to the mean of a class, over resamples of the images that it is the mean of."""
    return bootstrap(lambda index: float(likeness(x, train.take(index))["ssim_mean"][k]), len(train), strata=train.y,
                     resamples=30, least=-1.0)


rows, best = [], {}
for k, label in enumerate(data.classes):
    for name, x in found.items():
        ssim = similar(x, k)
        rows.append([f"{label}: {name}", f"{model.predict_proba(x)[k, k]:.2f}", f"{other.predict_proba(x)[k, k]:.2f}",
                     f"{closeness(x, train)['distance'][k]:.3f}", decimal(ssim)])
        best[label, name] = ssim
show("Reconstructions (TV, prior: weights of the own inversion)",
     ["Class, from", "Model", "Other", "Distance", "SSIM to the mean"], rows)
right = proportion(other.predict(train.x) == train.y)
more = [key for key, ssim in best.items() if ssim.low > best[key[0], "mean of all"].high]
console.print(f"The other network is right about {percent(right)} of the first one's images. Of "
              f"{len(best) - len(data.classes)} reconstructions, {len(more)} look surely more like the mean of their "
              "class than the mean of all does.")
