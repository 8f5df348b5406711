"""Many-runs audits: a known epsilon is not overstated and is neared, a broken DP-SGD is caught, an honest one not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from privacy.lower_bounds import from_scores, from_scores_gdp, gaussian_epsilon
from privacy.many_runs import ManyRunsAudit
from suite.base import registry
from suite.base.errors import InputError
from suite.defenses.private.dpsgd import DPSGD
from tabular.models import LogisticRegression
from tests.support.canaries import FRESH, HONEST, TRAIN, VAL, Blank, Quiet, flat


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Answer(Blank):
    """As sure of label 1 as it is told to be, of everyone."""

    def __init__(self, space, sure, notes):
        super().__init__(2, space)
        self.sure, self.notes = sure, notes

    def _proba(self, x):
        return np.tile([1 - self.sure, self.sure], (len(x), 1))


def run(sure, seed=0, delta=1e-12, **terms):
    """An audit of trainings that are so sure of the canary's label: `(row is in, rng) -> probability`."""
    train = flat(100, 1000)

    def retrain(rows, own):
        return Answer(train.space, sure(len(rows) > len(train), np.random.default_rng(own)), {"delta": delta})

    return ManyRunsAudit(**terms)(retrain, Blank(2, train.space), train, flat(5, 1), seed)


def randomized_response(epsilon):
    """Says whether the row was there, and lies as often as epsilon asks for."""
    return lambda there, rng: 0.8 if (rng.random() < expit(epsilon)) == there else 0.2


@pytest.mark.parametrize("epsilon", [0.5, 1.5])
def test_a_training_of_known_epsilon_is_overstated_no_more_often_than_stated(epsilon):
    repeats = 300
    found = [run(randomized_response(epsilon), seed, runs=64, confidence=0.9).epsilon for seed in range(repeats)]
    assert np.mean(np.array(found) > epsilon) <= binom.ppf(0.999, repeats, 0.1) / repeats


def test_many_runs_bring_the_bound_near():
    few, many = (run(randomized_response(2.0), runs=n).epsilon for n in (64, 4000))
    assert few < many and 1.6 < many <= 2.0


def test_gaussian_noise_of_known_mu_is_neared():
    found = run(lambda there, rng: expit(1.5 * there + rng.normal()), runs=4000, delta=1e-3)
    assert 0.75 * gaussian_epsilon(1.5, 1e-3) < found.epsilon_gdp <= gaussian_epsilon(1.5, 1e-3)
    assert 0 < found.epsilon < found.epsilon_gdp and found.refuted is None


def test_trainings_that_tell_all_have_a_closed_form():
    found = run(lambda there, rng: 0.9 if there else 0.1, runs=32, delta=1e-3)
    assert found.made == found.right == 16 and found.inside.sum() == 16
    assert found.epsilon == from_scores(np.ones(16), np.zeros(16), 1e-3) > 0.5
    assert found.epsilon_gdp == gaussian_epsilon(from_scores_gdp(np.ones(16), np.zeros(16)), 1e-3) > 1
    assert run(lambda there, rng: 0.5, runs=32).epsilon == 0


def test_one_row_with_the_wrong_label_is_all_that_differs():
    calls = []

    def retrain(rows, seed):
        calls.append((rows, seed))
        return Blank(2, rows.space)

    class Doubts(Blank):
        """Is the surer of label 0, the larger the first column."""

        def _proba(self, x):
            return np.stack([0.5 + x[:, 0] / 2, 0.5 - x[:, 0] / 2], 1)

    fresh = flat(20, 3)
    ManyRunsAudit(runs=32)(retrain, Doubts(2, fresh.space), flat(50, 0), fresh, 3)
    assert sorted(len(rows) for rows, _ in calls) == [50] * 16 + [51] * 16
    assert len({seed for _, seed in calls}) == 32
    added = {(rows.x[50].tobytes(), int(rows.y[50])) for rows, _ in calls if len(rows) == 51}
    assert added == {(fresh.x[fresh.x[:, 0].argmax()].tobytes(), 1)}
    first, calls[:] = [seed for _, seed in calls], []
    ManyRunsAudit(runs=32, source="random")(retrain, Doubts(2, fresh.space), flat(50, 0), fresh, 4)
    assert not set(first) & {seed for _, seed in calls}
    assert calls[-1][0].x[50].tobytes() not in {x.tobytes() for x in fresh.x}


@pytest.mark.parametrize(("defense", "false"), [(DPSGD, False), (Quiet, True)])
def test_a_broken_dp_sgd_is_caught_and_an_honest_one_is_not(defense, false):
    made = defense(**HONEST | {"epochs": 10})

    def retrain(rows, seed):
        return made(LogisticRegression(), rows, VAL, seed)

    found = ManyRunsAudit(runs=64)(retrain, retrain(TRAIN, 0), TRAIN, FRESH, 0)
    assert found.model.notes["epsilon_claimed"] <= 0.5
    assert (found.epsilon > found.model.notes["epsilon_claimed"]) is false


def test_refuses_what_makes_no_audit():
    fresh = flat(5, 1)
    outside = replace(fresh, x=fresh.x + 2)
    for rows, terms, named in ((fresh, {"runs": 4}, "4 runs are too few"), (outside, {}, "no possible input"),
                               (fresh.take([]), {}, "no held-out row"), (flat(5, 0, classes=1), {}, "one class")):
        with pytest.raises(InputError, match=named):
            ManyRunsAudit(**terms)(None, Blank(2, rows.space), flat(50, 0, len(rows.classes)), rows)
    for wrong in ({"runs": 5}, {"confidence": 1.0}, {"source": "invented"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            registry.make("attacks", "many-runs-audit", wrong)
