"""The gradient attacks, and what tests ask of their results."""

import torch

from suite.attacks.apgd import APGD
from suite.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from suite.attacks.minimal import CarliniWagnerL2, DeepFool
from suite.attacks.noise import RandomNoise
from suite.core.classifier import margin

FIXED = [FGSM(), FGSM(norm="l2"), BIM(), BIM(norm="l2"), PGD(), PGD(norm="l2"), MIFGSM(), MIFGSM(norm="l2"), APGD(),
         APGD(norm="l2"), APGD(loss="margin"), RandomNoise(), RandomNoise(norm="l2")]
MINIMAL = [DeepFool(), CarliniWagnerL2(steps=40, search=4)]
ALL = FIXED + MINIMAL


def name(attack):
    return f"{type(attack).__name__}-{attack.norm}"


def with_(attack, **fields):
    return type(attack)(**{**vars(attack), **fields})


def fooled(classifier, x, y):
    with torch.no_grad():
        return margin(classifier.module(x), y, len(classifier.classes_)) < 0


def exact_distance(classifier, x, norm):
    """Distance of each row to the boundary of a linear classifier of two labels, in units of scale."""
    weight = (classifier.module.weight[1] - classifier.module.weight[0]).detach() * classifier.space.scale
    with torch.no_grad():
        gap = classifier.module(x).diff(dim=1).abs()[:, 0]
    return gap / (weight.abs().sum() if norm == "linf" else weight.norm())
