"""DP-SGD: patients with several rows, sensitivity and noise of a step, and Opacus's traps."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.core.data import Split
from suite.core.normalize import Normalize
from suite.core.space import Space
from suite.defenses.private.clipping import BookKeeping
from suite.defenses.private.dpsgd import DPSGD, PrivateGradient, rows_of_patients, standardise
from suite.training.groupnorm import without_batch_norm
from suite.training.loop import TorchRecipe, build
from tabular.models import MLP, LogisticRegression, RandomForest
from tests.support.images import SmallCNN
from tests.support.private import TRAIN, VAL, own_cache, rows  # noqa: F401 - a fixture


@dataclass(frozen=True)
class Convolution(TorchRecipe):
    """A small image network with the batch normalisation that DP-SGD cannot have, and with dropout."""

    info: ClassVar[Info] = Info("Convolution", "none")

    def network(self, inputs, classes):
        return nn.Sequential(nn.Conv2d(inputs[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2),
                             nn.Flatten(), nn.Linear(4 * inputs[1] * inputs[2], classes))


# ---- patients with several rows


def patients(n, each):
    split = rows(n, 3)
    return replace(split, patients=np.arange(n) // each)


def test_rows_of_patients_are_theirs_at_most_so_many_and_count_the_same():
    who = np.random.default_rng(0).integers(0, 30, 200)
    index, shares = rows_of_patients(who, 4, seed=0)
    assert index.shape == shares.shape == (30, 4) and torch.allclose(shares.sum(1), torch.ones(30))
    for patient, own, share in zip(np.unique(who), index.numpy(), shares.numpy(), strict=True):
        used = own[share > 0]
        assert set(who[used]) == {patient} and len(set(used)) == min(4, (who == patient).sum())
    assert not torch.equal(index, rows_of_patients(who, 4, seed=1)[0])
    assert rows_of_patients(np.arange(5), 4, 0)[0].shape == (5, 1)


def test_patients_are_what_is_drawn_and_accounted_for_where_epsilon_is_theirs():
    train = patients(1200, 4)
    made = DPSGD(epsilon=8.0, epochs=10, batch=60, unit="patient")(LogisticRegression(), train, VAL)
    assert (made.notes["unit"], made.notes["rows_per_patient"]) == ("patient", 4)
    assert (made.notes["sample_rate"], made.notes["steps"], made.notes["delta"]) == (0.2, 50, 1e-3)
    assert (made.predict(VAL.x) == VAL.y).mean() > 0.9
    by_row = DPSGD(epsilon=8.0, epochs=2, batch=600)(LogisticRegression(), train, VAL)
    assert (by_row.notes["unit"], by_row.notes["rows_per_patient"], by_row.notes["sample_rate"]) == ("row", 4, 0.6)
    with pytest.raises(InputError, match="nothing says which rows are of one patient; name the column with --group"):
        DPSGD(unit="patient")(LogisticRegression(), TRAIN, VAL)


# ---- one step


def stepper(net, sigma, clip=1.0, expected=1):
    private = PrivateGradient(BookKeeping(net.train()), clip, sigma, expected, torch.Generator().manual_seed(0))

    def gradient(x, y):
        private(x, y)
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    return gradient


def net_and_batch(n=12):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(n, 5), torch.randint(0, 3, (n,))


def test_no_row_moves_the_sum_of_gradients_by_more_than_the_clipping_norm():
    net, x, y = net_and_batch()
    gradient = stepper(net, sigma=0.0, clip=0.5)
    whole = gradient(1000 * x, y)
    assert whole.norm() <= 0.5 * len(y)
    without = [torch.arange(len(y)) != i for i in range(len(y))]
    moved = torch.stack([(whole - gradient(1000 * x[others], y[others])).norm() for others in without])
    assert moved.max() == pytest.approx(0.5, rel=1e-3)  # rows that large are clipped, not dropped


def test_without_clipping_and_noise_it_is_the_plain_gradient_over_the_expected_batch():
    net, x, y = net_and_batch()
    plain = torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), tuple(net.parameters()))
    assert torch.allclose(stepper(net, sigma=0.0, clip=1e6, expected=10)(x, y),
                          torch.cat([g.flatten() for g in plain]) / 10, atol=1e-6)


@pytest.mark.parametrize(("sigma", "clip", "expected"), [(1.0, 1.0, 1), (2.5, 0.4, 8)])
def test_noise_has_the_promised_size_on_full_and_on_empty_batches(sigma, clip, expected):
    net, x, y = net_and_batch()
    signal = stepper(copy.deepcopy(net), 0.0, clip, expected)(x, y)
    gradient = stepper(net, sigma, clip, expected)
    for batch, centre in (((x, y), signal), ((x[:0], y[:0]), torch.zeros_like(signal))):
        draws = torch.stack([gradient(*batch) for _ in range(400)]) - centre
        assert draws.std() == pytest.approx(sigma * clip / expected, rel=0.03)
        assert draws.mean().abs() < 5 * draws.std() / draws.numel() ** 0.5


# ---- a whole training


@pytest.fixture(scope="module")
def defended():
    return DPSGD(epsilon=8.0, epochs=10, batch=60)(MLP(hidden=(16,)), TRAIN, VAL)


def test_learns_and_says_what_it_spent(defended):
    assert (defended.predict(VAL.x) == VAL.y).mean() > 0.9
    notes = defended.notes
    assert 7.8 < notes["epsilon_claimed"] <= 8.0
    assert notes["epsilon_independent"] == pytest.approx(notes["epsilon_claimed"], rel=0.02)
    assert (notes["delta"], notes["sample_rate"], notes["steps"]) == (1e-3, 0.2, 50)


def test_takes_the_steps_that_were_accounted_for_on_poisson_batches(monkeypatch):
    sizes, noise = [], []

    class Recorded(PrivateGradient):
        def __call__(self, x, y, shares=None):
            sizes.append(len(y))
            noise.append(self.sigma * self.norm / self.expected)
            super().__call__(x, y, shares)

    monkeypatch.setattr("suite.defenses.private.dpsgd.PrivateGradient", Recorded)
    classifier = DPSGD(epsilon=8.0, epochs=10, batch=60, max_grad_norm=0.7)(MLP(hidden=(4,)), TRAIN, VAL)
    assert len(sizes) == classifier.notes["steps"] == 50
    assert set(noise) == {classifier.notes["noise_multiplier"] * 0.7 / 60}
    spread = (300 * 0.2 * 0.8) ** 0.5  # binomial
    assert abs(np.mean(sizes) - 60) < 4 * spread / 50**0.5
    assert 0.6 < np.std(sizes) / spread < 1.5


def test_empty_batches_leave_no_nan():
    """Opacus's own loader makes the mean loss of an empty batch NaN."""
    rng = np.random.default_rng(0)
    x, n = rng.random((12, 1, 6, 6), np.float32), np.arange(12)
    few = Split(x, n % 2, Space(0.0, 1.0), ("a", "b"), n)
    classifier = DPSGD(epsilon=8.0, epochs=4, batch=1)(Convolution(), few, few)  # a third of the batches are empty
    assert classifier.changed == ("group-norm",)
    assert all(p.isfinite().all() for p in classifier.module.parameters())


