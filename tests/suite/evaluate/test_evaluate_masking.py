"""Checks of masked gradients, on a network with and without a mask."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from imaging.attacks.autoattack import AutoAttack
from imaging.attacks.square import Square
from imaging.space import ImageSpace
from suite.attacks.gradient import FGSM, PGD
from suite.attacks.noise import RandomNoise
from suite.attacks.query.estimate import NES
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier
from suite.core.space import Space
from suite.defenses.robust.ensemble import MCDropout
from suite.defenses.robust.smoothing import smoothed
from suite.evaluate import measure
from suite.evaluate.worst_case import Part, measure_worst_case
from tests.support.toy import dataset, sheet, split, subject


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x):
        return self.body(x)


class Stairs(nn.Module):
    """Cuts its input into steps: right as often as the model behind it, and flat between the steps."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body((x * 20).round() / 20)


class Saturated(nn.Module):
    """Shouts: whole numbers of logits, ten thousand times as large."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return (self.body(x) * 1e4).round()


class Shaken(nn.Module):
    """Adds noise to its input: another answer each time."""

    def __init__(self, body, width=0.5):
        super().__init__()
        self.body, self.width = body, width
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.body(x + self.width * torch.randn(x.shape, generator=self.generator))


class Vanishing(nn.Module):
    """Answers in probabilities, so sure of them that no gradient is left."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return (self.body(x) * 1e6).softmax(1)


class TestMasking:
    """The same network three times: as it is, and twice hidden behind a step that has no gradient."""

    @pytest.fixture
    def network(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(400, 2, generator=generator) * 2 - 1
        y = (x[:, 0] + 0.5 * x[:, 1].sign() * x[:, 1] ** 2 > 0).long()
        torch.manual_seed(0)
        module = Mlp()
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[:300]), y[:300]).backward()
            optimizer.step()
        return module, dataset(split(x[300:].numpy(), y[300:].numpy(), bound=1.0, scale=2.0))

    def checks(self, module, data):
        model = TorchClassifier(module, 2, data.test.space)
        target = subject(model, data)
        attacks = {"pgd": PGD(steps=20), "fgsm": FGSM(), "noise": RandomNoise()}
        out = sheet()
        blind = replace(RandomNoise(), draws=60)
        parts = [Part(n, a, measure(a, target, sheet())) for n, a in attacks.items()]
        measure_worst_case(target, out, [*parts, Part("random-search", blind, measure(blind, target, sheet()))])
        found = {r.metric[6:-1]: r.value for r in out.rows if r.metric.startswith("check[")}
        assert found.keys() == {"white box beats black box", "many steps beat one", "loss rises with steps",
                                "unlimited attack succeeds", "same answer again"}
        return found

    def test_a_sound_network_passes_every_check(self, network):
        assert set(self.checks(*network).values()) == {1.0}

    @pytest.mark.parametrize("mask", [Stairs, Saturated])
    def test_a_masked_network_is_caught(self, network, mask):
        module, data = network
        found = self.checks(mask(module), data)
        assert found["white box beats black box"] == 0.0
        assert found["unlimited attack succeeds"] == 0.0

    def test_a_network_that_draws_its_input_is_caught(self, network):
        module, data = network
        assert self.checks(Shaken(module), data)["same answer again"] == 0.0

    @pytest.mark.parametrize("randomized", [
        lambda inner: smoothed(inner, 0.1, 4),
        lambda inner: MCDropout(draws=4)._drawn(TorchClassifier(nn.Sequential(nn.Dropout(0.3), inner.module), 2,
                                                                inner.space))], ids=["smoothing", "mc-dropout"])
    def test_a_network_whose_predictions_repeat_their_draws_is_not(self, network, randomized):
        module, data = network
        target = subject(randomized(TorchClassifier(module, 2, data.test.space)), data)
        assert self.found(target, pgd=PGD(steps=20))["same answer again"] == 1.0

    def found(self, target, **attacks):
        out = sheet()
        measure_worst_case(target, out, [Part(n, a, measure(a, target, sheet())) for n, a in attacks.items()])
        return {r.metric[6:-1]: r.value for r in out.rows if r.metric.startswith("check[")}

    def test_attacks_of_another_norm_or_of_one_step_are_no_yardstick(self, network):
        module, data = network
        target = subject(TorchClassifier(module, 2, data.test.space), data)
        blind = {"random-search": replace(RandomNoise(), draws=60)}
        alone = {"loss rises with steps", "unlimited attack succeeds"}  # of an attack that the checks bring along
        assert self.found(target, fgsm=FGSM(), **blind).keys() == alone
        assert self.found(target, pgd=PGD(steps=20, norm="l2"), fgsm=FGSM(), **blind).keys() == alone
        assert self.found(target, pgd=PGD(steps=20), **blind)["white box beats black box"] == 1.0

    def test_attacks_are_known_by_what_they_are_and_not_by_name(self, network):
        module, data = network
        target = subject(TorchClassifier(module, 2, data.test.space), data)
        assert self.found(target, one=FGSM(), madry=PGD(steps=20))["many steps beat one"] == 1.0

    def by_hand(self, network, **parts):
        """The row of the check of white against black boxes, when each attack fooled some of the rows it met."""
        module, data = network
        out, made = sheet(), []
        for name, (attack, met, fooled) in parts.items():
            distance = np.where(np.arange(met) < fooled, 0.1, np.inf)
            made.append(Part(name, attack, {"positions": np.arange(met), "linf": distance, "distance": distance,
                                            "kept": np.arange(fooled), "x_adv": data.test.x[:fooled]}))
        measure_worst_case(subject(TorchClassifier(module, 2, data.test.space), data), out, made)
        return next(r for r in out.rows if r.metric == "check[white box beats black box]")

    def test_one_that_also_asks_does_not_vouch_for_the_gradients(self, network):
        blinded = {"pgd": (PGD(), 100, 0), "square": (Square(), 100, 40)}
        assert self.by_hand(network, **blinded).value == 0.0
        assert self.by_hand(network, **blinded, autoattack=(AutoAttack(), 100, 40)).value == 0.0

    def test_one_that_has_another_aim_does_not_vouch_for_the_gradients(self, network):
        blinded = {"pgd": (PGD(), 100, 0), "square": (Square(), 100, 40)}
        assert self.by_hand(network, **blinded, targeted=(PGD(target=1), 50, 40)).n > 90

    def test_a_slow_black_box_does_not_hide_what_another_fooled(self, network):
        row = self.by_hand(network, pgd=(PGD(), 100, 0), square=(Square(), 100, 40), slow=(NES(), 2, 0))
        assert row.value == 0.0 and row.n > 90

    def test_no_limit_means_the_whole_range_whatever_the_scale(self, network):
        module, data = network
        narrow = replace(data, test=replace(data.test, space=Space(-1.0, 1.0, 0.05)))
        target = subject(TorchClassifier(module, 2, narrow.test.space), narrow)
        assert self.found(target, pgd=PGD(steps=20))["unlimited attack succeeds"] == 1.0


