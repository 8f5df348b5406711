"""Free and fast adversarial training: what a step does, what it costs, what is learned, and the watchdog."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from suite.attacks.gradient import PGD
from suite.base.errors import InputError, NotApplicable
from suite.core.space import Space
from suite.defenses.robust.adversarial import AdversarialTraining, Trades
from suite.defenses.robust.fast import FastAdversarialTraining, FreeAdversarialTraining, Watchdog
from suite.training.loop import Batch
from tabular.models import RandomForest
from tests.support.images import SmallCNN, squares

TRAIN, VAL, TEST = squares(300, 0), squares(100, 1), squares(100, 2)
EPS = 0.1


def accuracies(classifier, eps=EPS):
    x, y = torch.from_numpy(TEST.x), torch.from_numpy(TEST.y)
    found = PGD(eps=eps, steps=20)(classifier, x, y)
    return tuple(float((classifier.judge(z) == y).float().mean()) for z in (x, found))


@pytest.fixture(scope="module")
def plain():
    return SmallCNN().fit(TRAIN, VAL)


def test_the_images_are_as_advertised(plain):
    clean, robust = accuracies(plain)
    assert clean > 0.97 and robust < 0.5


@pytest.mark.parametrize("defense", [
    FreeAdversarialTraining(eps=EPS), FastAdversarialTraining(eps=EPS), AdversarialTraining(eps=EPS, steps=3),
    Trades(eps=EPS, steps=3)], ids=lambda d: type(d).__name__)
def test_learns_to_trust_what_cannot_be_turned_around(defense, plain):
    robust = defense(replace(SmallCNN(), epochs=24), TRAIN, VAL)
    assert accuracies(robust)[1] > accuracies(plain)[1] + 0.25
    assert robust.notes["eps"] == EPS and "overfitting_at_epoch" not in robust.notes


def linear():
    torch.manual_seed(0)
    module, space = nn.Linear(3, 2), Space(0.0, 1.0, torch.tensor([1.0, 0.5, 2.0]))
    x, y = torch.rand(40, 3) * 0.6 + 0.2, torch.randint(0, 2, (40,))
    return module, space, Batch(x, y, torch.arange(40), torch.Generator().manual_seed(0))


def test_replays_of_a_batch_walk_to_the_worst_corner_of_a_linear_model_by_its_own_backward_passes():
    module, space, batch = linear()
    objective = FreeAdversarialTraining().objective(space, 0.1)
    first = objective(module, batch)
    assert torch.equal(first, F.cross_entropy(module(batch.x), batch.y, reduction="none"))  # no perturbation yet
    first.mean().backward()  # the loop's
    second = objective(module, batch)
    uphill = (module.weight[1] - module.weight[0]).sign() * (1 - 2 * batch.y[:, None])
    corner = (batch.x + 0.1 * space.scale * uphill).clamp(0, 1)
    assert torch.allclose(second, F.cross_entropy(module(corner), batch.y, reduction="none"), atol=1e-6)


def test_the_perturbation_stays_within_its_budget_and_so_turns_around_in_as_many_steps():
    module, space, batch = linear()
    objective = FreeAdversarialTraining().objective(space, 0.1)
    reach = 0.1 * space.scale
    for _ in range(4):
        objective(module, batch).mean().backward()
    assert torch.allclose(objective.delta.abs(), reach.expand_as(batch.x))
    turned = Batch(batch.x, 1 - batch.y, batch.index, batch.generator)
    objective(module, turned).mean().backward()  # still at the old corner, and pushed the other way by a whole budget
    loss = objective(module, turned)
    assert objective.delta.abs().max() < 1e-6
    assert torch.allclose(loss, F.cross_entropy(module(batch.x), turned.y, reduction="none"), atol=1e-5)


def test_the_perturbation_is_kept_from_one_batch_to_the_next_smaller_one():
    module, space, batch = linear()
    objective = FreeAdversarialTraining().objective(space, 0.1)
    objective(module, batch).mean().backward()
    objective(module, batch)
    before = objective.delta.clone()
    few = Batch(batch.x[:7] + 0.01, batch.y[:7], batch.index[:7], batch.generator)
    loss = objective(module, few)
    moved = (few.x + before[:7]).clamp(0, 1)
    assert torch.allclose(loss, F.cross_entropy(module(moved), few.y, reduction="none"), atol=1e-6)
    assert torch.equal(objective.delta, before)


def test_fast_training_steps_past_the_ball_and_back_to_its_edge():
    module, space, batch = linear()
    loss = FastAdversarialTraining(reach=2.0).objective(space, 0.1)(module, batch)
    uphill = (module.weight[1] - module.weight[0]).sign() * (1 - 2 * batch.y[:, None])
    corner = (batch.x + 0.1 * space.scale * uphill).clamp(0, 1)  # a step of 2 eps leads there from everywhere
    assert torch.allclose(loss, F.cross_entropy(module(corner), batch.y, reduction="none"), atol=1e-6)


def counted(defense, recipe):
    SmallCNN.passes.clear()
    classifier = defense(recipe, TRAIN, VAL)
    training = [size for size, mode, _ in SmallCNN.passes if mode]
    crafting = [size for size, mode, needs in SmallCNN.passes if not mode and not needs and size < 100]
    return classifier, training, crafting


def test_free_training_costs_one_training_and_its_statistics_come_from_what_it_trains_on():
    classifier, training, crafting = counted(FreeAdversarialTraining(eps=EPS, replays=4), SmallCNN(epochs=8))
    assert training == [50] * 6 * 8  # as many as plain training: two epochs of six batches, four times each
    assert crafting == []  # its attack has no passes of its own
    assert classifier.recipe == SmallCNN(epochs=8)


def test_fast_training_costs_two_trainings_and_attacks_in_evaluation_mode():
    _, training, crafting = counted(FastAdversarialTraining(eps=EPS), SmallCNN(epochs=2))
    assert training == crafting == [50] * 6 * 2


def scripted(several, single, fall=0.2):
    several, single = iter(several), iter(single)
    return Watchdog(lambda _: next(several), lambda _: next(single), fall)


@pytest.mark.parametrize(("several", "single", "answers"), [
    ([0.5, 0.6, 0.35], [0.7, 0.7, 0.9], [False, False, True]),  # withstands the single step and nothing else
    ([0.5, 0.6, 0.45], [0.7, 0.7, 0.9], [False, False, False]),  # a fall within the noise
    ([0.5, 0.6, 0.1], [0.7, 0.7, 0.2], [False, False, False]),  # worse altogether
    ([0.6, 0.1], [0.7, 0.6], [False, True])])
def test_the_watchdog_bites_when_only_the_stronger_attack_succeeds_better(several, single, answers):
    watchdog = scripted(several, single)
    assert [watchdog(None) for _ in answers] == answers
    assert watchdog.bitten == answers[-1]
    assert watchdog.epoch == len(answers)


class Ditch(nn.Module):
    """Right everywhere but in a ditch halfway to the edge of the ball, over which the single step leaps."""

    def forward(self, x):
        far = (x[:, 0] - 0.5).abs()
        lead = 1 - 2 * torch.exp(-((far - 0.05) / 0.02) ** 2) + far
        return torch.stack([lead, -lead], 1)


def test_the_watchdog_sees_what_a_single_step_leaps_over():
    rows = replace(VAL, x=np.full((100, 1), 0.5, np.float32), y=np.zeros(100, np.int64))
    watchdog = FastAdversarialTraining(steps=10, step=0.1).watchdog(rows, 0.1, 0, "cpu")
    assert watchdog.single(Ditch()) > watchdog.several(Ditch()) + 0.3


def test_training_ends_at_the_bite_and_returns_an_epoch_before_it(monkeypatch):
    monkeypatch.setattr(FastAdversarialTraining, "watchdog",
                        lambda self, *_: scripted([0.5, 0.6, 0.1, 0.1], [0.7, 0.7, 0.9, 0.9]))
    classifier, training, _ = counted(FastAdversarialTraining(eps=EPS), SmallCNN(epochs=9))
    assert len(training) == 3 * 6
    assert classifier.notes == {"eps": EPS, "overfitting_at_epoch": 3}


def test_both_pilot_their_budget():
    for defense in (FreeAdversarialTraining(grid=(0.45, 0.02)), FastAdversarialTraining(grid=(0.45, 0.02))):
        assert defense(SmallCNN(epochs=8), TRAIN, VAL).notes["eps"] == 0.02


@pytest.mark.parametrize("defense", [FreeAdversarialTraining(eps=0.1), FastAdversarialTraining(eps=0.1)])
def test_same_seed_same_network_and_no_global_randomness(defense):
    recipe, state = SmallCNN(epochs=4), torch.random.get_rng_state()
    first, again, other = (defense(recipe, TRAIN, VAL, seed=s).predict_proba(TEST.x) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_settings_and_models_are_refused():
    with pytest.raises(InputError, match="replays"):
        FreeAdversarialTraining(replays=0)
    for defense in (FreeAdversarialTraining(), FastAdversarialTraining()):
        with pytest.raises(NotApplicable, match="RandomForest"):
            defense(RandomForest(), TRAIN, VAL)