def test_returns_a_plain_module(defended):
    """Opacus prefixes the state's keys, hangs hooks on layers and gradients of each row on parameters."""
    plain = build(MLP(hidden=(16,)), (3,), 2)
    assert list(defended.module.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in defended.module.modules()] == [type(m) for m in plain.modules()]
    assert not any(m._forward_hooks or m._backward_hooks for m in defended.module.modules())
    assert not any(hasattr(p, "grad_sample") for p in defended.module.parameters())
    copy.deepcopy(defended.module)


def test_only_private_gradients_look_at_the_training_rows(defended):
    """Standardisation comes from the bounds, validation rows stop nothing, and frequencies weight nothing."""
    normalize = defended.module[0]
    assert torch.equal(normalize.mean, torch.tensor([[0.5, 20.0, -1.0]]))
    assert torch.equal(normalize.std, torch.tensor([[0.5, 10.0, 1.0]]))
    again = DPSGD(epsilon=8.0, epochs=10, batch=60)(MLP(hidden=(16,), balanced=False), TRAIN, rows(9, 5))
    assert np.array_equal(again.predict_proba(VAL.x), defended.predict_proba(VAL.x))


def test_seed_decides_everything_and_no_global_randomness_is_used(defended):
    state, defense = torch.random.get_rng_state(), DPSGD(epsilon=8.0, epochs=10, batch=60)
    same, other = (defense(MLP(hidden=(16,)), TRAIN, VAL, seed=s).predict_proba(VAL.x) for s in (0, 1))
    assert np.array_equal(same, defended.predict_proba(VAL.x))
    assert not np.array_equal(other, same)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_logistic_regression_is_trained_by_private_steps_and_never_by_its_solver(monkeypatch):
    monkeypatch.setattr(LogisticRegression, "fit", None)
    monkeypatch.setattr("sklearn.linear_model.LogisticRegression.fit", None)
    private = DPSGD(epsilon=8.0, epochs=10, batch=60)(LogisticRegression(), TRAIN, VAL)
    assert (private.predict(VAL.x) == VAL.y).mean() > 0.9 and private.notes["steps"] == 50
    other = DPSGD(epsilon=8.0, epochs=10, batch=60)(LogisticRegression(c=1e-6), TRAIN, VAL)
    assert np.array_equal(other.predict_proba(VAL.x), private.predict_proba(VAL.x))  # its penalty has no part in it


