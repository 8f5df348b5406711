"""Gradient inversion on images: the server of a federation rebuilds X-rays from what their hospital sent.

Threat: images never leave the hospital, updates do. A server that keeps to the protocol and is curious knows the model
it sent out and the update that came back, has public images of the same kind, and looks for images whose training gives
this update. The yardstick is the mean of the public images, which is like all of them and tells nothing of one.
A picture of both is written to runs/gradient_inversion.png.

Run: python examples/imaging_gradient_inversion.py [DATASET]
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import console, decimal, load_data, show
from PIL import Image

from federated.attacks.gradient_inversion import InvertingGradients
from federated.evaluate.rebuilt import baselines, matched
from federated.task.local import seen
from federated.task.task import Task
from imaging.models.models import SimpleCNN
from suite.results.metrics import bootstrap

IMAGES = 4
data = load_data("pneumoniamnist", "chest-phantom")
every = -(-data.train.x.shape[2] // 32)  # pixel of larger images
train, public = (part.with_data(part.x[:, :, ::every, ::every], part.y) for part in (data.train, data.val))
step = Task(SimpleCNN(widths=(64, 128, 128), modality="none"), train.x.shape[1:], data.classes, data.space, batch=64)
attack, order = InvertingGradients(iterations=200), np.random.default_rng(0).permutation(len(train))


def noised(update):
    """With noise of a tenth of the update's length in each number."""
    noise = np.random.default_rng(1).standard_normal(len(update))
    return (update + 0.1 * np.linalg.norm(update) * noise).astype(np.float32)


def rebuilt(task, rows, sent=lambda update: update):
    """True and rebuilt images of hospitals with so many images each, IMAGES in all."""
    found, truth = [], train.x[order[:max(IMAGES, rows)]]
    for k in range(len(truth) // rows):
        own, came = train.take(order[k * rows:(k + 1) * rows]), task.initial()
        x = attack(task, came, sent(seen(task, came, own, k, 1)), rows, own.y, seed=k, public=public.x)
        found.append(x[matched(x, own.x, data.space).order])
    return truth, np.concatenate(found)


ways = {"1 image": (step, 1), "4 images": (step, 4), "8 images": (step, 8),
        "1 image, 4 epochs": (replace(step, epochs=4), 1), "1 image, noised": (step, 1, noised)}
found = {way: rebuilt(*how) for way, how in ways.items()}
truth = found["1 image"][0]
found["mean of public images"] = truth, baselines(public, len(truth))["mean"]
lines, likeness = [], {}
for way, (real, x) in found.items():
    like = matched(x, real, data.space).visible
    likeness[way] = bootstrap(lambda i, s=like["ssim"]: float(s[i].mean()), len(real), least=-1.0)
    lines.append([way, f"{like['psnr'].mean():.1f}", decimal(likeness[way]), str(len(real))])
show("Rebuilt from the update of a hospital that has", ["", "PSNR in dB", "SSIM", "n"], lines)

lines = [np.concatenate([*data.space.pictures(torch.from_numpy(line[:IMAGES]))], 1)
         for line in (truth, *(x for _, x in found.values()))]
file = Path("runs/gradient_inversion.png")
file.parent.mkdir(exist_ok=True)
Image.fromarray(np.concatenate(lines).repeat(3, 0).repeat(3, 1)).save(file)
console.print(f"{file}, from above: the truth, then each line of the table. To the truth, an image rebuilt from a step "
              f"of its own has an SSIM of {decimal(likeness['1 image'])}, one of 8 {decimal(likeness['8 images'])}, "
              f"the mean of public images, which needs no update, {decimal(likeness['mean of public images'])}.")
