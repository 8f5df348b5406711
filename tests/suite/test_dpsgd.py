"""DP-SGD: epsilon against closed forms and a second library, sensitivity and noise of a step, and Opacus's traps."""

import copy
import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

from suite.data import Split
from suite.defenses import accounting
from suite.defenses.accounting import epsilon_pld, epsilon_prv, epsilon_replaced, noise_multiplier, public_size
from suite.defenses.clipping import BookKeeping
from suite.defenses.dpsgd import DPSGD, PrivateGradient, rows_of_patients, standardise
from suite.errors import InputError, NotApplicable
from suite.groupnorm import without_batch_norm
from suite.info import Info
from suite.normalize import Normalize
from suite.space import Space
from suite.training import TorchRecipe, build
from tabular.models import MLP, LogisticRegression, RandomForest
from tests.suite._images import SmallCNN

TABLE = Space(torch.tensor([0.0, 10.0, -1.0]), torch.tensor([1.0, 30.0, -1.0]))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def rows(n, seed, space=TABLE):
    """Two classes that the first two columns tell apart; the third never varies."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    z = np.clip(0.5 + 0.3 * (2 * y - 1)[:, None] + rng.normal(0, 0.1, (n, 2)), 0, 1)
    x = np.c_[z[:, 0], 10 + 20 * z[:, 1], np.full(n, -1.0)]
    return Split(x.astype(np.float32), y, space, ("healthy", "ill"), np.arange(n))


TRAIN, VAL = rows(300, 0), rows(200, 1)


@dataclass(frozen=True)
class Convolution(TorchRecipe):
    """A small image network with the batch normalisation that DP-SGD cannot have, and with dropout."""

    info: ClassVar[Info] = Info("Convolution", "none")

    def network(self, inputs, classes):
        return nn.Sequential(nn.Conv2d(inputs[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2),
                             nn.Flatten(), nn.Linear(4 * inputs[1] * inputs[2], classes))


# ---- what is spent


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (4.0, 9), (10.0, 50)])
def test_both_accountants_know_the_closed_form_of_the_gaussian_mechanism(sigma, steps):
    """Without sampling, k steps are one step with noise sigma / sqrt(k) (Balle and Wang 2018, arXiv 1805.06530)."""
    s, delta = sigma / np.sqrt(steps), 1e-3

    def excess(e):
        return norm.cdf(0.5 / s - e * s) - np.exp(e) * norm.cdf(-0.5 / s - e * s) - delta

    exact = brentq(excess, 0, 50)
    assert epsilon_prv(sigma, delta, 1.0, steps) == pytest.approx(exact, rel=0.01)
    assert epsilon_pld(sigma, delta, 1.0, steps) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("sigma", "delta", "rate", "steps"),
                         [(1.2, 1e-3, 0.14, 215), (2.3, 1e-3, 0.14, 215), (2.0, 1e-5, 0.005, 10000)])
def test_two_libraries_agree(sigma, delta, rate, steps):
    assert epsilon_prv(sigma, delta, rate, steps) == pytest.approx(epsilon_pld(sigma, delta, rate, steps), rel=0.02)


@pytest.mark.parametrize("epsilon_of", [epsilon_prv, epsilon_pld])
def test_epsilon_adds_up_over_steps_and_falls_with_noise_and_delta(epsilon_of):
    """Opacus reports the last engine's epsilon only when a run makes a fresh one each round; here steps add up."""
    spent = epsilon_of(2.0, 1e-3, 0.1, 100)
    assert epsilon_of(2.0, 1e-3, 0.1, 200) > 1.2 * spent
    assert epsilon_of(2.0, 1e-3, 0.2, 100) > 1.2 * spent
    assert epsilon_of(4.0, 1e-3, 0.1, 100) < spent / 1.5
    assert epsilon_of(2.0, 1e-5, 0.1, 100) > 1.2 * spent


