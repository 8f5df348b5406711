"""What a server that only listens learns of hospitals' patients and of their label mix."""

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_ndtr

pytest.importorskip("flwr")

from federated.aggregation.aggregate import Mean
from federated.attacks.curious import Decomposition, FedMIA, View, Watch, row_gradients
from federated.attacks.properties import LabelMix
from federated.flower.client_app import packed
from federated.flower.simulate import federate
from federated.task.task import Task
from suite.base.errors import InputError, NotApplicable
from suite.core.data import Split, joined
from suite.results.metrics import auroc
from tabular.models import MLP
from tabular.schema import Column, Schema

SITES, HELD, ROUNDS, COLUMNS, CLASSES = 4, 24, 6, 40, ("well", "ill")
SPACE = Schema(columns={f"c{k}": Column(min=-1, max=1) for k in range(COLUMNS)}).space()
ATTACKS = {"cosine": FedMIA(), "loss": FedMIA("loss"), "decomposition": Decomposition()}
LEAST = {"cosine": 0.75, "loss": 0.75, "decomposition": 0.9}


def made(n, seed, ill=0.5):
    """Rows whose labels nothing explains, so that what is learned of them is of them alone."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, COLUMNS)).astype(np.float32)
    return Split(x, (np.arange(n) < ill * n).astype(np.int64), SPACE, CLASSES, np.arange(n))


def plain(hidden=(), **named):
    return Task(MLP(hidden=hidden, balanced=False, weight_decay=0.0), (COLUMNS,), CLASSES, SPACE, **named)


@pytest.fixture(scope="module")
def task():
    return plain((16,), batch=8, epochs=2, lr=0.1)


@pytest.fixture(scope="module")
def sites():
    return [made(HELD, seed) for seed in range(SITES)]


@pytest.fixture(scope="module")
def strangers():
    return made(4 * HELD, 99)


@pytest.fixture(scope="module")
def view(task, sites):
    watch = Watch(SITES)
    federate(task, sites, Mean(), ROUNDS, watch)
    return watch.view


def told(attack, view, task, members, others, hospital=0):
    score = attack(view, task, joined(members, others), hospital)
    return auroc(score, np.repeat([True, False], [len(members), len(others)]))


def one_step(task, sites):
    """The view of a round of one step on all rows, from parameters of 0."""
    zero = np.zeros(task.size, np.float32)
    sent = np.stack([task.train(zero, rows, k, 1) for k, rows in enumerate(sites)])
    return View(zero[None], sent[None], np.array([[len(rows) for rows in sites]]))


def gradients_by_hand(task, rows):
    """Of a softmax regression with parameters of 0: (1/2 - label) times the standardised input, and 1."""
    normalize = task.network()[0][0]
    seen = np.c_[(rows.x - normalize.mean.numpy()) / normalize.std.numpy(), np.ones(len(rows))]
    off = 0.5 - np.eye(2)[rows.y]
    return np.concatenate([(off[:, :, None] * seen[:, None, :-1]).reshape(len(rows), -1), off], 1)


def test_the_watch_keeps_what_passes_and_changes_nothing(task, sites, view):
    other = Watch(SITES, lambda turn, came, replies: replies[1:] if turn == 2 else replies)
    final = federate(task, sites, Mean(), 2, other)
    seen = other.view
    np.testing.assert_array_equal(final, federate(task, sites, Mean(), 2, other.tamper))
    assert view.sent.shape == (ROUNDS, SITES, task.size)
    np.testing.assert_array_equal(view.came[0], task.initial())
    for k, rows in enumerate(sites):
        np.testing.assert_array_equal(view.sent[2, k], task.train(view.came[2], rows, k, 3) - view.came[2])
    np.testing.assert_allclose(view.came[0] + view.sent[0].mean(0), view.came[1], atol=1e-6)
    assert np.isnan(seen.sent[1, 0]).all() and np.isfinite(seen.sent[1, 1:]).all()
    assert seen.counts.tolist() == [[HELD] * SITES, [0] + [HELD] * (SITES - 1)]
    assert seen.answered(0).tolist() == [0] and seen.answered(1).tolist() == [0, 1]


def test_the_watch_sees_what_hostile_hospitals_send(task, sites):
    def hostile(_, came, replies):
        for k, sent in ((1, came), (2, np.full_like(came, np.nan)), (3, came[1:])):
            replies[k].content["arrays"] = packed(sent)
        return replies

    watch = Watch(SITES, hostile)
    federate(task, sites, Mean(), 1, watch)
    assert not watch.view.sent[0, 1].any() and watch.view.sent[0, 0].any()
    assert np.isnan(watch.view.sent[0, 2:]).all() and watch.view.counts.tolist() == [[HELD, HELD, 0, 0]]


def test_a_sum_is_the_mean_by_counts_of_those_who_answered():
    sent = np.array([[[1, 0], [0, 4]], [[2, 2], [np.nan, np.nan]]], np.float32)
    total = View(np.zeros((2, 2), np.float32), sent, np.array([[3, 1], [3, 0]])).summed()
    np.testing.assert_array_equal(total.sent, [[[0.75, 1]], [[2, 2]]])
    assert total.counts.tolist() == [[4], [3]]


def test_row_gradients_are_those_of_each_row_by_itself(task, sites):
    weights, found = task.initial(), row_gradients(task, task.initial(), sites[0])
    module = task.classifier(weights).module
    for k in (0, 5):
        x, y = torch.from_numpy(sites[0].x[k:k + 1]), torch.from_numpy(sites[0].y[k:k + 1])
        own = torch.autograd.grad(F.cross_entropy(module(x), y), list(module.parameters()))
        torch.testing.assert_close(found[k], torch.cat([g.flatten() for g in own]))
    hand = plain()
    np.testing.assert_allclose(row_gradients(hand, np.zeros(hand.size, np.float32), sites[0]),
                               gradients_by_hand(hand, sites[0]), atol=1e-6)


def test_gradients_are_in_memory_once(task, sites, view, monkeypatch):
    made = row_gradients(task, view.came[0], sites[0])
    before = made.clone()
    monkeypatch.setattr("federated.attacks.curious.row_gradients", lambda *_: made)
    own, update = Decomposition(along=0.0)._own_parts(task, view.came[0], view.sent[0, 0], sites[0])
    assert own.data_ptr() == made.data_ptr() and own.shape == before.shape and not torch.equal(own, before)
    common = torch.stack([before[torch.from_numpy(sites[0].y == k)].mean(0) for k in (0, 1)])
    assert (own @ common.T).abs().max() < 1e-3 * (before @ common.T).abs().max()
    assert update.shape == (task.size,) and update.norm() < np.linalg.norm(view.sent[0, 0])


def test_one_step_is_taken_apart_exactly(sites):
    """But for what the rows of a class have in common at the start, halfway and at the end: of this network these are
    its rows' gradients at the start, weighted by how wrong it is about each."""
    task = plain(batch=10**6, lr=3.0)
    members, others = sites[0].take(slice(6, 18)), sites[1].take(slice(8, 18))
    rows, view = joined(members, others), one_step(task, [members])
    wrong = [1 - task.classifier(s * view.sent[0, 0]).predict_proba(rows.x)[np.arange(len(rows)), rows.y]
             for s in (0, np.float32(0.5), 1)]
    common = np.array([w * (rows.y == k) for w in wrong for k in (0, 1)]).T
    share = np.repeat([task.lr / len(members), 0.0], [len(members), len(others)])
    by_hand = share - common @ np.linalg.lstsq(common, share, rcond=None)[0]
    score = Decomposition(ridge=1e-7, along=0.0)(view, task, rows, 0)
    np.testing.assert_allclose(score, by_hand, atol=1e-3 * task.lr / len(members))
    assert abs(by_hand).max() > 0.3 * task.lr / len(members)


