"""AutoAttack for any number of classes, against its members and a closed form."""

import pytest
import torch
from torch import nn

from imaging.attacks.autoattack import AutoAttack
from imaging.space import ImageSpace
from suite.attacks.apgd import APGD
from suite.base.errors import NotApplicable
from suite.base.seeding import seeded
from suite.core.classifier import EstimatorClassifier, TorchClassifier

QUICK = {"steps": 8, "rivals": 3, "queries": 20}


class OneLogit(nn.Module):
    """A sigmoid output as two logits."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        z = self.body(x)
        return torch.cat([torch.zeros_like(z), z], 1)


def grey(classes, module=None, n=24):
    """A network on 8 x 8 images of which it is unsure, and the labels it gives them."""
    with seeded(4):
        x = 0.2 + 0.6 * torch.rand(n, 1, 8, 8)
        if module is None:
            module = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, classes))
            with torch.no_grad():
                module[-1].bias.sub_(module(x).mean(0))
    classifier = TorchClassifier(module, classes, ImageSpace())
    return classifier, x, classifier.judge(x)


def fooled(classifier, x, y):
    return classifier.judge(x) != y


@pytest.mark.parametrize(("norm", "budgets"), [("linf", (0.005, 0.02, 0.1)), ("l2", (0.02, 0.1, 0.5))])
@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_works_for_any_number_of_classes(classes, norm, budgets):  # every published AutoAttack fails on two
    classifier, x, y = grey(classes)
    rates = []
    for eps in budgets:
        adversarial = AutoAttack(eps=eps, norm=norm, **QUICK)(classifier, x, y)
        assert adversarial.min() >= 0 and adversarial.max() <= 1
        assert classifier.space.distance(adversarial, x, norm).max() <= eps + 1e-6
        hit = fooled(classifier, adversarial, y)
        assert torch.equal(adversarial[~hit], x[~hit])
        assert not (fooled(classifier, APGD(eps=eps, norm=norm, steps=8)(classifier, x, y), y) & ~hit).any()
        rates.append(hit.float().mean().item())
    assert rates == sorted(rates) and rates[0] < 1 and rates[-1] > 0.9


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_one_logit_models_are_attacked_as_two(norm, dual):
    with seeded(7):
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    classifier, x, y = grey(2, OneLogit(body))
    with torch.no_grad():
        exact = body(x)[:, 0].abs() / body[1].weight.norm(dual)  # to the boundary; the box is far enough
    eps = float(exact.median()) * 1.001
    hit = fooled(classifier, AutoAttack(eps=eps, norm=norm, **QUICK)(classifier, x, y), y)
    assert torch.equal(hit, exact < eps)


def test_each_member_gets_only_what_still_stands(monkeypatch):
    classifier, x, y = grey(3)
    asked = []

    class Member:
        def __init__(self, falls):
            self.falls = falls

        def __call__(self, classifier, x, y, seed):
            asked.append((len(x), seed))
            return torch.where((torch.arange(len(x)) < self.falls)[:, None, None, None], 1 - x, x)

    monkeypatch.setattr(AutoAttack, "members", lambda self: (Member(4), Member(0), Member(20), Member(1)))
    y[:2] = (y[:2] + 1) % 3  # wrong from the start: returned as they are
    adversarial = AutoAttack()(classifier, x, y, seed=5)
    assert asked == [(22, 5), (18, 6), (18, 7)]
    assert torch.equal(adversarial[:2], x[:2]) and (adversarial[2:] != x[2:]).flatten(1).any(1).all()


def test_every_member_fools_what_another_one_leaves():
    names = [type(m).__name__ for m in AutoAttack().members()]
    assert names == ["APGD", "APGD", "FAB", "Square"]
    assert all(m.eps == AutoAttack().eps for m in AutoAttack().members())
    assert {m.norm for m in AutoAttack().members()} == {"linf"}
    assert {m.norm for m in AutoAttack(norm="l2").members()} == {"l2"}
    assert AutoAttack().members()[1].rivals == 9 and AutoAttack().members()[3].queries == 5000
    masked, x, y = grey(3)
    sound = masked.module

    class Steps(nn.Module):
        """Logits in steps: no gradient gets through."""

        def forward(self, x):
            return (sound(x) * 50).round() / 50

    masked.module = Steps()
    assert not fooled(masked, APGD(eps=0.1)(masked, x, y), y).all()
    assert fooled(masked, AutoAttack(eps=0.1, steps=5, queries=100)(masked, x, y), y).sum() > fooled(
        masked, APGD(eps=0.1, steps=5)(masked, x, y), y).sum()


def test_a_target_is_reached_by_name():
    classifier, x, y = grey(4)
    adversarial = AutoAttack(eps=0.2, target=1, **QUICK)(classifier, x, y)
    reached = classifier.judge(adversarial) == 1
    assert reached.sum() > (y == 1).sum()
    assert torch.equal(adversarial[~reached], x[~reached]) and torch.equal(adversarial[y == 1], x[y == 1])


def test_the_seed_decides_and_batches_do_not():
    classifier, x, y = grey(3)
    state, attack = torch.random.get_rng_state(), AutoAttack(eps=0.01, **QUICK)
    whole = attack(classifier, x, y)
    assert torch.equal(whole, attack(classifier, x, y))
    assert torch.equal(torch.random.get_rng_state(), state)
    for size in (1, 3, 8):
        classifier.batch = size
        part = attack(classifier, x[:8], y[:8])
        assert (fooled(classifier, part, y[:8]) == fooled(classifier, whole[:8], y[:8])).sum() >= 7
    assert attack(classifier, x[:0], y[:0]).shape == (0, 1, 8, 8)


def test_needs_gradients():
    class Constant:
        def predict_proba(self, x):
            return torch.tensor([[0.2, 0.8]]).expand(len(x), -1).numpy()

    with pytest.raises(NotApplicable, match="AutoAttack needs gradients"):
        AutoAttack()(EstimatorClassifier(Constant(), 2, ImageSpace()), torch.rand(2, 1, 8, 8), torch.ones(2).long())
