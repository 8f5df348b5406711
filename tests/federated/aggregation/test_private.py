"""Privacy that adds up over rounds, whose sensitivity is what is claimed, and that an audit does not refute."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.serverapp.strategy import FedAvg

from federated.aggregation.aggregate import Mean
from federated.aggregation.private import CentralDP, LocalDP, RecordDP, Round, Terms, claims, spent
from federated.flower.client_app import SPENT, hospital, ledger, packed
from federated.flower.grid import FIRST, NORM, Border, InProcessGrid
from federated.flower.server_app import Joined, rounds
from federated.flower.simulate import federate, reach
from federated.task.task import Task
from federated.training.defense import FederatedTraining
from privacy.lower_bounds import from_scores_gdp, gaussian_epsilon
from suite.base.errors import InputError
from suite.base.seeding import seeded
from suite.core.data import joined
from suite.defenses.private.accounting import composed_pld, composed_prv, epsilon_prv
from tabular.models import MLP
from tests.support.breast import breast

SITES = 3
RECORD = RecordDP(epsilon=3.0, rounds=4)


@pytest.fixture(scope="module")
def whole():
    return breast()


@pytest.fixture(scope="module")
def sites(whole):
    """Hospitals of 20, 60 and 120 rows."""
    return [whole[0].take(slice(a, b)) for a, b in pairwise([0, 20, 80, 200])]


@pytest.fixture(scope="module")
def task(whole):
    """Batches of 60: of three hospitals, only the largest draws them."""
    train = whole[0]
    return Task(MLP(hidden=(8,), balanced=False, weight_decay=0.0), train.x.shape[1:], train.classes, train.space,
                batch=60)


def app_of(task, sites):
    return hospital(lambda context: (task, sites[context.node_config["partition-id"]],
                                     context.node_config["partition-id"]))


def border(task, sites, events=None, **named):
    told = (lambda what, facts: events.append((what, facts))) if events is not None else (lambda *_: None)
    return Border(InProcessGrid(app_of(task, sites), len(sites)), task.size, event=told, **named)


def ledgers(grid):
    return [ledger(context.state) for context in grid.inner.contexts.values()]


def silent(monkeypatch):
    """No noise, whatever epsilon."""
    monkeypatch.setattr("federated.aggregation.private.noise_multiplier", lambda *_: 0.0)


# ---- what rounds spend together


@pytest.mark.filterwarnings("ignore:Secure RNG", "ignore:Full backward hook")
def test_ten_rounds_that_each_claim_4_54_spend_11_29():
    """A new Opacus engine each round forgets; 134 rows in batches of 32 are 5 steps at a rate of a fifth."""
    from opacus import PrivacyEngine
    from opacus.accountants import RDPAccountant

    rows = torch.utils.data.TensorDataset(torch.randn(134, 3, generator=torch.Generator().manual_seed(0)),
                                          torch.zeros(134, dtype=torch.int64))
    told, together = [], RDPAccountant()
    for _ in range(10):
        engine, module = PrivacyEngine(accountant="rdp"), torch.nn.Linear(3, 2)
        module, optimizer, loader = engine.make_private(
            module=module, optimizer=torch.optim.SGD(module.parameters(), 0.1), noise_multiplier=1.0,
            max_grad_norm=1.0, data_loader=torch.utils.data.DataLoader(rows, batch_size=32))
        with seeded(0):
            for x, y in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x), y).backward()
                optimizer.step()
        told.append(engine.get_epsilon(1e-5))
        together.history += engine.accountant.history
    assert {round(e, 2) for e in told} == {4.54}
    assert together.get_epsilon(1e-5) == pytest.approx(11.29, abs=5e-3)

    ours = [Round(turn, 1.0, 0.2, 5) for turn in range(1, 11)]
    (one, one_checked), (ten, ten_checked) = spent(ours[:1], 1e-5), spent(ours, 1e-5)
    assert one == pytest.approx(one_checked, rel=0.02) and ten == pytest.approx(ten_checked, rel=0.02)
    assert one < 4.54 and 2.2 * one < ten < 11.29  # these accountants are tighter than RDP, and add up all the same


def test_different_trainings_compose_as_both_libraries_say_and_in_any_order():
    history = ((2.0, 0.1, 30), (3.0, 0.5, 4), (2.0, 0.1, 20))
    assert composed_prv(history, 1e-5) == pytest.approx(composed_pld(history, 1e-5), rel=0.02)
    assert composed_prv(history, 1e-5) == composed_prv(history[::-1], 1e-5)
    assert composed_prv(history[::2], 1e-5) == epsilon_prv(2.0, 1e-5, 0.1, 50)
    assert composed_prv(history, 1e-5) > composed_prv(history[:2], 1e-5)
    for composed in (composed_prv, composed_pld):
        assert composed((), 1e-5) == 0 and composed(((0.0, 0.5, 1), *history), 1e-5) == math.inf


@pytest.mark.parametrize("count", [1, 25])
def test_without_sampling_epsilon_is_that_of_the_gaussian_mechanism(count):
    rule, local = CentralDP.promising(2.0, 1e-4, count, sites=9), LocalDP(2.0, count, 1e-4)
    terms = local.terms(50, 32, 1)
    assert terms == (rule.noise, 1.0, 1, 1e-4)
    exact = gaussian_epsilon(count**0.5 / rule.noise, 1e-4)
    assert 0.98 * 2 < exact <= 2
    claim, = claims(local, [50], 32, 1)
    assert claim[:4] == rule.claim(count, 1e-4)[:4]
    assert claim[:2] == pytest.approx((exact, exact), rel=0.01)
    assert CentralDP(1.0, 0.0, 9).claim(count, 1e-4).epsilon == math.inf


def test_an_account_is_kept_of_what_was_claimed_and_it_is_used_up(task, sites):
    grid = border(replace(task, private=RECORD), sites)
    rounds(grid, Joined(Mean(), SITES), task.initial(), RECORD.rounds)
    promised = claims(RECORD, map(len, sites), task.batch, task.epochs)
    for past, claim in zip(ledgers(grid), promised, strict=True):
        assert [r.turn for r in past] == [1, 2, 3, 4]
        assert spent(past, claim.delta) == claim[:2]
        assert min(claim[:2]) > 0.97 * 3 and max(claim[:2]) <= 3
        assert spent(past[:1], claim.delta)[0] < 0.7 * claim.epsilon
    assert [claim.delta for claim in promised] == [1e-2, 1e-2, 1e-3]
    assert promised[0].sigma == promised[1].sigma
    assert grid.inner.contexts[FIRST + 2].state[SPENT]["rate"] == [0.6] * 4  # 60 of about 100


def test_the_account_outlives_the_app_and_a_replayed_round_is_refused(task, sites):
    private, events = replace(task, private=RECORD), []
    grid = border(private, sites, events)
    once = rounds(grid, Joined(Mean(), SITES), private.initial(), 2)
    grid.inner._app = app_of(private, sites)  # as after a restart of the app, with the state that Flower kept
    again = rounds(grid, Joined(Mean(), SITES), once, 3)
    assert events == [("refused", {"hospital": n, "why": f"it failed: InputError: round {turn} has been answered, and "
                                                         "its noise is not drawn twice"})
                      for turn in (1, 2) for n in range(SITES)]
    assert [[r.turn for r in past] for past in ledgers(grid)] == [[1, 2, 3]] * SITES
    np.testing.assert_array_equal(again, rounds(border(private, sites), Joined(Mean(), SITES), private.initial(), 3))


def test_the_border_leaves_room_for_the_noise_of_a_network_of_ordinary_size(sites, whole):
    """The noise of 8450 parameters is longer than any change by training may be."""
    budget, events, train = LocalDP(2.0, 10), [], whole[0]
    wide = Task(MLP(hidden=(256,)), train.x.shape[1:], train.classes, train.space, private=budget)
    longest = np.linalg.norm(budget.cover(np.zeros(wide.size), np.random.default_rng(0)))
    assert NORM < longest < reach(wide) < 1.2 * longest and reach(replace(wide, private=None)) == NORM
    found = federate(wide, sites, Mean(), 2, event=lambda *told: events.append(told))
    assert events == [] and np.linalg.norm(found - wide.initial()) > NORM / 2


@pytest.mark.parametrize("budget", [RecordDP(3.0, 2), LocalDP(8.0, 2)], ids=["record", "local"])
def test_a_server_that_asks_for_more_rounds_than_agreed_gets_none(budget, task, sites):
    private, events = replace(task, private=budget, batch=200), []
    agreed = federate(private, sites, Mean(), 2)
    more = federate(private, sites, Mean(), 3, event=lambda *told: events.append(told))
    np.testing.assert_array_equal(more, agreed)
    why = "it failed: InputError: the budget is spent: 2 rounds were agreed, and this is round 3"
    assert events == [*[("refused", {"hospital": n, "why": why}) for n in range(SITES)],
                      ("no result", {"round": 3, "answered": 0, "why": "nobody has answered"})]


def test_a_round_that_costs_more_than_planned_is_counted_for_what_it_costs():
    budget, delta = RecordDP(1.0, 10), 1e-3
    dear, cheap, past = Terms(1.5, 1.0, 1, delta), Terms(60.0, 1.0, 1, delta), [Round(1, 6.0, 1.0, 1)]
    assert gaussian_epsilon(math.hypot(1 / 1.5, 1 / 6), delta) > 1 > gaussian_epsilon(math.hypot(1 / 60, 1 / 6), delta)
    budget.check(cheap, past, 2)
    with pytest.raises(InputError, match=r"budget is spent: with round 2, epsilon would be .* and 1 is promised"):
        budget.check(dear, past, 2)
    with pytest.raises(InputError, match="10 rounds were agreed, and this is round 0"):
        budget.check(cheap, past, 0)


def test_a_budget_does_not_start_anew_as_one_of_another_kind(task, sites):
    grid = border(replace(task, private=RECORD), sites)
    rounds(grid, Joined(Mean(), SITES), task.initial(), 1)
    grid.inner._app, events = app_of(replace(task, private=LocalDP(8.0, 4)), sites), []
    grid.event = lambda *told: events.append(told)
    rounds(grid, Joined(Mean(), SITES), task.initial(), 1)
    assert "a budget of another kind was begun: rows, not hospital" in events[0][1]["why"]
    assert grid.inner.contexts[FIRST].state[SPENT]["level"] == "rows"


def test_nothing_is_told_that_the_budget_does_not_cover(task, sites):
    counts, events = [], []

    def rule(changes, told, _):
        counts.append(told.tolist())
        return changes.mean(0)

    for budget in (RecordDP(3.0, 1), LocalDP(8.0, 1)):
        federate(replace(task, private=budget, batch=200), sites, rule, 1)
    assert counts == [[20, 60, 100], [1, 1, 1]]  # of 120 rows, no more than that they are about 100
    grid = border(replace(task, private=RECORD), sites, events)
    result = FedAvg(min_available_nodes=SITES).start(grid=grid, initial_arrays=packed(task.initial()), num_rounds=1)
    assert not result.evaluate_metrics_clientapp
    assert len(events) == SITES and all("budget does not allow" in facts["why"] for _, facts in events)


# ---- records


@pytest.mark.parametrize("changed", [{}, {"proximal": 0.5, "epochs": 7}], ids=["one step", "several, with a pull"])
def test_without_noise_and_clipping_private_training_is_plain_training(changed, task, sites, monkeypatch):
    silent(monkeypatch)
    plain = replace(task, batch=10**6, **changed)
    private = replace(plain, private=RecordDP(3.0, 1, max_grad_norm=1e6))
    np.testing.assert_allclose(private.train(task.initial(), sites[1], 1, 1),
                               plain.train(task.initial(), sites[1], 1, 1), atol=2e-6)


def sums(task, rows):
    """The sum of clipped gradients that a private step of a hospital with about 60 rows followed; negative."""
    return (task.train(task.initial(), rows, 0, 1) - task.initial()).astype(np.float64) * 60 / task.lr


def test_one_row_moves_the_sum_by_its_clipping_norm_at_most_and_nearly(task, sites, monkeypatch):
    silent(monkeypatch)
    private = replace(task, batch=10**6, private=RecordDP(3.0, 1, max_grad_norm=0.3))
    rows = joined(sites[1], sites[2].take(slice(5)))
    n = len(rows)
    moved = [np.linalg.norm(sums(private, rows) - sums(private, rows.take(np.arange(n) != k))) for k in range(0, n, 4)]
    assert 0.999 * 0.3 < max(moved) < 1.001 * 0.3


def test_the_noise_of_a_private_step_has_the_deviation_it_was_accounted_with(task, sites):
    n = len(sites[1])
    private = replace(task, batch=10**6, private=RecordDP(1.0, 5, max_grad_norm=0.5))
    drawn = np.stack([sums(replace(private, private=replace(private.private, secret=secret)), sites[1])
                      for secret in range(40)])
    sigma = private.terms(n).sigma
    # 39 x 266 degrees of freedom: a standard error of 0.7 %
    assert drawn.std(0, ddof=1).mean() == pytest.approx(0.5 * sigma, rel=0.03)
    assert "secret" not in repr(private)  # which is what logs are written from
    assert len({private.train(task.initial(), sites[1], number, turn)[0] for number in (0, 1) for turn in (1, 2)}) == 4


def test_a_private_federation_learns_and_repeats(task, whole):
    alike = [whole[0].take(slice(a, b)) for a, b in pairwise([0, 113, 226, 341])]
    private = replace(task, private=RecordDP(8.0, 10), lr=0.5, batch=120, epochs=4)
    found, again = (federate(private, alike, Mean(), 10) for _ in range(2))
    np.testing.assert_array_equal(found, again)
    right = [(private.classifier(w).predict(whole[2].x) == whole[2].y).mean() for w in (task.initial(), found)]
    assert right[1] > 0.85 > right[0]


def test_what_a_hospital_promises_by_noise_of_its_own_holds_for_any_other_data():
    local, record = LocalDP(2.0, 3), RecordDP(2.0, 3)
    mine, = claims(local, [50], 64, 1)
    theirs, = claims(record, [50], 64, 1)
    assert mine.replaced == mine.epsilon and mine.neighbors == "replaced by any other"
    assert theirs.replaced > 1.8 * theirs.epsilon and theirs.neighbors == "added or removed"
    central = CentralDP.promising(2.0, 1e-4, 3, sites=4).claim(3, 1e-4)
    assert central.replaced == pytest.approx(gaussian_epsilon(2 * 3**0.5 / CentralDP.promising(
        2.0, 1e-4, 3, sites=4).noise, 1e-4), rel=0.01)


# ---- whole hospitals, without trust in the server


def test_a_hospital_moves_what_it_sends_by_twice_the_clipping_norm_and_the_noise_covers_that(monkeypatch):
    budget, far = LocalDP(2.0, 5, clip=0.25), np.zeros(40_000)
    far[7] = 1e6
    one, other, none, nan = (budget.cover(change, np.random.default_rng(1))
                             for change in (far, -far, 0 * far, far * np.nan))
    assert np.linalg.norm(one - other) == pytest.approx(2 * 0.25, rel=1e-6)
    np.testing.assert_array_equal(none, nan)
    assert none.std() == pytest.approx(2 * 0.25 * budget.terms(0, 0, 0).sigma, rel=0.02)
    silent(monkeypatch)
    small = np.full(4, 0.1, np.float32)
    np.testing.assert_array_equal(budget.cover(small, np.random.default_rng(1)), small.astype(np.float64))


def test_local_noise_is_new_each_round_and_lies_on_the_trained_change(task, sites, monkeypatch):
    private, came = replace(task, private=LocalDP(5.0, 2, clip=0.5)), task.initial()
    sent = [private.train(came, sites[n], n, turn) for n in (0, 1) for turn in (1, 2)]
    assert len({update[0] for update in sent}) == 4
    silent(monkeypatch)
    change = task.train(came, sites[0], 0, 1) - came
    np.testing.assert_allclose(private.train(came, sites[0], 0, 1) - came,
                               change * min(1, 0.5 / np.linalg.norm(change)), atol=1e-6)


# ---- whole hospitals, by a trusted server


def test_without_noise_and_clipping_it_is_plain_federation_to_the_bit(task, whole):
    alike = [whole[0].take(slice(a, a + 50)) for a in (0, 50, 100)]
    np.testing.assert_array_equal(federate(task, alike, CentralDP(math.inf, 0.0, SITES), 3),
                                  federate(task, alike, Mean(), 3))


def test_nothing_to_add_and_what_is_no_number_do_no_harm(task, sites):
    def spoil(turn, came, replies):
        for reply, change in zip(replies, (0.0, np.nan), strict=False):
            reply.content["arrays"] = packed(came + np.float32(change))
        return replies

    events = []
    rule = CentralDP(1.0, 0.0, SITES)
    found = rounds(border(task, sites, events, tamper=spoil), Joined(rule, SITES), task.initial(), 1)
    assert [facts["hospital"] for _, facts in events] == [1]
    third = task.train(task.initial(), sites[2], 2, 1) - task.initial()
    np.testing.assert_allclose(found - task.initial(), third * min(1, 1 / np.linalg.norm(third)) / SITES, atol=1e-6)
    assert not rule(torch.zeros(3, 6)).any()
    with pytest.raises(InputError, match="site 0 is not finite"):
        rule(torch.full((3, 6), math.nan))
    with pytest.raises(InputError, match="the mean is over 3 hospitals, and 4 have answered"):
        rule(torch.zeros(4, 6))


# ---- an audit


class Quiet(RecordDP):
    """Claims what it does not keep: a thirtieth of the noise."""

    def terms(self, *of):
        terms = super().terms(*of)
        return terms._replace(sigma=terms.sigma / 30)


class Forgetful(RecordDP):
    """Spends in each round what is promised for all of them, as with a new engine each round."""

    def terms(self, *of):
        return RecordDP(self.epsilon, 1, self.delta, max_grad_norm=self.max_grad_norm).terms(*of)


@pytest.mark.parametrize(("kind", "kept"), [(RecordDP, True), (Forgetful, False), (Quiet, False)],
                         ids=["honest", "forgetful", "quiet"])
def test_an_audit_of_a_federation_by_a_canary_at_one_hospital(kind, kept, task, sites, whole):
    """Two hundred hospitals hold the same rows, half of them one more. The server sends them all the same model each
    round, and looks at what comes back along the gradient of that row."""
    canary = whole[2].take([0]).with_data(whole[2].x[:1], 1 - whole[2].y[:1])
    direction = torch.from_numpy(task.train(task.initial(), canary, 0, 1) - task.initial())
    told = []

    def rule(changes, counts, _):
        told.append(changes @ direction)
        return torch.zeros_like(direction)

    private = replace(task, private=kind(3.0, 4, 1e-2, max_grad_norm=0.1))
    federate(private, [joined(sites[0], canary), sites[0]] * 100, rule, 4)
    score = torch.stack(told).sum(0).numpy()
    audited = gaussian_epsilon(from_scores_gdp(score[::2], score[1::2]), 1e-2)
    assert 0.5 < audited <= 3 if kept else audited > 3


def test_a_private_federation_is_a_defense_that_tells_what_it_claims_for_every_row(whole):
    def told(split):
        return replace(split, subgroups={"site": np.where(np.arange(len(split)) < 50, "small", "large")})

    train, val, _ = map(told, whole)
    plain = FederatedTraining(rounds=2, batch=400, column="site")
    model = replace(plain, epsilon=2.0)(MLP(hidden=(8,)), train, val)
    small, large = (claims(RecordDP(2.0, 2), [n], 400, 1)[0] for n in (50, len(train) - 50))
    assert {name: model.notes[name] for name in ("epsilon_claimed", "epsilon_independent", "delta")} == {
        "epsilon_claimed": max(small.epsilon, large.epsilon), "delta": 1e-2,
        "epsilon_independent": max(small.independent, large.independent)}
    assert model.notes["unit"] == "row" and model.notes["neighbors"] == "added or removed"
    assert model.notes["epsilon_replace_one"] == max(small.replaced, large.replaced) > 1.5 * small.epsilon
    assert not {"epsilon_claimed", "refused"} & plain(MLP(hidden=(8,)), train, val).notes.keys()


# ---- what makes no sense


@pytest.mark.parametrize(("make", "message"), [
    (lambda: RecordDP(0.0, 5), "needs epsilon > 0"), (lambda: RecordDP(1.0, 5, 1.0), r"delta in \(0, 1\), got 1.0"),
    (lambda: RecordDP(1.0, 0), "RecordDP: rounds must be at least 1, got 0"),
    (lambda: RecordDP(1.0, 5, max_grad_norm=0.0), "max_grad_norm must be positive"),
    (lambda: LocalDP(1.0, 5, clip=math.inf), "clip must be positive, got inf"),
    (lambda: CentralDP(math.inf, 1.0, 5), "got inf and 1.0"), (lambda: CentralDP(1.0, -1.0, 5), "got 1.0 and -1.0"),
    (lambda: CentralDP(1.0, 1.0, 0), "sites must be at least 1, got 0"),
    (lambda: RECORD.terms(0, 32, 1), "needs rows, and the hospital has none")])
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
