"""What our query attacks have in common: possible inputs only, refusals, targets, seeds, and any classifier."""

import numpy as np
import pytest
import torch

from suite.attacks.query.genattack import GenAttack
from suite.attacks.query.hopskipjump import HopSkipJump
from suite.attacks.query.zoo import Zoo
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from tests.support.models import linear, patients, rows

ATTACKS = [HopSkipJump(max_iter=5), HopSkipJump(norm="l2", max_iter=5),
           Zoo(norm="l2", eps=float("inf"), lr=0.2, steps=15, coordinates=4), Zoo(eps=2.0, lr=0.5, coordinates=4),
           GenAttack(eps=2.0)]


def share(attack, classifier, x, y):
    return (classifier.judge(attack(classifier, x, y)) != y).float().mean()


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("attack", ATTACKS)
def test_fools_in_batches_of_any_size_and_counts_what_it_asks(attack, batch):
    asked, classifier = 0, linear(bound=5.0)
    x, y = rows(classifier, 5, spread=0.3)

    def count(module, args):
        nonlocal asked
        asked += len(args[0])

    classifier.batch = batch
    classifier.module.register_forward_pre_hook(count)
    found = attack(classifier, x, y)
    assert asked == classifier.queries and classifier.gradients == 0
    assert (classifier.judge(found) != y).all()
    assert (classifier.space.distance(found, x, attack.norm) <= attack.eps + 1e-5).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_same_seed_same_result_another_seed_another_and_no_global_randomness(attack):
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 6, spread=0.3)
    state = torch.get_rng_state()
    first, again, other = (attack(classifier, x, y, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attack", ATTACKS)
def test_leaves_rows_alone_that_are_wrong_or_that_nothing_fools(attack):
    class Constant:
        def predict_proba(self, x):
            return np.tile([0.9, 0.1], (len(x), 1))

    classifier = linear(bound=5.0)
    x, y = rows(classifier, 6)
    assert torch.equal(attack(classifier, x, 1 - y), x)
    assert attack(classifier, x[:0], y[:0]).shape == (0, 6)
    stubborn = EstimatorClassifier(Constant(), 2, classifier.space)
    assert torch.equal(attack(stubborn, x, torch.zeros_like(y)), x)


@pytest.mark.parametrize("attack", ATTACKS)
def test_reaches_its_target(attack):
    classifier = linear(classes=3, bound=5.0)
    x, y = rows(classifier, 24, spread=0.3)
    aimed = type(attack)(**{**vars(attack), "target": 2})
    found = aimed(classifier, x, y)
    moved = (found != x).any(1)
    assert (classifier.judge(found[moved]) == 2).all() and torch.equal(moved, moved & (y != 2))
    assert moved[y != 2].float().mean() > 0.9


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_refusal_is_no_success(attack):
    """Beyond 1 the model refuses, so the only way to class 1 is the second feature, further off."""
    module = torch.nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0.0], [4.0, 1.0], [40.0, 0.0]]))
        module.bias.copy_(torch.tensor([0.0, -1.0, -4.0]))
    classifier = TorchClassifier(module, 2, Space(-3.0, 3.0), rejects=True)
    x, y = torch.zeros(6, 2), torch.zeros(6, dtype=torch.long)
    x[:, 0] = torch.linspace(-0.5, 0.0, 6)
    found = attack(classifier, x, y)
    label = classifier.judge(found)
    assert (label >= 0).all() and (label == 1).float().mean() > 0.5


@pytest.mark.parametrize("relations", [True, False])
@pytest.mark.parametrize("attack", [HopSkipJump(), Zoo(norm="l2", eps=1.0), Zoo(eps=0.3), GenAttack(eps=0.3)])
def test_finds_possible_patients(attack, relations):
    classifier, x, y = patients(relations)
    found = attack(classifier, x, y)
    fooled = classifier.judge(found) != y
    assert classifier.space.contains(found, x).all() and torch.equal(found[~fooled], x[~fooled])
    assert fooled.float().mean() > 0.3


@pytest.mark.parametrize("attack", [HopSkipJump(max_iter=5), Zoo(norm="l2", eps=1.0, lr=0.1, h=0.1),
                                    Zoo(eps=0.3, lr=0.1, h=0.1), GenAttack(eps=0.3)])
def test_asks_trees(attack):
    from sklearn.ensemble import RandomForestClassifier

    x = np.random.default_rng(0).random((300, 4)).astype(np.float32)
    y = (x.sum(1) > 2).astype(np.int64)
    classifier = EstimatorClassifier(RandomForestClassifier(10, random_state=0).fit(x, y), 2, Space(0.0, 1.0))
    x, y = torch.from_numpy(x[:12]), torch.from_numpy(y[:12])
    assert share(attack, classifier, x, y) > 0.6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("attack", [HopSkipJump(max_iter=5, norm="l2"), Zoo(eps=0.5), GenAttack(eps=0.5),
                                    Zoo(norm="l2", eps=5.0, steps=10, c=1e3, coordinates=60)])
def test_attacks_images_that_need_not_be_square(attack, channels):
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(4 * channels, 2))
    with torch.no_grad():
        module[2].weight.copy_(torch.stack([torch.zeros(4 * channels), torch.ones(4 * channels)]))
        module[2].bias.copy_(torch.tensor([0.0, -2.02 * channels]))
    classifier = TorchClassifier(module, 2, Space(0.0, 1.0))
    x = torch.rand(4, channels, 6, 10, generator=torch.Generator().manual_seed(0))
    y = classifier.judge(x)
    found = attack(classifier, x, y)
    assert (classifier.judge(found) != y).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize(("weak", "strong"), [(Zoo(norm="l2", eps=50.0, lr=0.2, steps=1), ATTACKS[2]),
                                              (Zoo(eps=2.0, lr=0.2, steps=1), ATTACKS[3]), (Zoo(eps=0.1), ATTACKS[3]),
                                              (GenAttack(eps=0.5, steps=2), GenAttack(eps=0.5)),
                                              (GenAttack(eps=0.1), GenAttack(eps=0.5))])
def test_more_steps_or_budget_fool_more(weak, strong):
    classifier = linear(bound=5.0)
    x, y = rows(classifier, 24)
    assert share(weak, classifier, x, y) < share(strong, classifier, x, y)
