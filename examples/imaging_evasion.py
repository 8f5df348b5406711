"""Evasion: a chest X-ray is changed by a few grey levels, and the network's diagnosis turns around.

Threat: someone between the scanner and the model changes images. With the model's gradients (white box) a change that
no reader sees is enough; with its scores alone it takes hundreds of questions an image; light and posture do some of it
by themselves. SSIM says how alike an attacked image and its original look: 1 is equal.

Run: python examples/imaging_evasion.py [DATASET]
"""

import numpy as np
import torch
from common import console, load_data, percent, show

from imaging.attacks.autoattack import AutoAttack
from imaging.attacks.biasfield import BiasField
from imaging.attacks.spatial import RotationTranslation
from imaging.attacks.square import Square
from imaging.models.models import ResNetSmall
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.minimal import DeepFool
from suite.attacks.noise import RandomNoise
from suite.evaluate.evasion import fools
from suite.results.metrics import paired, proportion

EPS = 4 / 255  # each pixel by at most 4 of 255 grey levels

data = load_data("pneumoniamnist", "chest-phantom")
train, val, test = data.train.take(slice(0, 1500)), data.val.take(slice(0, 400)), data.test.take(slice(0, 200))
model = ResNetSmall(epochs=6).fit(train, val, seed=0)
x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)

attacks = {
    "Random noise (10 draws)": RandomNoise(eps=EPS), "FGSM (1 step)": FGSM(eps=EPS), "PGD (40 steps)": PGD(eps=EPS),
    "AutoAttack": AutoAttack(eps=EPS, queries=300), "Square (300 questions)": Square(eps=EPS, queries=300),
    "DeepFool (L2 of 0.5)": DeepFool(eps=0.5), "Rotation up to 20 degrees": RotationTranslation(eps=20.0),
    "Bias field (gain up to 1.35)": BiasField(eps=0.3)}
clean = model.judge(x).eq(y).numpy()
rows, kept = [["none", percent(proportion(clean)), "", ""]], {}
for name, attack in attacks.items():
    model.queries = 0
    found = attack(model, x, y, seed=0)
    asked, hit = model.queries / len(y), fools(model, found, y)
    kept[name] = ~hit & clean
    seen = model.space.visibility(x[hit & clean], found[hit & clean])["ssim"] if (hit & clean).any() else None
    rows.append([name, percent(proportion(kept[name])), "" if seen is None else f"{seen.median():.3f}", f"{asked:.0f}"])
show(f"Accuracy on {len(y)} test images; Linf attacks within 4 of 255 grey levels",
     ["Attack", "Accuracy", "SSIM", "Passes"], rows)

worst = np.all([kept[name] for name in list(attacks)[1:5]], axis=0)
skill = paired(kept["Random noise (10 draws)"], worst)
console.print(f"Within 4 grey levels an attacker takes {percent(paired(clean, worst))} of all images from the model, "
              f"{percent(skill)} more than\nthe worst of ten random changes does.")
