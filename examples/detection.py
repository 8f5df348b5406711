"""Detection: alarms for adversarial images, and what gets past them once the attacker knows the detector.

Threat: evasion by an attacker who has the model with its gradients (white box). A detector watches the inputs of the
model. It learned what clean images look like and raises an alarm for 5% of clean validation images. It is judged twice:
by attacks that do not know it, as is often reported, and by one that treats an alarm as a failure and climbs around it.

Run: python examples/detection.py [DATASET]
"""

import numpy as np
import torch
from common import console, decimal, load_data, percent, show

from imaging.detectors import FeatureSqueezing
from imaging.models.models import ResNetSmall
from suite.attacks.apgd import APGD
from suite.attacks.gradient import FGSM, PGD
from suite.detectors import KernelDensity, Mahalanobis
from suite.evaluate.detection import behind
from suite.evaluate.evasion import fools
from suite.results.metrics import proportion, resampled_auroc, weighted

EPS = 4 / 255  # each pixel by at most 4 of 255 grey levels

data = load_data("pneumoniamnist", "chest-phantom")
train, val, test = data.train.take(slice(0, 1500)), data.val.take(slice(0, 400)), data.test.take(slice(0, 200))
model = ResNetSmall(epochs=6).fit(train, val)
right = model.predict(test.x) == test.y
x, y = torch.from_numpy(test.x[right]), torch.from_numpy(test.y[right])
attacked = {name: attack(model, x, y) for name, attack in (("FGSM", FGSM(eps=EPS)), ("PGD", PGD(eps=EPS)))}
fooled = {name: fools(model, z, y) for name, z in attacked.items()}

rows, past = [], {}
for name, detector in (("Mahalanobis", Mahalanobis()), ("kernel density", KernelDensity()),
                       ("feature squeezing", FeatureSqueezing())):
    detector.fit(train.x, train.y, model)
    threshold, clean = detector.threshold(0.05, val.x), detector.score(test.x)
    for attack, z in attacked.items():
        found = detector.score(z[fooled[attack]].numpy())
        score, positive = np.concatenate([clean, found]), np.arange(len(clean) + len(found)) >= len(clean)
        rows.append([name, attack, decimal(weighted(resampled_auroc(score, positive), len(score), strata=positive)),
                     percent(proportion(found > threshold)), percent(proportion(clean > threshold))])
    spread = float(np.subtract(*np.quantile(clean, [0.75, 0.25])))
    guarded = behind(model, detector, threshold, spread)
    past[name] = proportion(fools(guarded, APGD(eps=EPS, steps=50, loss="margin")(guarded, x, y), y))
show(f"Images that an attack within 4/255 turned from right to wrong, of {len(y)}",
     ["Detector", "Attack", "AUROC", "Found", "False alarms"], rows)
console.print(f"Without a detector PGD fools the model on {percent(proportion(fooled['PGD']))}.")
for name, share in past.items():
    console.print(f"Knowing {name}, an attack fools it without an alarm on {percent(share)}.")
