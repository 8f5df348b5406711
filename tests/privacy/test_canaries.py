"""One-run audits: a broken DP-SGD is caught, an honest one is not, and a known epsilon is not overstated."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import binom

from privacy.canaries import OneRunAudit, mislabeled, redrawn, unexplained
from privacy.lower_bounds import Guesses, gaussian_epsilon, one_run, one_run_gdp
from suite.base import registry
from suite.base.errors import InputError
from suite.core.classifier import Classifier
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.private.dpsgd import DPSGD
from suite.defenses.private.sizes import public_size
from tabular.models import LogisticRegression
from tests.support.canaries import FRESH, HONEST, TRAIN, VAL, Blank, Quiet, flat
from tests.support.models import patients


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Unclipped(DPSGD):
    """Its noise is that of gradients clipped to `max_grad_norm`, but nothing is clipped: a row may do anything."""

    def _train(self, module, train, rate, steps, sigma, seed, device):
        wide = 1e6
        DPSGD._train(replace(self, max_grad_norm=wide), module, train, rate, steps, sigma * self.max_grad_norm / wide,
                     seed, device)


def audited(defense, seed, same_seed=False):
    def retrain(train, other):
        return defense(LogisticRegression(), train, VAL, seed if same_seed else other)

    return OneRunAudit()(retrain, retrain(TRAIN, seed), TRAIN, FRESH, seed)


@pytest.mark.parametrize("broken", [Unclipped, Quiet])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_broken_dp_sgd_is_caught(broken, seed):
    found = audited(broken(**HONEST), seed)
    claimed = found.model.notes["epsilon_claimed"]
    assert claimed < 0.5 < 1.8 * claimed < found.epsilon < found.epsilon_gdp
    assert found.refuted is True


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_an_honest_one_is_not(seed):
    found = audited(DPSGD(**HONEST), seed)
    assert 0 <= found.epsilon < found.model.notes["epsilon_claimed"]
    assert 0 <= found.epsilon_gdp < found.model.notes["epsilon_claimed"]  # full batches: the curve is Gaussian
    assert found.refuted is False


def test_the_claim_is_that_of_the_training_with_canaries(monkeypatch):
    def accountant(first, delta, rate, steps):  # the real ones take seconds
        return 1 + rate

    monkeypatch.setattr("suite.defenses.private.dpsgd.noise_multiplier", accountant)
    for name in ("epsilon_prv", "epsilon_pld", "epsilon_replaced"):
        monkeypatch.setattr(f"suite.defenses.private.accounting.{name}", accountant)
    asked = []
    monkeypatch.setattr("privacy.canaries.privacy_curve", lambda *of: asked.append(of) or (np.zeros(1), np.ones(1)))
    found = audited(DPSGD(epsilon=3.0, delta=1e-4, batch=30, epochs=2), 0)
    rate = 30 / public_size(len(TRAIN) + int(found.inside.sum()))
    assert found.model.notes["epsilon_claimed"] == 1 + rate
    assert found.delta == 1e-4 and asked == [(1 + rate, rate, round(2 / rate))]


def test_with_the_noise_of_the_reference_an_honest_one_would_be_caught():
    """Who compares two models with the same noise takes it out."""
    found = audited(DPSGD(**HONEST), 0, same_seed=True)
    assert found.epsilon > 1.5 * found.model.notes["epsilon_claimed"]


# ---- trainings that remember


class Memory(Classifier):
    """Is sure of the labels of the rows it has seen, as often as it is told to be; else it says so of anyone."""

    def __init__(self, seen, truth=1.0, seed=0):
        super().__init__(len(seen.classes), seen.space)
        self.seen = {x.tobytes(): y for x, y in zip(seen.x, seen.y, strict=True)}
        self.truth, self.rng = truth, np.random.default_rng(seed)

    def _proba(self, x):
        k = len(self.classes_)
        out = np.full((len(x), k), 1 / k)
        for p, row in zip(out, x, strict=True):
            told = self.rng.random() < self.truth
            sure = (row.tobytes() in self.seen) == told
            p += self.rng.random(k) * 1e-3
            if sure:
                p[self.seen.get(row.tobytes(), 1)] += 1.0
            p /= p.sum()
        return out


def run(retrain, fresh, seed=0, **terms):
    train = flat(100, 1000, len(fresh.classes), fresh.x.shape[1:])
    return OneRunAudit(**terms)(retrain, Blank(len(fresh.classes), fresh.space), train, fresh, seed)


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)])
def test_of_a_training_that_remembers_all_every_guess_is_right(shape):
    found = run(lambda train, _: Memory(train), flat(1000, 0, shape=shape), canaries=100, shares=(0.5,))
    assert found.right == found.made == 50 and found.delta == 0.001  # of 100 training rows
    assert found.epsilon == one_run(Guesses(100, 50, 50), 0.001) > 2
    assert found.epsilon_gdp == gaussian_epsilon(one_run_gdp(Guesses(100, 50, 50)), 0.001) > 4
    assert found.refuted is None  # nothing is claimed
    several = run(lambda train, _: Memory(train), flat(1000, 0, shape=shape), canaries=100, shares=(0.5, 0.1))
    assert several.epsilon_gdp == gaussian_epsilon(one_run_gdp(Guesses(100, 50, 50), 0.975), 0.001)


def test_of_a_training_that_remembers_nothing_nothing_is_shown():
    found = run(lambda train, _: Memory(train.take([])), flat(100, 0))
    assert found.epsilon == 0 == found.epsilon_gdp


@pytest.mark.parametrize("epsilon", [0.4, 1.2])
def test_a_training_of_known_epsilon_is_overstated_no_more_often_than_stated(epsilon):
    """It tells of each row whether it was there, and lies as often as epsilon asks for: randomized response."""
    repeats, fresh = 200, flat(60, 0)

    def respond(train, seed):
        model = Memory(train, expit(epsilon), seed)
        model.notes["delta"] = 1e-12
        return model

    found = [run(respond, fresh, seed, confidence=0.8).epsilon for seed in range(repeats)]
    assert np.mean(np.array(found) > epsilon) <= binom.ppf(0.999, repeats, 0.2) / repeats
    assert np.quantile(found, 0.9) > 0.4 * epsilon  # and it is not 0 because nothing was measured


# ---- what is put in


def test_trains_once_on_the_training_rows_and_mislabeled_canaries():
    calls, fresh = [], FRESH.take(slice(80))

    def retrain(train, seed):
        calls.append((train, seed))
        return Blank(2, train.space)

    found = OneRunAudit(canaries=50)(retrain, Blank(2, TRAIN.space), TRAIN, fresh, 3)
    (train, seed), = calls
    assert seed != 3
    assert found.inside.shape == found.score.shape == (50,) and 10 < found.inside.sum() < 40
    assert np.array_equal(train.x[:60], TRAIN.x) and np.array_equal(train.y[:60], TRAIN.y)
    put = {x.tobytes(): y for x, y in zip(train.x[60:], train.y[60:], strict=True)}
    labels = {x.tobytes(): y for x, y in zip(fresh.x, fresh.y, strict=True)}
    assert len(put) == found.inside.sum() and all(labels[x] == 1 - y for x, y in put.items())


def test_coins_are_fair_and_follow_the_seed():
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, same, other = (run(lambda train, _: Memory(train), flat(100, 0), seed) for seed in (5, 5, 6))
    assert np.array_equal(first.inside, same.inside) and np.array_equal(first.score, same.score)
    assert not np.array_equal(first.inside, other.inside)
    share = np.mean([run(lambda train, _: Blank(2, train.space), flat(40, 0), seed).inside for seed in range(60)])
    assert abs(share - 0.5) < 4 * 0.5 / 2400**0.5
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


def test_random_canaries_are_possible_inputs_that_resemble_nobody():
    _, x, y = patients()
    space = patients()[0].space
    rows = Split(x.numpy(), y.numpy(), space, ("healthy", "ill"), np.arange(60))
    drawn = redrawn(rows, np.random.default_rng(0))
    assert space.possible(torch.from_numpy(drawn.x)).all() and np.array_equal(drawn.y, rows.y)
    fixed = [2]  # an age can never change
    assert np.array_equal(drawn.x[:, fixed], rows.x[:, fixed])
    assert (drawn.x != rows.x).mean(0)[[0, 1]].min() > 0.9
    wide = redrawn(FRESH, np.random.default_rng(0)).x
    assert abs(wide.mean() - 0.5) < 0.01 and abs(wide.std() - 12**-0.5) < 0.01  # uniform on [0, 1]
    found = run(lambda train, _: Memory(train), flat(100, 0), source="random", canaries=60, shares=(0.5,))
    assert found.right == found.made == 30


def test_the_wrong_label_is_the_least_likely_one():
    @dataclass
    class Fixed(Classifier):
        def __post_init__(self):
            super().__init__(3, Space(0.0, 1.0))

        def _proba(self, x):
            return np.tile([0.1, 0.3, 0.6], (len(x), 1))

    three = replace(flat(3, 0, classes=3), y=np.array([0, 1, 2]))
    assert mislabeled(Fixed(), three).y.tolist() == [1, 0, 0]
    assert mislabeled(Blank(2, TRAIN.space), TRAIN).y.tolist() == (1 - TRAIN.y).tolist()


def test_what_the_reference_explains_is_taken_out_and_no_more():
    rng = np.random.default_rng(0)
    known, own = rng.normal(size=50), rng.normal(size=50)
    left = unexplained(3 * known + 7 + own, known)
    assert abs(np.corrcoef(left, known)[0, 1]) < 1e-9 and np.corrcoef(left, own)[0, 1] > 0.95
    assert np.abs(unexplained(2 * known, known)).max() < 1e-9
    assert np.allclose(unexplained(own, np.ones(50)), own - own.mean())


# ---- bad input


def test_refuses_what_makes_no_audit():
    with pytest.raises(InputError, match="4 held-out rows are too few"):
        run(None, flat(4, 0))
    with pytest.raises(InputError, match="0 held-out rows"):
        run(None, flat(10, 0).take([]))
    with pytest.raises(InputError, match="one class"):
        run(None, flat(50, 0, classes=1))
    outside = flat(50, 0)
    outside.x[7, 1] = 1.5
    with pytest.raises(InputError, match="row 7 is no possible input"):
        run(None, outside)
    for wrong in ({"shares": []}, {"shares": [0.0]}, {"confidence": 1.0}, {"source": "invented"}, {"canaries": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            registry.make("attacks", "one-run-audit", wrong)
    assert registry.make("attacks", "one-run-audit", {"shares": [0.5]}) == OneRunAudit(shares=(0.5,))
    with pytest.raises(InputError, match=r"not a number|does not return probabilities: row 0 of 50 has the .* nan"):
        run(lambda train, _: Broken(2, train.space), flat(50, 0))


class Broken(Classifier):
    def _proba(self, x):
        return np.full((len(x), 2), np.nan)
