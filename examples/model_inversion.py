"""Model inversion: reconstructing a typical patient of each class from the model alone.

Threat: the model gives away what its training patients were like. The attacker has the model with its gradients (white
box) and knows the average patient, where the search starts. This prior is also the yardstick: a reconstruction that is
no nearer to the typical patient of a class than the average patient has told the attacker nothing.

Run: python examples/model_inversion.py [DATASET]
"""

import numpy as np
from common import console, decimal, load_data, show

from privacy.inversion import MIFace
from suite.evaluate.privacy import closeness
from suite.results.metrics import Estimate, bootstrap
from tabular.models import MLP

STEPS = (3, 10, 30, 300)

data = load_data()
train = data.train
model = MLP().fit(train, data.val, seed=0)
average = train.x.mean(0)


def nearer(found: np.ndarray, k: int) -> Estimate:
    """How much nearer than the prior, over resamples of the patients that the typical one is the mean of."""
    def statistic(index: np.ndarray) -> float:
        now = closeness(found, train.take(index))
        return now["prior"][k] - now["distance"][k]

    return bootstrap(statistic, len(train), strata=train.y, resamples=300)


rebuilt = {steps: MIFace(max_iter=steps, rate=0.003)(model, average, seed=0) for steps in STEPS}
rows, gains = [], []
for k, label in enumerate(data.classes):
    for steps, found in rebuilt.items():
        away = closeness(found, train)
        gains.append(nearer(found, k))
        rows.append([f"{label}, {steps} steps", f"{model.predict_proba(found)[k, k]:.2f}", f"{away['distance'][k]:.3f}",
                     f"{away['prior'][k]:.3f}", decimal(gains[-1])])
show("Distance to the typical patient of a class (root mean square of columns)",
     ["Class, search", "Confidence", "Rebuilt", "Prior", "Nearer than prior by"], rows)

found = rebuilt[STEPS[1]]
typical = [train.x[train.y == k].mean(0) for k in range(len(data.classes))]
rows = [[name, *(f"{z[i]:.3g}" for pair in zip(typical, found, strict=True) for z in pair)]
        for i, name in enumerate(data.features)]
show(f"Typical patients, and their reconstructions after {STEPS[1]} steps",
     ["Column", *(heading for label in data.classes for heading in (label, "rebuilt"))], rows)
near, far = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
console.print(f"{near} of {len(gains)} reconstructions are surely nearer than the prior, {far} surely further away. "
              "The attacker sees the confidence only, and cannot tell which are which.")
