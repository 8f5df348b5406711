"""What colluding sites send: answers by hand, constraints that hold and are used up, and what it does to the rules."""

import math

import pytest
import torch
from scipy.stats import norm

from federated.aggregation.aggregate import Bulyan, GeometricMedian, Krum, Mean, Median, MultiKrum, TrimmedMean
from federated.aggregation.mixing import NNM
from federated.attacks.hostile import (
    ALIE,
    IPM,
    FreeRider,
    GaussianUpdate,
    MinMax,
    MinSum,
    Scaling,
    SignFlip,
    UpdateAttack,
)
from suite.base.errors import InputError

HONEST = torch.tensor([[1.0, 4.0], [3.0, 4.0], [5.0, -2.0]])
"""Mean (3, 2), deviation (sqrt(8 / 3), sqrt(8))."""
DIRECTIONS = ("unit", "std", "sign")


def close(value, expected, **kwargs):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=torch.float32), **kwargs)


def honest(n=16, d=200, seed=0, spread=0.2):
    return 0.5 + spread * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


# ---- answers by hand


def test_sign_flip_by_hand():
    close(SignFlip(2.0)(HONEST, 2), [[-6.0, -4.0]] * 2)
    close(SignFlip(2.0)(HONEST, 2, own=HONEST[:2]), [[-2.0, -8.0], [-6.0, -8.0]])


def test_inner_product_manipulation_by_hand():
    close(IPM(0.5)(HONEST, 2), [[-1.5, -1.0]] * 2)
    for eps, turned in ((1.4, False), (1.6, True)):  # 3 honest sites to 2 bad ones
        result = Mean()(torch.cat([HONEST, IPM(eps)(HONEST, 2)]))
        assert bool((result @ HONEST.mean(0)) < 0) is turned


def test_a_little_is_enough_by_hand():
    close(ALIE(1.5)(HONEST, 1), [[3 - 1.5 * math.sqrt(8 / 3), 2 - 1.5 * math.sqrt(8)]])


@pytest.mark.parametrize(("n", "bad", "share"), [(50, 12, (50 - 12 - 14) / 38), (51, 24, 25 / 27), (5, 2, 2 / 3)])
def test_the_deviations_of_a_little_is_enough_are_the_papers(n, bad, share):
    assert norm.cdf(ALIE().deviations(n, bad)) == pytest.approx(share)


def test_a_little_is_enough_where_the_formula_asks_for_none_or_has_none():
    assert ALIE().deviations(10, 1) == 0  # 4 / 9 of the honest sites
    close(ALIE()(HONEST, 1), HONEST.mean(0)[None])
    with pytest.raises(InputError, match="4 bad sites of 7 are a majority"):
        ALIE()(HONEST, 4)
    assert ALIE(0.3).deviations(7, 4) == 0.3


def test_min_max_and_min_sum_by_hand():
    # mean 0, furthest apart 4; from -s the update at 2 is s + 2 away, which may be 4; squares 2 s^2 + 8 may be 16
    line = torch.tensor([[1.0], [5.0]])
    close(MinMax("sign")(line, 2), [[3.0 - 2]] * 2)
    close(MinSum("sign")(line, 2), [[3.0 - 2]] * 2)
    line = torch.tensor([[0.0], [0.0], [6.0]])  # mean 2; bound 6, so 6 - 2 + s = 6; squares 24 + 3 s^2 = 72
    close(MinMax("unit")(line, 1), [[0.0]])
    close(MinSum("unit")(line, 1), [[2.0 - 4]])


def test_model_replacement_makes_the_mean_the_attackers():
    own = torch.tensor([[7.0, -7.0], [9.0, -9.0]])
    close(Scaling(10.0)(HONEST, 2, own=own), 10 * own)
    converged = 1e-6 * HONEST
    close(Mean()(torch.cat([converged, Scaling()(converged, 2, own=own)])), [8.0, -8.0], atol=1e-4, rtol=0)


def test_free_riders_repeat_the_last_change_with_noise():
    last = torch.tensor([1.0, -2.0])
    close(FreeRider()(HONEST, 2, last=last), [[1.0, -2.0]] * 2)
    close(FreeRider()(HONEST, 2), torch.zeros(2, 2))
    x = honest(d=20_000)
    sent = FreeRider(0.1)(x, 2, last=x[0])
    assert (sent - x[0]).std() == pytest.approx(0.1, rel=0.03)
    assert not torch.equal(sent[0], sent[1])


def test_gaussian_updates_are_of_the_stated_size_and_from_the_seed():
    x = honest(d=20_000)
    sent = GaussianUpdate(3.0)(x, 2, seed=1)
    assert sent.std() == pytest.approx(3, rel=0.03)
    assert abs(sent.mean()) < 0.1
    assert abs(torch.corrcoef(sent)[0, 1]) < 0.03
    assert torch.equal(sent, GaussianUpdate(3.0)(x, 2, seed=1))
    assert not torch.equal(sent, GaussianUpdate(3.0)(x, 2, seed=2))