def test_weight_decay_which_the_server_knows_hides_nobody(sites, strangers):
    task = plain((16,), batch=10**6)
    task = replace(task, recipe=replace(task.recipe, weight_decay=1.0))
    came = task.initial()
    view = View(came[None], (task.train(came, sites[0], 0, 1) - came)[None, None], np.array([[HELD]]))
    assert told(Decomposition(), view, task, sites[0], strangers) > 0.95


def test_cosines_are_held_against_the_other_hospitals_as_by_hand(sites):
    task = plain(batch=10**6)
    view = one_step(task, sites[:3])
    score = FedMIA()(view, task, sites[0], 0)
    g, u = gradients_by_hand(task, sites[0]), view.sent[0].astype(np.float64)
    np.testing.assert_allclose(u[0], -task.lr * g.mean(0), atol=1e-6)
    cosine = -(g @ u.T) / np.linalg.norm(g, axis=1)[:, None] / np.linalg.norm(u, axis=1)
    spread = np.sqrt((np.square(cosine[:, 1] - cosine[:, 2]) / 2).mean())
    by_hand = log_ndtr((cosine[:, 0] - cosine[:, 1:].mean(1)) / spread)
    np.testing.assert_allclose(score, by_hand, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(FedMIA()(view.summed(), task, sites[0], 0),
                               -(g @ u.mean(0)) / np.linalg.norm(g, axis=1) / np.linalg.norm(u.mean(0)), atol=1e-4)


def test_losses_are_those_at_the_hospitals_own_models(sites):
    task = plain(batch=10**6)
    view = one_step(task, sites[:3])
    loss = np.array([-np.log(task.classifier(w).predict_proba(sites[0].x)[np.arange(HELD), sites[0].y])
                     for w in view.sent[0]])
    spread = np.sqrt((np.square(loss[1] - loss[2]) / 2).mean())
    by_hand = log_ndtr((loss[1:].mean(0) - loss[0]) / spread)
    np.testing.assert_allclose(FedMIA("loss")(view, task, sites[0], 0), by_hand, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ATTACKS)
def test_members_stand_out_at_their_own_hospital_only(name, view, task, sites, strangers):
    attack = ATTACKS[name]
    own = [told(attack, view, task, rows, strangers, k) for k, rows in enumerate(sites)]
    elsewhere = [told(attack, view, task, rows, strangers, (k + 1) % SITES) for k, rows in enumerate(sites)]
    assert np.mean(own) > LEAST[name], own
    assert abs(np.mean(elsewhere) - 0.5) < 0.1 or np.mean(elsewhere) < 0.5, elsewhere


@pytest.mark.parametrize("name", ATTACKS)
def test_more_rounds_do_not_tell_less_and_noise_or_a_sum_does(name, view, task, sites, strangers):
    def mean(seen, hospitals=range(SITES)):
        return np.mean([told(ATTACKS[name], seen, task, sites[k], strangers, k if len(seen.sent[0]) > 1 else 0)
                        for k in hospitals])

    whole = mean(view)
    first = replace(view, came=view.came[:2], sent=view.sent[:2], counts=view.counts[:2])
    assert whole > mean(first) - 0.01
    loud = np.random.default_rng(0).normal(0, 1000 * view.sent.std(), view.sent.shape).astype(np.float32)
    assert abs(mean(replace(view, sent=view.sent + loud)) - 0.5) < 0.1
    assert mean(view.summed()) < whole - 0.02


def test_a_sum_is_taken_apart_better_with_the_candidates_of_all_hospitals(view, task, sites, strangers):
    attack, total = Decomposition(), view.summed()
    everybody = reduce(joined, sites)
    own = np.mean([told(attack, total, task, rows, strangers) for rows in sites])
    assert told(attack, total, task, everybody, strangers) > own + 0.01


def test_scores_repeat_and_follow_their_rows(view, task, sites, strangers):
    rows, order = joined(sites[0], strangers), np.random.default_rng(0).permutation(5 * HELD)
    for attack in ATTACKS.values():
        score = attack(view, task, rows, 0)
        np.testing.assert_array_equal(score, attack(view, task, rows, 0))
        np.testing.assert_allclose(attack(view, task, rows.take(order), 0), score[order], rtol=1e-3, atol=1e-6)


def test_rounds_that_a_hospital_missed_are_left_out(view, task, sites, strangers):
    sent, counts = view.sent.copy(), view.counts.copy()
    sent[3, 0], sent[5, 1:], counts[3, 0], counts[5, 1:] = np.nan, np.nan, 0, 0
    for attack in ATTACKS.values():
        assert told(attack, replace(view, sent=sent, counts=counts), task, sites[0], strangers) > 0.85


@pytest.mark.parametrize("ill", [0.25, 0.75])
def test_one_step_tells_the_label_mix_exactly(ill):
    task, rows = plain(batch=10**6), made(200, 3, ill)
    view = one_step(task, [rows])
    np.testing.assert_allclose(view.sent[0, 0, -2:], task.lr * (np.array([1 - ill, ill]) - 0.5), atol=1e-6)
    np.testing.assert_allclose(LabelMix()(view, task, made(60, 4), 0), [1 - ill, ill], atol=1e-3)


def test_the_label_mix_is_read_from_rounds_of_several_steps_unless_noise_hides_it():
    task, truth = plain((16,)), (0.2, 0.5, 0.9)
    rows, watch = [made(100, k, ill) for k, ill in enumerate(truth)], Watch(3)
    federate(task, rows, Mean(), 3, watch)
    view, public = watch.view, made(100, 50)

    def miss(seen, attack=LabelMix(rounds=3, draws=16)):  # noqa: B008
        return np.mean([abs(attack(seen, task, public, k)[1] - ill) for k, ill in enumerate(truth)])

    found = LabelMix(rounds=3, draws=16)(view, task, public, 0)
    assert found.shape == (2,) and found.min() >= 0 and found.sum() == pytest.approx(1)
    np.testing.assert_array_equal(found, LabelMix(rounds=3, draws=16)(view, task, public, 0))
    assert miss(view) < 0.05 < np.mean([abs(np.mean(truth) - ill) for ill in truth])
    loud = np.random.default_rng(0).normal(0, 1, view.sent.shape).astype(np.float32)
    assert miss(replace(view, sent=view.sent + loud)) > 4 * miss(view)


def test_a_balanced_loss_hides_the_mix():
    task, rows = plain((16,)), [made(100, k, ill) for k, ill in enumerate((0.2, 0.9))]
    balanced = replace(task, recipe=replace(task.recipe, balanced=True))
    found = []
    for each in (task, balanced):
        watch = Watch(2)
        federate(each, rows, Mean(), 1, watch)
        found.append(abs(LabelMix(rounds=1)(watch.view, each, made(100, 50), 1)[1] - 0.9))
    assert found[0] < 0.05 and found[1] > 2 * found[0]


def test_what_cannot_be_is_said(view, task, sites):
    for hospital in (-1, SITES):
        with pytest.raises(InputError, match=f"hospital {hospital}: the server has seen hospitals 0 to 3"):
            FedMIA()(view, task, sites[0], hospital)
    with pytest.raises(InputError, match="hospital 1: the server has seen no update"):
        never = replace(view, counts=view.counts * np.array([1, 0, 1, 1]))
        Decomposition()(never, task, sites[0], 1)
    with pytest.raises(InputError, match="no candidates"):
        FedMIA()(view, task, sites[0].take(slice(0)), 0)
    with pytest.raises(InputError, match="and the task's network 82"):
        FedMIA()(view, plain(), sites[0], 0)
    with pytest.raises(InputError, match="seen no round"):
        Watch(2).view  # noqa: B018
    with pytest.raises(InputError, match=f"a view of {ROUNDS} rounds"):
        replace(view, came=view.came[1:])
    with pytest.raises(InputError, match="none is of class 'ill'"):
        LabelMix()(view, task, made(10, 0, 0.0), 0)
    for wrong in ({"ridge": 0.0}, {"ridge": np.nan}, {"along": -0.1}, {"along": 2.0}):
        with pytest.raises(InputError, match=f"Decomposition: {next(iter(wrong))}"):
            Decomposition(**wrong)


def test_a_network_without_biases_does_not_tell_its_mix(view, task, monkeypatch):
    monkeypatch.setattr(Task, "network", lambda self: (torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False)), ""))
    with pytest.raises(NotApplicable, match="last layer"):
        LabelMix()(view, task, made(10, 0), 0)