class TestImages:
    """The same for a small convolutional network on images with a bright square in one of two halves."""

    @pytest.fixture
    def network(self):
        generator = torch.Generator().manual_seed(0)
        x, y = 0.3 + 0.1 * torch.randn(330, 1, 8, 8, generator=generator), torch.arange(330) % 2
        x[y == 0, :, 2:5, :4] += 0.15
        x[y == 1, :, 2:5, 4:] += 0.15
        x = x.clamp(0, 1)
        with seeded(0):
            module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                                   nn.Linear(64, 2))
        optimizer = torch.optim.Adam(module.parameters(), 0.01)
        for _ in range(120):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[:300]), y[:300]).backward()
            optimizer.step()
        test = split(x[300:].numpy(), y[300:].numpy())
        return module, dataset(replace(test, space=ImageSpace()))

    def failed(self, module, data):
        """Names of the checks that fail at a budget at which the network alone is fooled on some images."""
        target = subject(TorchClassifier(module, 2, data.test.space), data, eps=0.05, budgets=(0.05,))
        attacks = {"pgd": PGD(steps=20), "fgsm": FGSM(), "random-search": RandomNoise(draws=100)}
        out = sheet()
        measure_worst_case(target, out, [Part(n, a, measure(a, target, sheet())) for n, a in attacks.items()])
        checks = {r.metric[6:-1]: r.value for r in out.rows if r.metric.startswith("check[")}
        assert len(checks) == 5
        return {name for name, passed in checks.items() if not passed}

    def test_a_sound_network_passes_every_check(self, network):
        assert not self.failed(*network)

    @pytest.mark.parametrize(("mask", "caught"), [
        (Stairs, "unlimited attack succeeds"), (Saturated, "unlimited attack succeeds"), (Shaken, "same answer again"),
        (Vanishing, "unlimited attack succeeds")])
    def test_a_masked_network_is_caught(self, network, mask, caught):
        module, data = network
        assert caught in self.failed(mask(module), data)
