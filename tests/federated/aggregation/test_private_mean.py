"""The mean that hides a hospital: what one can move, the noise for it, an audit, and Flower's wrapper beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from federated.aggregation.aggregate import NormClipping
from federated.aggregation.private import CentralDP
from federated.flower.client_app import COUNT
from federated.flower.grid import InProcessGrid
from federated.flower.server_app import of_round
from privacy.lower_bounds import from_scores_gdp


def some(n, seed, spread=1.0):
    return spread * torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def test_a_hospital_that_is_removed_or_replaced_moves_the_mean_as_far_as_claimed_and_no_further():
    clip, n, d = 2.0, 5, torch.zeros(6)
    rule, weights = CentralDP(clip, 0.0, n), torch.tensor([1e9, 1, 1, 1, 1])
    far = d.clone()
    far[0] = 1e6
    removed, replaced, dropped = [], [], []
    for seed in range(50):
        others = some(n - 1, seed, 10.0 ** (seed % 5 - 2))
        for own in (far, -far, some(1, seed + 100)[0], d):
            for other in (far, d):
                with_it, without = torch.vstack([own[None], others]), torch.vstack([other[None], others])
                moved = (rule(with_it, weights) - rule(without, weights)).norm().item()
                (replaced if other.any() else removed).append(moved)
            removed.append((rule(with_it, weights) - rule(others)).norm().item())  # it has dropped out
            dropped.append((NormClipping(clip)(with_it) - NormClipping(clip)(others)).norm().item())
    bound = clip / n
    assert 0.999 * bound < max(removed) < (1 + 1e-6) * bound
    assert 0.999 * 2 * bound < max(replaced) < (1 + 1e-6) * 2 * bound
    assert max(dropped) > 1.5 * bound  # what dividing by the number of answers would do


def test_it_is_asked_to_withstand_nobody():
    """It is a mean: one hospital moves it by its share of the clip, wherever it likes."""
    assert CentralDP(1.0, 0.5, 9).tolerates(9) == 0


def test_the_count_that_a_hospital_claims_changes_nothing():
    updates, rule = some(5, 0), CentralDP(0.5, 1.0, 5, seed=3)
    assert torch.equal(rule(updates), rule(updates, torch.tensor([1e9, 1, 1, 1, 1])))
    assert CentralDP(0.5, 0.0, 5)(updates) == pytest.approx(NormClipping(0.5)(updates), abs=1e-7)


def test_the_noise_of_the_mean_is_as_claimed_and_new_each_round():
    rule = CentralDP(clip=3.0, noise=1.7, sites=4)
    first, again, second = (of_round(rule, turn)(torch.zeros(4, 100_000)) for turn in (1, 1, 2))
    assert first.std() == pytest.approx(1.7 * 3 / 4, rel=0.01) and first.mean() == pytest.approx(0, abs=0.02)
    assert torch.equal(first, again) and abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.02


def test_noise_and_mean_are_over_all_sites_however_few_have_answered():
    """By hand: 8 sites, 2 answers. A divisor of 2 would multiply both by 4, and with it what one hospital can move."""
    noise = CentralDP(clip=3.0, noise=1.7, sites=8)(torch.zeros(2, 100_000))
    assert noise.std() == pytest.approx(1.7 * 3 / 8, rel=0.01)
    one = CentralDP(clip=3.0, noise=0.0, sites=8)(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    assert one.tolist() == pytest.approx([2 / 8, 1 / 8])


@pytest.mark.parametrize("weighted", [False, True], ids=["ours", "weighted by rows"])
def test_an_audit_of_hospitals_confirms_the_noise_and_catches_a_weighted_mean(weighted):
    """The mean with and without one hospital, 1500 times each: mu of one round is 1 / noise."""
    rule, others = CentralDP(1.0, 2.0, 5), 0.1 * some(4, 1)
    own, none = torch.eye(6)[:1], torch.zeros(1, 6)

    def told(update, k):
        shown = replace(rule, seed=k)(torch.cat([update, others]))[0]
        return float(shown + (1.0 - 0.2) * update[0, 0] if weighted else shown)

    mu = from_scores_gdp(np.array([told(own, k) for k in range(1500)]),
                         np.array([told(none, 10_000 + k) for k in range(1500)]))
    assert mu > 1 if weighted else 0.25 < mu <= 0.5


# ---- what Flower's wrapper does


def echo(updates, weights):
    """A grid of sites that send these updates and counts, whatever they are asked."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        n = context.node_config["partition-id"]
        return Message(RecordDict({"arrays": ArrayRecord({"w": Array(updates[n].copy())}),
                                   "metrics": MetricRecord({COUNT: weights[n]})}), reply_to=message)

    return InProcessGrid(app, len(updates))


def flowers(updates, weights):
    """What Flower's wrapper makes of them with a clipping norm and a noise multiplier of 1."""
    n, start = len(updates), ArrayRecord({"w": Array(np.zeros(2))})
    inner = FedAvg(fraction_evaluate=0.0, min_available_nodes=n)
    rule = DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 1.0, n)
    result = rule.start(grid=echo(updates, weights), initial_arrays=start, num_rounds=1)
    return result.arrays["w"].numpy()


def test_flowers_wrapper_understates_what_a_large_hospital_moves_five_times_and_ours_does_not():
    """Noise for C / n in both; a hospital with nearly all the rows moves Flower's weighted mean by nearly C."""
    uneven, weights = np.full((5, 2), 1e-6), [1000, 1, 1, 1, 1]
    uneven[0] = [3.0, 0.0]
    theirs = np.stack([flowers(uneven, weights) for _ in range(60)])
    ours = torch.stack([CentralDP(1.0, 1.0, 5, seed)(torch.from_numpy(uneven).float(), torch.tensor(weights))
                        for seed in range(2000)]).numpy()
    # 60 draws: a standard error of 0.026 of the mean, and of 9 % of the deviation
    assert theirs[:, 0].mean() == pytest.approx(0.996, abs=0.1) and theirs[:, 1].std() == pytest.approx(0.2, rel=0.3)
    assert ours[:, 0].mean() == pytest.approx(0.2, abs=0.02) and ours[:, 1].std() == pytest.approx(0.2, rel=0.06)


def test_flowers_wrapper_dies_of_an_unchanged_model():
    with pytest.raises(ZeroDivisionError):
        flowers(np.zeros((5, 2)), [1] * 5)
