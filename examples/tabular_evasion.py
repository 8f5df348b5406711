"""Evasion: small changes to a patient's measurements turn the model's answer around.

Threat: someone who can nudge laboratory values (a hostile device, a falsified record) makes a diagnosis wrong. The
attacker has the model with its gradients (white box). Every adversarial row is a possible patient: whole numbers stay
whole, ranges hold, and age, pregnancies and pedigree cannot change.

Run: python examples/tabular_evasion.py [DATASET]
"""

import numpy as np
import torch
from common import console, load_data, percent, show

from suite.attacks.apgd import APGD
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.noise import RandomNoise
from suite.results.metrics import paired, proportion
from tabular.models import MLP

EPS = 0.05  # of each column's plausible range

data = load_data()
model = MLP().fit(data.train, data.val, seed=0)
x, y = torch.from_numpy(data.test.x), torch.from_numpy(data.test.y)


def survives(attack) -> np.ndarray:
    """(n,) bool: whether the model is still right about each patient."""
    adversarial = attack(model, x, y, seed=0)
    assert model.space.contains(adversarial, x).all(), "each adversarial row is a possible patient"
    return model.predict(adversarial.numpy()) == data.test.y


clean = model.predict(data.test.x) == data.test.y
rows = [["none", *[percent(proportion(clean))] * 3]]
for eps in (0.01, 0.02, EPS, 0.1):
    noise, fgsm = survives(RandomNoise(eps=eps)), survives(FGSM(eps=eps))
    worst = survives(PGD(eps=eps, restarts=3)) & survives(APGD(eps=eps)) & fgsm  # whatever suits each patient best
    rows.append([f"{eps:.0%} of range", *(percent(proportion(kept)) for kept in (noise, fgsm, worst))])
    if eps == EPS:
        main = noise, worst
show(f"Accuracy of an MLP on {len(data.test)} test patients under attack",
     ["Change allowed", "Random (10 draws)", "FGSM (1 step)", "Worst of 3 attacks"], rows)

noise, worst = main
limits = ", ".join(f"{column} {change}" for column, change in model.space.describe(EPS).items())
lost, luck, skill = paired(clean, worst), paired(clean, noise), paired(noise, worst)
console.print(f"{EPS:.0%} means {limits}. Within it, attacks cost {percent(lost)} of all patients their right answer, "
              f"and the worst of ten random changes costs {percent(luck)}: "
              + ("the difference is the attacker's skill." if skill.low > 0 else "so little takes no skill."))