def test_more_noise_costs_accuracy():
    weak, strong = (np.mean([(DPSGD(epsilon=e, epochs=10, batch=60)(LogisticRegression(), TRAIN, VAL, seed=s)
                              .predict(VAL.x) == VAL.y).mean() for s in range(3)]) for e in (8.0, 0.05))
    assert weak > strong + 0.1


def test_layers_that_overwrite_their_input_no_longer_do(monkeypatch):
    """Opacus's hooks forbid it, and networks of images are full of them."""
    monkeypatch.setattr("suite.defenses.private.dpsgd.noise_multiplier", lambda *_: 1.0)
    monkeypatch.setattr("suite.defenses.private.dpsgd.claim", lambda *_: {})  # both take seconds
    x, n = np.random.default_rng(0).random((40, 1, 8, 8), np.float32), np.arange(40)
    few = Split(x, n % 2, Space(0.0, 1.0), ("a", "b"), n)
    classifier = DPSGD(epsilon=8.0, epochs=1, batch=1)(SmallCNN(), few, few)
    assert classifier.changed == ("group-norm",)
    network = build(SmallCNN(), (1, 8, 8), 2)[1].eval()
    fixed, x = copy.deepcopy(network), torch.rand(3, 1, 8, 8)
    fixed[1] = nn.Identity()
    alone = copy.deepcopy(fixed)
    assert torch.equal(without_batch_norm(fixed)[0](x), alone(x))


def test_the_operating_point_is_chosen_where_the_recipe_asks_for_it(defended):
    """On the validation rows, and in the last layer's bias alone."""
    rare = VAL.take(np.r_[np.flatnonzero(VAL.y == 0), np.flatnonzero(VAL.y == 1)[:5]])
    moved = DPSGD(epsilon=8.0, epochs=10, batch=60)(MLP(hidden=(16,), operating_point="balanced"), TRAIN, rare)
    assert "validation inputs" in moved.notes["operating_point"] and "operating_point" not in defended.notes
    x = torch.from_numpy(VAL.x)
    shift = (moved.scores(x) - defended.scores(x)).diff(dim=1)
    assert shift.std() < 1e-5 < abs(shift.mean())


def test_networks_without_batch_normalisation_stay_as_they_are():
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    assert without_batch_norm(net) == (net, "")


def test_bounds_of_images_are_taken_by_channel():
    normalize, bounds = Normalize((2, 4, 4)), torch.tensor([[0.0, -1.0], [1.0, 3.0]]).view(2, 2, 1, 1)
    standardise(normalize, Space(*bounds), (2, 4, 4))
    assert normalize.mean.flatten().tolist() == [0.5, 1.0]
    assert normalize.std.flatten().tolist() == [0.5, 2.0]


def test_refuses_what_it_cannot_promise():
    with pytest.raises(InputError, match="epsilon"):
        DPSGD(epsilon=0.0)
    with pytest.raises(InputError, match="delta"):
        DPSGD(delta=1.5)
    with pytest.raises(InputError, match="finite bounds"):
        DPSGD(epsilon=8.0, epochs=10, batch=60)(MLP(), rows(300, 0, Space(0.0, float("inf"))), VAL)
    with pytest.raises(NotApplicable, match="RandomForest"):
        DPSGD()(RandomForest(), TRAIN, VAL)


def test_a_normalised_table_keeps_its_values():
    """Opacus puts each column into a group of its own, where nothing but zeros is left of it."""
    from opacus.validators import ModuleValidator

    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    theirs = ModuleValidator.fix(network.train())
    assert theirs(x).std(0).max() < 1e-4
    ours, replaced = without_batch_norm(network)
    assert replaced == "BatchNorm1d by GroupNorm" and ours(x).std(0).min() > 1e-3
    assert torch.allclose(ours(x[:1]), ours(x)[:1], atol=1e-6)  # a row alone, as in a small batch
