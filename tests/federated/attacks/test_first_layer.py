"""What a server repeats of a hospital's training, and reads off the first layer without a search."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from federated.attacks.first_layer import label_counts, peeled
from federated.evaluate.rebuilt import matched
from federated.task.local import Local, gradient, seen, steps
from federated.task.task import draws
from imaging.models.models import SimpleCNN
from tabular.models import MLP, LogisticRegression
from tests.support.breast import breast
from tests.support.inversion import clinic, mlp, normal, pictures, task_of

# ---- the hospital's training, simulated


@pytest.mark.parametrize(("recipe", "named"), [
    (MLP(hidden=(16,)), {}),
    (MLP(hidden=(16,), dropout=0.3), {"epochs": 2, "batch": 4}),
    (MLP(hidden=(16,), balanced=False), {"epochs": 3, "batch": 4, "proximal": 0.5}),
], ids=["one step", "dropout", "proximal"])
def test_simulation_of_a_table_is_what_the_hospital_sends(recipe, named):
    rows = breast()[0].take(slice(10))
    task = task_of(rows, recipe, **named)
    came = task.initial()
    sent = Local(task, came, draws(task, 3, 5), True).updates(torch.from_numpy(rows.x).double()[None],
                                                              torch.from_numpy(rows.y))
    np.testing.assert_allclose(sent[0], seen(task, came, rows, 3, 5), rtol=0, atol=1e-6)


def test_the_draws_that_a_server_repeats_are_those_of_the_training(monkeypatch):
    rows = normal(10)
    task = mlp(rows, batch=4)
    sent = [task.train(task.initial(), rows, number, 1) for number in (0, 1)]
    monkeypatch.setattr("federated.task.task.draws", lambda *_: 7)
    fixed = [task.train(task.initial(), rows, number, 1) for number in (0, 1)]
    assert (sent[0] != sent[1]).any()
    np.testing.assert_array_equal(*fixed)


def test_simulation_joins_a_short_last_step_to_the_one_before():
    rows = normal(10)
    tasks = [mlp(rows, batch=4, epochs=2, min_batch=least) for least in (1, 2, 3)]
    assert [steps(task, 10) for task in tasks] == [6, 6, 4]
    x, y = torch.from_numpy(rows.x).double()[None], torch.from_numpy(rows.y)
    updates = [seen(task, task.initial(), rows, 1, 2) for task in tasks]
    for task, update in zip(tasks, updates, strict=True):
        sent = Local(task, task.initial(), draws(task, 1, 2), True).updates(x, y)[0]
        np.testing.assert_allclose(sent, update, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(updates[0], updates[1])
    assert np.abs(updates[2] - updates[1]).max() > 1e-4


def test_simulation_repeats_augmentation():
    rows = pictures(6)
    task = task_of(rows, SimpleCNN(widths=(8,), modality="xray"), epochs=2, batch=4)
    came, x = task.initial(), torch.from_numpy(rows.x).double()[None]
    sent, plain = (Local(task, came, draws(task, 1, 2), same).updates(x, torch.from_numpy(rows.y))[0]
                   for same in (True, False))
    update = seen(task, came, rows, 1, 2)
    np.testing.assert_allclose(sent, update, rtol=0, atol=1e-6)
    assert np.abs(plain.numpy() - update).max() > 1e-4


def test_gradient_of_one_step_by_hand():
    rows = normal(1)
    task = task_of(rows, LogisticRegression(balanced=False, weight_decay=0.1))
    came = np.zeros(task.size, np.float32)
    x, y = rows.x[0] / 4, np.eye(2)[rows.y[0]]
    expected = np.concatenate([np.outer(0.5 - y, x).ravel(), 0.5 - y])
    np.testing.assert_allclose(gradient(task, came, seen(task, came, rows, 0, 1), 1), expected, atol=1e-6)


def test_gradient_of_several_steps_is_their_mean_where_the_model_hardly_moves():
    rows = normal(12)
    one, many = (mlp(rows, lr=1e-4, **named) for named in ({}, {"epochs": 3, "batch": 4}))
    assert [steps(task, 12) for task in (one, many)] == [1, 9]
    a, b = (gradient(task, task.initial(), seen(task, task.initial(), rows, 0, 1), 12) for task in (one, many))
    assert np.corrcoef(a, b)[0, 1] > 0.97  # momentum repeats early batches more often
    assert np.linalg.norm(b) == pytest.approx(np.linalg.norm(a), rel=0.1)


# ---- without a search


def test_units_that_one_row_alone_activates_hold_it():
    rows = normal(3, columns=4)
    x = np.array([[3, -1, -1, 0.5], [-1, 3, -1, -0.5], [-1, -1, 3, 2]], np.float32)
    rows = rows.with_data(x, np.array([0, 1, 1]))
    task = mlp(rows, hidden=(3,))
    came = np.concatenate([np.eye(3, 4).ravel(), np.zeros(3), [1, 2, 3, -1, -2, -3], np.zeros(2)]).astype(np.float32)
    found = peeled(Local(task, came, 0, False), seen(task, came, rows, 0, 1), rows.y)
    told = {label: row.numpy() for row, label in found if label == 0}
    np.testing.assert_allclose(told[0], x[0], atol=1e-3)
    assert sorted(label for _, label in found) == [0, 1, 1]
    assert matched(np.stack([row.numpy() for row, _ in found]).astype(np.float32), x, rows.space).records.value == 1


def test_no_fewer_rows_than_the_benchmark_finds_with_the_truth_in_hand():
    """It counts quotients near to a row, of 20 draws: 1 of 1, 1.95 of 2, 2.9 of 4, 2.35 of 8, 0.1 of 32."""
    least = {1: 1.0, 2: 1.9, 4: 2.9, 8: 2.3, 32: 0.1}
    for n, bound in least.items():
        hits = []
        for seed in range(10):
            rows = normal(n, seed)
            task = mlp(rows, seed=seed)
            found = peeled(Local(task, task.initial(), 0, False), seen(task, task.initial(), rows, 0, 1), rows.y)
            apart = [np.abs(row.numpy() - rows.x).max(1).min() for row, _ in found]
            assert all(gap < 0.08 for gap in apart), "a row that is none"
            hits.append(sum(gap < 1e-2 for gap in apart))
        assert np.mean(hits) >= bound, (n, np.mean(hits))


@pytest.mark.parametrize("length", [0.5, 0.03])
def test_clipping_hides_no_row_from_the_first_layer(length):
    rows = clinic(4, seed=1)
    task = task_of(rows, MLP(hidden=(64, 64), weight_decay=3e-4))
    update = seen(task, task.initial(), rows, 0, 1)
    whole, clipped = (peeled(Local(task, task.initial(), 0, False), u, rows.y) for u in (update, length * update))
    for found in (whole, clipped):
        assert len(found) == 4
        assert matched(np.stack([row.numpy() for row, _ in found]).astype(np.float32), rows.x, rows.space).cells == 1


def test_noise_is_taken_for_no_row():
    rows = clinic(4, seed=1)
    task = mlp(rows, hidden=(64, 64))
    noise = np.random.default_rng(0).standard_normal(task.size).astype(np.float32)
    assert not peeled(Local(task, task.initial(), 0, False), noise, rows.y)


def test_peeling_tells_labels_and_weights_of_classes():
    rows = breast()[0].take(slice(3))
    task = task_of(rows, MLP(hidden=(64,)))
    found = peeled(Local(task, task.initial(), 0, False), seen(task, task.initial(), rows, 0, 1), rows.y)
    order = [int(np.abs((row.numpy() - rows.x) / rows.space.scale.numpy()).max(1).argmin()) for row, _ in found]
    assert sorted(order) == [0, 1, 2]
    assert [label for _, label in found] == rows.y[order].tolist()


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_label_of_one_row_is_certain_however_the_model_is_trained(label):
    rows = normal(1)
    rows = replace(rows, y=np.array([label]), classes=("a", "b", "c"))
    for seed in range(5):
        task = mlp(rows, seed=seed)
        came = 3 * task.initial()
        assert label_counts(task, came, seen(task, came, rows, 0, 1), 1).tolist() == np.eye(3)[label].tolist()


def test_labels_are_counted_to_one_row_before_training_and_hidden_by_balancing():
    for ill in (2, 8, 15):
        rows = normal(200)
        rows = rows.take(np.concatenate([np.flatnonzero(rows.y == 1)[:ill], np.flatnonzero(rows.y == 0)[:16 - ill]]))
        task = mlp(rows)
        counts = label_counts(task, task.initial(), seen(task, task.initial(), rows, 0, 1), 16)
        assert counts.sum() == 16
        assert abs(counts[1] - ill) <= 1
        hidden = task_of(rows, MLP(hidden=(32,)))
        update = seen(hidden, hidden.initial(), rows, 0, 1)
        assert abs(label_counts(hidden, hidden.initial(), update, 16)[1] - 8) <= 1
