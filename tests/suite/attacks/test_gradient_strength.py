"""Gradient attacks against each other, with more effort, and against an independent library."""

import pytest
import torch
from torch import nn

from suite.attacks.apgd import APGD, _checkpoints
from suite.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from suite.attacks.minimal import DeepFool
from suite.attacks.noise import RandomNoise
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier, margin
from suite.core.space import Space
from tests.support.attacks import FIXED, fooled, name, with_
from tests.support.models import linear, moons, rows


@pytest.mark.parametrize("attack", FIXED, ids=name)
def test_a_larger_budget_is_not_weaker(attack):
    classifier, x, y = moons()
    hits = [int(fooled(classifier, with_(attack, eps=eps)(classifier, x, y), y).sum()) for eps in (0.02, 0.06, 0.12)]
    assert hits == sorted(hits) and hits[0] < hits[2]


@pytest.mark.parametrize(("weaker", "stronger"), [
    (RandomNoise(), PGD()), (RandomNoise(norm="l2"), PGD(norm="l2")), (FGSM(), PGD()), (BIM(steps=2), BIM(steps=10)),
    (PGD(steps=3), PGD(steps=3, restarts=6)), (RandomNoise(draws=1), RandomNoise(draws=50))],
    ids=lambda v: name(v))
def test_the_stronger_attack_is_not_weaker(weaker, stronger):
    classifier, x, y = moons()
    low, high = (int(fooled(classifier, with_(a, eps=0.05)(classifier, x, y), y).sum()) for a in (weaker, stronger))
    assert low <= high


def test_noise_is_clearly_weaker_than_pgd_in_many_dimensions():
    classifier = linear(200)
    x, y = rows(classifier, 100, (200,))
    noise = fooled(classifier, RandomNoise(eps=0.05, draws=20)(classifier, x, y), y).sum()
    pgd = fooled(classifier, PGD(eps=0.05)(classifier, x, y), y).sum()
    assert noise < pgd / 2


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_apgd_is_about_as_strong_as_pgd(loss):
    classifier, x, y = moons()
    for eps in (0.03, 0.06, 0.1):
        pgd = fooled(classifier, PGD(eps=eps)(classifier, x, y), y).sum()
        assert fooled(classifier, APGD(eps=eps, loss=loss)(classifier, x, y), y).sum() >= pgd - 2


def test_apgd_checkpoints_are_those_of_the_paper():
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_full_strength_goes_further_than_early_stop():
    classifier, x, y = moons()
    with torch.no_grad():
        early, full = (margin(classifier.module(PGD(eps=0.1, early_stop=stop)(classifier, x, y)), y, 2)
                       for stop in (True, False))
    assert torch.equal(early < 0, full < 0)
    assert (full <= early + 1e-5).all() and full.mean() < early.mean() - 1


# --- an independent library ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def art():
    evasion = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    classifier, x, y = moons()
    wrapped = PyTorchClassifier(classifier.module, nn.CrossEntropyLoss(), (2,), 2, clip_values=(0.0, 1.0),
                                device_type="cpu")
    return evasion, wrapped, classifier, x, y


def test_pgd_is_as_strong_as_art(art):
    evasion, wrapped, classifier, x, y = art
    for eps in (0.03, 0.06, 0.1):
        with seeded(0):
            theirs = evasion.ProjectedGradientDescent(wrapped, eps=eps, eps_step=eps / 10, max_iter=40, verbose=False,
                                                      num_random_init=1).generate(x.numpy(), y.numpy())
        robust = (~fooled(classifier, torch.from_numpy(theirs), y)).float().mean()
        # either moves by 1 to 3 rows of 200 with the random start
        assert (~fooled(classifier, PGD(eps=eps)(classifier, x, y), y)).float().mean() <= robust + 0.02


def test_deepfool_goes_no_further_than_art(art):
    evasion, wrapped, classifier, x, y = art
    theirs = torch.from_numpy(evasion.DeepFool(wrapped, max_iter=50, epsilon=0.02, verbose=False).generate(x.numpy()))
    ours = DeepFool()(classifier, x, y)
    right = ~fooled(classifier, x, y)
    # a row on the boundary may fall to either side with the rounding of another processor
    assert fooled(classifier, ours, y)[right].sum() >= fooled(classifier, theirs, y)[right].sum() - 2
    both = right & fooled(classifier, theirs, y) & fooled(classifier, ours, y)
    assert both.sum() > 150
    assert (ours - x)[both].norm(dim=1).median() <= 1.02 * (theirs - x)[both].norm(dim=1).median()


class Hill(nn.Module):
    """The second class is likeliest at 0.5, and never likelier than the first; remembers where it was queried."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen += [round(v, 4) for v in x.detach()[:, 0].tolist()]
        return torch.cat([torch.zeros_like(x), -5 - (x - 0.5) ** 2], 1)


@pytest.mark.parametrize(("attack", "path"), [
    (BIM, [0, 0.4, 0.8, 0.4, 0.8, 0.4]),
    (MIFGSM, [0, 0.4, 0.8, 1, 1, 0.6]),  # the sum of the signs before each step: 1, 2, 1, 0, -1
], ids=["bim", "mi-fgsm"])
def test_momentum_by_hand(attack, path):
    hill = Hill()
    classifier = TorchClassifier(hill, 2, Space(0, 1), batch=1)
    x, y = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    attack(eps=1.0, steps=5, step=0.4, early_stop=False)(classifier, x, y)
    assert hill.seen == pytest.approx(path)