@pytest.mark.parametrize("epsilon", [0.2, 3.0])
def test_calibrated_noise_spends_the_target_and_hardly_less(epsilon):
    sigma = noise_multiplier(epsilon, 1e-3, 0.4, 20)
    for spent in (epsilon_prv(sigma, 1e-3, 0.4, 20), epsilon_pld(sigma, 1e-3, 0.4, 20)):
        assert 0.97 * epsilon < spent <= epsilon


def test_calibration_is_remembered_across_processes_and_survives_a_broken_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEC_CACHE", str(tmp_path))
    file, asked = tmp_path / "noise_multipliers.json", (5.0, 1e-3, 0.5, 4)
    file.write_text("{ not json")
    accounting.noise_multiplier.cache_clear()
    sigma = noise_multiplier(*asked)
    assert list(json.loads(file.read_text()).values()) == [sigma]
    accounting.noise_multiplier.cache_clear()  # as in another process
    monkeypatch.setattr("opacus.accountants.utils.get_noise_multiplier", None)
    assert noise_multiplier(*asked) == sigma
    with pytest.raises(TypeError):  # another question has another answer
        noise_multiplier(5.0, 1e-4, 0.5, 4)


def test_an_epsilon_out_of_reach_is_told_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("suite.defenses.dpsgd.build", None)
    with pytest.raises(InputError, match=r"^epsilon 1e-05 at delta 0.001 is out of reach .* \(about 40 epochs\)"):
        DPSGD(epsilon=1e-5)(MLP(), TRAIN, VAL)
    with monkeypatch.context() as patch:  # Opacus says "The privacy budget is too low.", and of what, it does not
        patch.setattr("opacus.accountants.utils.MAX_SIGMA", 1.0)
        with pytest.raises(InputError, match=r"^epsilon 0.77 at delta 0.001 is out of reach of 3 steps"):
            noise_multiplier(0.77, 1e-3, 0.4, 3)
    assert noise_multiplier(0.77, 1e-3, 0.4, 3) > 1


@pytest.mark.parametrize(("sigma", "rate"), [(1.5, 0.3), (0.7, 0.05), (2.0, 1.0)])
def test_epsilon_where_a_row_is_replaced_is_that_of_the_worst_pair_by_quadrature(sigma, rate):
    """One step, N(0) mixed with N(1) against N(0) mixed with N(-1), by adding up where one exceeds the other."""
    z = np.linspace(-15 * sigma, 15 * sigma, 400_001)
    p, q = (rate * norm.pdf(z, mean, sigma) + (1 - rate) * norm.pdf(z, 0, sigma) for mean in (1, -1))

    def excess(e):
        return np.trapezoid(np.maximum(p - np.exp(e) * q, 0), z) - 1e-3

    assert epsilon_replaced(sigma, 1e-3, rate, 1) == pytest.approx(brentq(excess, 0, 50), abs=2e-3)
    assert epsilon_replaced(sigma, 1e-3, rate, 20) > 1.1 * epsilon_pld(sigma, 1e-3, rate, 20)


# ---- against whom


class Stop(Exception):
    pass


def as_run(monkeypatch, n, **terms):
    """The divisor, deviation of the noise, rate and steps of a training on n rows, and its notes."""
    seen = []

    class Recorded(PrivateGradient):
        def __call__(self, x, y, shares=None):
            seen.append((self.expected, self.sigma * self.norm))
            super().__call__(x, y, shares)

    monkeypatch.setattr("suite.defenses.dpsgd.PrivateGradient", Recorded)
    notes = DPSGD(epsilon=8.0, delta=0.01, epochs=5, **terms)(LogisticRegression(), rows(n, 0), VAL).notes
    assert len(set(seen)) == 1 and len(seen) == notes["steps"]
    return *seen[0], notes["sample_rate"], len(seen), notes


def closed_form(mu, delta=0.01):
    """Epsilon of a Gaussian mechanism that moves by mu standard deviations."""
    return brentq(lambda e: norm.cdf(mu / 2 - e / mu) - np.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0, 500)