# ---- constraints


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_min_max_and_min_sum_keep_to_their_bounds_and_use_them_up(direction, seed):
    x = honest(7, 5, seed).double()
    between = torch.cdist(x, x) ** 2
    mean = x.mean(0)
    for attack, total in ((MinMax(direction), "max"), (MinSum(direction), "sum")):
        def reach(update):
            return getattr((x - update).square().sum(1), total)()  # noqa: B023

        bound = between.max() if total == "max" else between.sum(1).max()
        sent = attack(x.float(), 1)[0].double()
        assert reach(sent) == pytest.approx(float(bound), rel=1e-5)
        assert reach(mean + 1.01 * (sent - mean)) > bound
        away = {"unit": mean, "std": x.std(0), "sign": mean.sign()}[direction]
        assert torch.cosine_similarity(sent - mean, -away, dim=0) == pytest.approx(1, abs=1e-5)


def test_min_sum_stays_nearer_than_min_max():
    x = honest()
    for direction in DIRECTIONS:
        far, near = (attack(direction)(x, 1)[0] - x.mean(0) for attack in (MinMax, MinSum))
        assert 0 < near.norm() <= far.norm()


def test_updates_that_are_all_alike_leave_nowhere_to_go():
    for x in (torch.ones(3, 2), torch.zeros(3, 2), torch.ones(1, 2)):
        for direction in DIRECTIONS:
            for attack in (MinMax, MinSum):
                close(attack(direction)(x, 2), x[:1].repeat(2, 1))


# ---- what it does


def moved(rule, attack, bad=4, **kwargs):
    x = honest()
    return float((rule(torch.cat([x, attack(x, bad, **kwargs)])) - x.mean(0)).norm())


OWN = honest(4, seed=9) - 1
LOUD = {"sign": SignFlip(5.0), "gaussian": GaussianUpdate(20.0), "ipm": IPM(5.0), "scaling": Scaling(20.0)}
QUIET = {"alie": ALIE(1.5), "minmax": MinMax("std"), "minsum": MinSum("std")}
RULES = (Median(), TrimmedMean(4), Krum(4), MultiKrum(4), GeometricMedian(), NNM(4, TrimmedMean(4)))


@pytest.mark.parametrize(("weak", "strong"), [
    (SignFlip(1.0), SignFlip(2.0)), (GaussianUpdate(1.0), GaussianUpdate(5.0)), (ALIE(0.5), ALIE(1.0)),
    (IPM(0.5), IPM(1.0)), (Scaling(2.0), Scaling(10.0)), (FreeRider(1.0), FreeRider(10.0)), (MinSum(), MinMax())])
def test_a_larger_budget_moves_the_mean_further(weak, strong):
    assert 0 < moved(Mean(), weak, own=OWN) < moved(Mean(), strong, own=OWN)
    assert moved(Mean(), weak, bad=2, own=OWN[:2]) < moved(Mean(), weak, own=OWN)


@pytest.mark.parametrize("attack", LOUD.values(), ids=LOUD)
@pytest.mark.parametrize("rule", [*RULES, Bulyan(3)])
def test_robust_rules_move_less_than_the_mean(attack, rule):
    bad = min(getattr(rule, "bad", 4), 4)
    assert moved(rule, attack, bad, own=OWN[:bad]) < moved(Mean(), attack, bad, own=OWN[:bad])


@pytest.mark.parametrize("attack", QUIET.values(), ids=QUIET)
def test_attacks_that_hide_among_honest_updates_are_bounded_by_their_spread_but_not_by_robust_rules(attack):
    # what they are for: the median and the trimmed mean do no better than the mean, and Krum takes one whole update
    x = honest()
    between = torch.cdist(x, x).max()
    for rule in (*RULES, Bulyan(3)):
        bad = min(getattr(rule, "bad", 4), 4)
        assert moved(rule, attack, bad) < between
    for rule, times in ((Median(), 1), (TrimmedMean(4), 1), (Krum(4), 3)):
        assert moved(rule, attack) > times * moved(Mean(), attack)


# ---- bad input


@pytest.mark.parametrize("make", [
    lambda: SignFlip(0.0), lambda: GaussianUpdate(math.nan), lambda: ALIE(-1.0), lambda: IPM(math.inf),
    lambda: MinMax("other"), lambda: Scaling(0.0), lambda: FreeRider(-1.0)])
def test_hyper_parameters_out_of_range(make):
    with pytest.raises(InputError, match="must"):
        make()


@pytest.mark.parametrize(("arguments", "message"), [
    ({"bad": 0}, "IPM: bad must be at least 1, got 0"), ({"honest": torch.ones(3)}, "honest updates: needs sites"),
    ({"honest": torch.tensor([[math.nan]])}, "honest updates: that of site 0 is not finite"),
    ({"own": torch.ones(1, 2)}, r"own updates: needs the shape \(2, 2\)"), ({"last": torch.ones(3)}, "last change")])
def test_arguments_that_are_none(arguments, message):
    with pytest.raises(InputError, match=message):
        IPM()(**{"honest": HONEST, "bad": 2} | arguments)


def test_scaling_needs_updates_to_scale():
    with pytest.raises(InputError, match="own updates"):
        Scaling()(HONEST, 1)


def test_every_attack_names_its_paper_and_threat():
    for attack in (*LOUD.values(), *QUIET.values(), FreeRider()):
        assert isinstance(attack, UpdateAttack)
        assert attack.info.paper
        assert "poisoning" in attack.info.threats
