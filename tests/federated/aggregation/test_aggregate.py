"""Rules for updates: answers by hand and by independent means, and what no bad site may do to them."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import trim_mean

from federated.aggregation.aggregate import (
    Bulyan,
    CenteredClipping,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    MultiKrum,
    NormClipping,
    TrimmedMean,
)
from federated.aggregation.mixing import NNM, Bucketing
from federated.aggregation.trust import FLAME, FLTrust
from federated.core.stacked import norms, squared_distances
from suite.base.errors import InputError

SMALL = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 60.0], [6.0, 30.0], [100.0, -500.0]])
"""Five updates, the last of them far off."""
HONEST_REFERENCE = torch.ones(7)
ROBUST = {
    "median": Median(), "trimmed": TrimmedMean(2), "krum": Krum(2), "multikrum": MultiKrum(2), "bulyan": Bulyan(2),
    "geometric": GeometricMedian(), "norm": NormClipping(), "norm fixed": NormClipping(2.0),
    "centered": CenteredClipping(2.0, 3), "fltrust": FLTrust(), "flame": FLAME(noise=0.0),
    "nnm": NNM(2, TrimmedMean(2)), "bucketing": Bucketing(2, Median(), seed=3),
}
robust = pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)


def some(n, d=7, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.ones(d) + spread * torch.randn(n, d, generator=generator)


def close(value, expected, **kwargs):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=torch.float32), **kwargs)


# ---- answers by hand, and by independent means


def test_mean_weights_by_counts_and_nothing_else_does():
    close(Mean()(SMALL), SMALL.mean(0))
    close(Mean()(SMALL, torch.tensor([1, 3, 0, 0, 0])), [1.75, 17.5])
    updates, counts = some(11), torch.tensor([1e9, *[1.0] * 10])
    for rule in ROBUST.values():
        assert torch.equal(rule(updates, counts, HONEST_REFERENCE), rule(updates, None, HONEST_REFERENCE))


def test_median_and_trimmed_mean_by_hand():
    close(Median()(SMALL), [3.0, 20.0])
    close(Median()(SMALL[:4]), [2.5, 25.0])
    close(TrimmedMean(1)(SMALL), [11 / 3, 20.0])
    close(TrimmedMean(0)(SMALL), SMALL.mean(0))


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_median_and_trimmed_mean_are_those_of_numpy_and_scipy_over_several_chunks(n):
    x = some(n, 300_000 // n, n)
    close(Median()(x), np.median(x.numpy(), 0))
    bad = (n - 1) // 2
    close(TrimmedMean(bad)(x), trim_mean(x.double().numpy(), bad / n + 1e-9, axis=0))


def test_krum_by_hand():
    # two neighbors count: 0 has 1 + 4, 1 has 1 + 1, 2 has 1 + 4, 5 has 9 + 16, 9 has 16 + 49
    line = torch.tensor([[0.0], [1.0], [2.0], [5.0], [9.0]])
    close(Krum(1)(line), [1.0])
    close(MultiKrum(1, keep=3)(line), [1.0])
    close(MultiKrum(1, keep=1)(line), [1.0])
    close(MultiKrum(1)(line), [2.0])  # without 9


def krum_scores(x, bad):
    x = x.double()
    return [sum(sorted(float(((x[i] - x[j]) ** 2).sum()) for j in range(len(x)) if j != i)[:max(len(x) - bad - 2, 1)])
            for i in range(len(x))]


@pytest.mark.parametrize("seed", range(3))
def test_krum_and_its_kin_are_those_of_brute_force(seed):
    x, bad = some(11, 5, seed), 2
    order = np.argsort(krum_scores(x, bad))
    assert torch.equal(Krum(bad)(x), x[order[0]])
    close(MultiKrum(bad)(x), x[order[:9]].mean(0))
    left, picked = list(range(11)), []
    while len(picked) < 7:
        picked.append(left.pop(int(np.argmin(krum_scores(x[left], bad)) if len(left) > 1 else 0)))
    expected = []
    for column in x[picked].T.numpy():
        nearest = sorted(column, key=lambda v: abs(v - np.median(column)))
        expected.append(np.mean(nearest[:3]))
    close(Bulyan(bad)(x), np.array(expected))
    close(Bulyan(0)(x), x.mean(0))


def test_geometric_median_by_hand():
    square = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    close(GeometricMedian()(square), [2.0, 2.0])
    close(GeometricMedian()(torch.tensor([[0.0], [1.0], [7.0]])), [1.0], atol=1e-3, rtol=0)
    close(GeometricMedian()(torch.full((4, 3), 2.5)), [2.5] * 3)


@pytest.mark.parametrize("seed", range(3))
def test_geometric_median_is_that_of_a_convex_optimizer(seed):
    x = some(9, 4, seed).double().numpy()
    x[0] += 50

    def cost(z):
        return np.linalg.norm(x - z, axis=1).sum()

    best = minimize(cost, x.mean(0), method="BFGS", options={"gtol": 1e-9})
    close(GeometricMedian()(torch.from_numpy(x).float()), best.x, atol=1e-5, rtol=0)


def test_geometric_median_sees_small_differences_of_large_updates_beside_a_huge_one():
    x = torch.round(8 * some(9, 50)) / 8
    x[8] = 1e9
    large = x + 2.0**16  # exact, the huge one aside
    close(GeometricMedian()(large) - 2.0**16, GeometricMedian()(x), atol=0.02, rtol=0)


def test_norm_clipping_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, -20.0]])
    close(NormClipping(1.0)(x), [0.2, (0.8 + 1 - 1) / 3])
    close(NormClipping()(x), [1.0, (4.0 + 1 - 5) / 3])  # lengths 5, 1, 20


def test_centered_clipping_by_hand():
    x = torch.tensor([[0.0], [1.0], [100.0]])
    close(CenteredClipping(3.0)(x), [(0 + 1 + 3) / 3])
    close(CenteredClipping(3.0)(x, reference=torch.tensor([100.0])), [98.0])
    close(CenteredClipping(3.0, 2)(x), [4 / 3 + (-4 / 3 - 1 / 3 + 3) / 3])
    close(CenteredClipping(1e6)(x), x.mean(0))


def test_fltrust_by_hand():
    own = torch.tensor([2.0, 0.0])
    x = torch.tensor([[10.0, 0.0], [0.3, 0.4], [-5.0, 1.0], [0.0, 0.0]])  # cosines 1, 0.6, below 0, none
    close(FLTrust()(x, reference=own), [(2 + 0.6 * 1.2) / 1.6, 0.6 * 1.6 / 1.6])
    close(FLTrust()(-own[None], reference=own), [0.0, 0.0])
    with pytest.raises(InputError, match="server's own update"):
        FLTrust()(x)


def test_flame_admits_a_majority_of_one_direction_and_cuts_it_to_the_median_length():
    good = torch.eye(6, 7)  # all equally far from each other, so that none stands at the edge of the cluster
    good[:, 6] = 10.0
    good[0] *= 50
    bad = torch.zeros(3, 7)
    bad[:, :3] = torch.tensor([[0.0, 1.0, 9.0], [0.0, 2.0, 8.0], [-3.0, 3.0, 3.0]])
    x = torch.cat([good, bad])
    bound = x.norm(dim=1).median()
    expected = (good * (bound / good.norm(dim=1)).clamp_max(1)[:, None]).mean(0)
    close(FLAME(noise=0.0)(x), expected)


def test_flame_adds_noise_of_the_stated_size_from_its_seed():
    x = 1e-3 * some(5, 20_000)
    noise = (FLAME(noise=0.5)(x) - FLAME(noise=0.0)(x)) / x.norm(dim=1).median()
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(FLAME(seed=1)(x), FLAME(seed=1)(x))
    assert not torch.equal(FLAME(seed=1)(x), FLAME(seed=2)(x))


def test_flame_without_a_majority_admits_all():
    x = 3 * torch.eye(4)
    close(FLAME(noise=0.0)(x[:2]), x[:2].mean(0))
    close(FLAME(noise=0.0)(torch.zeros(3, 2)), [0.0, 0.0])


def test_nearest_neighbor_mixing_by_hand():
    line = torch.tensor([[0.0], [1.0], [3.0], [50.0]])
    # each with its two nearest: (0 1 3), (0 1 3), (0 1 3), (50 3 1)
    close(NNM(1, Median())(line), [4 / 3])
    close(NNM(1, Mean())(line), [(3 * 4 / 3 + 54 / 3) / 4])
    close(NNM(0, Mean())(line), line.mean(0))


def test_buckets_hold_each_site_once():
    x = some(7)
    close(Bucketing(7, Median())(x), x.mean(0))
    close(Bucketing(1, Median())(x), Median()(x))
    powers = torch.tensor([[1.0], [10.0], [100.0], [1000.0], [10000.0]])
    seen = set()
    for seed in range(20):
        low, middle, high = sorted(Bucketing(2, _Buckets(), seed)(powers).tolist())
        assert any(sorted((sum(pair) / 2, sum(other) / 2, single)) == pytest.approx([low, middle, high])
                   for pair, other, single in _partitions(powers.ravel().tolist()))
        seen.add(middle)
    assert len(seen) > 3


class _Buckets(Median):
    """Hands back the buckets it got."""

    def _aggregate(self, updates, weights, reference):
        return updates.ravel()


def _partitions(values):
    for pair in itertools.combinations(values, 2):
        rest = [v for v in values if v not in pair]
        for other in itertools.combinations(rest, 2):
            yield pair, other, next(v for v in rest if v not in other)


# ---- relations


def test_composition_hands_the_reference_on():
    x, own = some(9), HONEST_REFERENCE
    close(NNM(0, FLTrust())(x, reference=own), FLTrust()(x.mean(0).repeat(9, 1), reference=own))
    close(Bucketing(1, CenteredClipping(1.0))(x, reference=own), CenteredClipping(1.0)(x, reference=own))


@pytest.mark.parametrize("rule", [Mean(), *[r for r in ROBUST.values() if not isinstance(r, Bucketing)]])
def test_the_order_of_sites_does_not_matter(rule):
    x = some(11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
    close(rule(x[order], reference=HONEST_REFERENCE), rule(x, reference=HONEST_REFERENCE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", [Mean(), Median(), TrimmedMean(2), Krum(2), MultiKrum(2), Bulyan(2),
                                  GeometricMedian(), NNM(2, Krum(2)), Bucketing(2, Median())])
def test_moved_updates_move_the_result_as_much(rule):
    x, shift = some(11), torch.arange(7.0)
    close(rule(x + shift), rule(x) + shift, rtol=1e-4, atol=1e-4)


def test_centered_clipping_moves_with_its_center():
    x, shift = some(11), torch.arange(7.0)
    rule = CenteredClipping(1.0, 2)
    close(rule(x + shift, reference=shift) - shift, rule(x), rtol=1e-4, atol=1e-5)


@robust
@pytest.mark.parametrize("size", [1e3, 1e12, 1e30])
def test_one_outlier_of_any_size_moves_no_rule_far(rule, size):
    x = some(11, spread=0.3)
    before = rule(x, reference=HONEST_REFERENCE)
    assert (Mean()(x) - before).norm() < 1.5
    x[4] = size * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0])
    assert (rule(x, reference=HONEST_REFERENCE) - before).norm() < 1.5
    assert (Mean()(x) - before).norm() > 100


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(5), Krum(4), MultiKrum(4), Bulyan(2), GeometricMedian(),
                                  NormClipping(), FLAME(noise=0.0), NNM(4, Krum(4)), Bucketing(1, Krum(4))])
@pytest.mark.parametrize("size", [1e3, 1e9])
def test_as_many_colluders_as_the_rule_tolerates_move_it_by_no_more_than_the_honest_are_spread(rule, size):
    n = 11
    x, bad = some(n, spread=0.3), rule.tolerates(n)
    inner = x[:n - bad].mean(0)
    spread = float(torch.cdist(x, x).max())
    x[n - bad:] = inner + size
    moved = (rule(x) - inner).norm()
    # all lengths cut to the median one: what is left of the bad ones is as long as an honest update
    assert moved < (2 * inner.norm() if isinstance(rule, NormClipping) else 2 * spread)
    x[n - bad - 1] = inner + size
    if isinstance(rule, (Median, GeometricMedian)):
        assert (rule(x) - inner).norm() > 100


def test_a_huge_update_hides_no_other_bad_one():
    # with rounding errors as large as the huge one, the merely bad one would look as near as any
    x = some(11, spread=0.01)
    x[9], x[10] = 20.0, 1e18
    distance = squared_distances(x)
    assert distance[:9, :9].max() < 0.01 < 100 < distance[:9, 9].min()
    for rule in (Krum(2), MultiKrum(2), Bulyan(2), GeometricMedian(), NNM(2, Median())):
        assert (rule(x) - 1).abs().max() < 0.1, rule


def test_nearly_equal_updates_keep_their_distances():
    # differences of a few units in the last place of float32
    generator = torch.Generator().manual_seed(0)
    x = 3.0 + torch.randint(0, 8, (10, 5000), generator=generator) * 2.0**-21
    exact = torch.cdist(x.double() - 3, x.double() - 3) ** 2
    torch.testing.assert_close(squared_distances(x), exact, rtol=0.1, atol=0)
    order = np.argsort(krum_scores(x - 3, 2))
    assert torch.equal(Krum(2)(x), x[order[0]])


def test_lengths_beyond_what_squares_in_float32_allow():
    x = torch.tensor([[3e30, 4e30], [3e-3, 4e-3]])
    torch.testing.assert_close(norms(x), torch.tensor([5e30, 5e-3], dtype=torch.float64), rtol=1e-6, atol=0)
    close(Median()(torch.full((2, 1), 3e38)), [3e38])


@robust
def test_updates_are_left_as_they_are_and_the_same_comes_out_again(rule):
    x = some(11)
    before = x.clone()
    first = rule(x, reference=HONEST_REFERENCE)
    first_copy = first.clone()
    first += 1
    assert torch.equal(x, before)
    assert torch.equal(rule(x, reference=HONEST_REFERENCE), first_copy)


def test_one_parameter_and_one_site():
    for rule in (Mean(), Median(), TrimmedMean(0), GeometricMedian(), NormClipping(), FLAME(noise=0.0),
                 CenteredClipping(10.0), NNM(0, Mean()), Bucketing(2, Mean())):
        close(rule(torch.tensor([[2.0]])), [2.0])


# ---- bounds and bad input


@pytest.mark.parametrize(("rule", "n", "most"), [
    (Mean(), 10, 0), (Median(), 10, 4), (Median(), 11, 5), (TrimmedMean(1), 10, 4), (Krum(1), 10, 3), (Krum(1), 11, 4),
    (MultiKrum(1), 11, 4), (Bulyan(1), 10, 1), (Bulyan(1), 11, 2), (GeometricMedian(), 10, 4),
    (NormClipping(), 10, 4), (NormClipping(1.0), 10, 10), (CenteredClipping(), 10, 1), (FLTrust(), 10, 10),
    (FLAME(), 10, 4), (NNM(1, Krum(1)), 10, 3), (NNM(1, Median()), 10, 4), (Bucketing(2, Krum(1)), 10, 1)])
def test_bounds(rule, n, most):
    assert rule.tolerates(n) == most
    if isinstance(rule, (TrimmedMean, Krum, MultiKrum, Bulyan)):
        replace(rule, bad=most).check(n)
        with pytest.raises(InputError, match=rf"bad = {most + 1} needs at least .* sites .* there are {n}"):
            replace(rule, bad=most + 1).check(n)


@pytest.mark.parametrize(("rule", "n", "message"), [
    (Krum(2), 6, r"Krum: bad = 2 needs at least 7 sites \(2 bad \+ 3\), and there are 6"),
    (Bulyan(1), 6, "at least 7 sites"), (TrimmedMean(3), 6, "at least 7 sites"), (NNM(1, Krum(2)), 6, "Krum: bad = 2"),
    (Bucketing(3, Krum(1)), 12, "at least 5 sites .* there are 4"), (MultiKrum(1, keep=6), 6, "between 1 and 5"),
    (MultiKrum(1, keep=0), 6, "keep must lie")])
def test_too_many_bad_sites_are_refused_with_the_bound(rule, n, message):
    with pytest.raises(InputError, match=message):
        rule(some(n))


@pytest.mark.parametrize("make", [
    lambda: Krum(-1), lambda: NormClipping(0.0), lambda: NormClipping(math.inf), lambda: CenteredClipping(math.nan),
    lambda: CenteredClipping(1.0, 0), lambda: GeometricMedian(0.0), lambda: FLAME(-1.0),
    lambda: Bucketing(0, Median())])
def test_hyper_parameters_out_of_range(make):
    with pytest.raises(InputError, match="must"):
        make()


@pytest.mark.parametrize(("updates", "message"), [
    (torch.ones(3), "sites x parameters"), (torch.ones(0, 3), "sites x parameters"),
    (torch.ones(3, 2).double(), "float32"), (torch.tensor([[1.0], [math.nan]]), "site 1 is not finite"),
    (torch.tensor([[math.inf], [-math.inf]]), "site 0 is not finite")])
def test_updates_that_are_none(updates, message):
    with pytest.raises(InputError, match=message):
        Median()(updates)


def test_weights_and_references_that_are_none():
    for weights in ([1, 2], [1, -1, 1, 1, 1], [0] * 5, [1, 1, 1, 1, math.nan]):
        with pytest.raises(InputError, match="weights: needs 5 finite"):
            Mean()(SMALL, torch.tensor(weights, dtype=torch.float32))
    with pytest.raises(InputError, match="reference: needs 2 parameters"):
        FLTrust()(SMALL, reference=torch.ones(3))
    with pytest.raises(InputError, match=r"reference: .* not finite"):
        CenteredClipping()(SMALL, reference=torch.tensor([1.0, math.nan]))