def test_the_claim_holds_for_the_mechanism_as_it_ran_where_every_row_is_in_every_batch(monkeypatch):
    """With 74 rows or 75 in batches of 128. What a step releases is S / divisor + noise / divisor, and S is any sum of
    as many vectors of length 1. Divided by 74 and by 75 it moves as far as if a row were replaced: an epsilon of 22
    instead of 8, and the noise has another size besides."""
    (less, std, rate, steps, notes), (more, other, *_) = (as_run(monkeypatch, n) for n in (74, 75))
    assert rate == 1 and std == other
    # 74 vectors against the 75th in the worst case: |74 / less - (74 - 1) / more| moves the release, in units of noise
    moves = abs(74 / less - 73 / more) * less / std
    epsilon = closed_form(moves * steps**0.5)
    assert 7.9 < notes["epsilon_claimed"] <= 8 and epsilon == pytest.approx(notes["epsilon_claimed"], rel=0.01)
    assert epsilon_pld(std, 0.01, rate, steps) == pytest.approx(epsilon, rel=0.01)
    replaced = closed_form(2 / std * steps**0.5)
    assert notes["epsilon_replace_one"] == pytest.approx(replaced, rel=0.01) == pytest.approx(22.4, abs=0.3)
    assert (notes["unit"], notes["neighbors"]) == ("row", "added or removed")


def test_one_row_more_or_less_changes_nothing_but_the_sum(monkeypatch):
    found = [as_run(monkeypatch, n) for n in (73, 74, 75)]
    assert all(f[:4] == found[0][:4] for f in found) and found[0][0] == 70
    assert as_run(monkeypatch, 75, public_rows=90)[0] == 90
    assert [public_size(n) for n in (7, 15, 74, 199, 460, 1499)] == [7, 15, 70, 150, 400, 1000]


def test_no_step_is_left_out_of_the_account(monkeypatch):
    """Each noisy step that was taken, and not one less: with five of them, one is worth a tenth of epsilon."""
    _, std, rate, steps, notes = as_run(monkeypatch, 60)
    assert rate == 1 and steps == 5
    for name in ("epsilon_claimed", "epsilon_independent"):
        assert notes[name] == pytest.approx(closed_form(steps**0.5 / std), rel=0.01)
        assert notes[name] > 1.05 * closed_form((steps - 1) ** 0.5 / std)


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

    monkeypatch.setattr("suite.defenses.dpsgd.PrivateGradient", Recorded)
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
    assert classifier.notes["replaced"] == "BatchNorm2d by GroupNorm"
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


@pytest.mark.parametrize(("n", "delta"), [(460, 1e-3), (999, 1e-3), (1000, 1e-4), (60, 1e-2)])
def test_delta_is_the_largest_power_of_ten_below_one_over_rows(n, delta, monkeypatch):
    asked = []

    class Stop(Exception):
        pass

    def noise(epsilon, delta, rate, steps):
        asked.append(delta)
        raise Stop

    monkeypatch.setattr("suite.defenses.dpsgd.noise_multiplier", noise)
    with pytest.raises(Stop):
        DPSGD()(MLP(), rows(n, 0), VAL)
    assert asked == [delta]
    assert asked[0] < 1 / n


def test_layers_that_overwrite_their_input_no_longer_do(monkeypatch):
    """Opacus's hooks forbid it, and networks of images are full of them."""
    monkeypatch.setattr("suite.defenses.dpsgd.noise_multiplier", lambda *_: 1.0)
    monkeypatch.setattr("suite.defenses.dpsgd.claim", lambda *_: {})  # both take seconds
    x, n = np.random.default_rng(0).random((40, 1, 8, 8), np.float32), np.arange(40)
    few = Split(x, n % 2, Space(0.0, 1.0), ("a", "b"), n)
    classifier = DPSGD(epsilon=8.0, epochs=1, batch=1)(SmallCNN(), few, few)
    assert classifier.notes["replaced"] == "BatchNorm2d by GroupNorm"
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
