"""Rows rebuilt from updates: answers in closed form, and what makes it harder is harder."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("flwr")

from federated.first_layer import label_counts, peeled
from federated.form import Form
from federated.gradient_inversion import InvertingGradients, TabLeak, mismatch
from federated.local import Local, draws, gradient, seen, steps
from federated.rebuilt import baselines, matched
from federated.task import Task
from imaging.models import ImageRecipe, SimpleCNN
from imaging.phantom import draw
from imaging.space import ImageSpace
from suite.attack import Info
from suite.data import Split
from suite.errors import InputError, NotApplicable
from suite.space import Space
from suite.training import build
from tabular.models import MLP, LogisticRegression
from tabular.schema import Column, Schema
from tests.breast import breast

PLAIN = {"balanced": False, "weight_decay": 0.0}


def normal(n, seed=0, columns=8):
    """Rows of a table of independent normal columns, as the benchmark of federations has it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, columns)).clip(-4, 4).astype(np.float32)
    return Split(x, (x[:, 0] > 0).astype(np.int64), Space(torch.full((columns,), -4.0), torch.full((columns,), 4.0)),
                 ("well", "ill"), np.arange(n))


def clinic(n, seed=0):
    """Rows of whole numbers, codes and one continuous column."""
    rng = np.random.default_rng(seed)
    schema = Schema(columns={
        "age": Column(min=18, max=98, integer=True, change="never"), "pain": Column(min=1, max=7, values=(1, 3, 4, 7)),
        "sex": Column(min=0, max=1, values=(0, 1)), "pressure": Column(min=80, max=200, integer=True),
        "depression": Column(min=0, max=6)})
    x = np.stack([rng.integers(18, 99, n), rng.choice([1, 3, 4, 7], n), rng.integers(0, 2, n),
                  rng.integers(80, 201, n), 6 * rng.random(n)], 1).astype(np.float32)
    return Split(x, np.arange(n) % 2, schema.space(), ("well", "ill"), np.arange(n))


def pictures(n, size=12):
    """Phantom chests; those of one patient would be too much alike."""
    x, y, _ = draw(size, patients=n, each=1)
    return Split(x.numpy(), y.numpy(), ImageSpace(), ("clear", "opacity"), np.arange(n))


def task_of(rows, recipe, **named):
    return Task(recipe, rows.x.shape[1:], rows.classes, rows.space, **({"batch": 64, "epochs": 1} | named))


def mlp(rows, hidden=(32,), **named):
    return task_of(rows, MLP(hidden=hidden, **PLAIN), **named)


def cnn(rows, **named):
    return task_of(rows, SimpleCNN(widths=(32, 64), modality="none", **PLAIN), **named)


def attacked(attack, task, rows, update=None, **named):
    """What an attack makes of the update of one local training, of a server that knows the labels and the draws."""
    came = task.initial()
    update = seen(task, came, rows, 0, 1) if update is None else update
    found = attack(task, came, update, len(rows), **({"labels": rows.y, "drawn": draws(task, 0, 1)} | named))
    return found, matched(found, rows.x, rows.space)


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
    monkeypatch.setattr("federated.task.draws", lambda *_: 7)
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


# ---- tables


def test_one_row_of_a_table_is_exact_also_after_several_epochs():
    rows = clinic(1)
    for named in ({}, {"epochs": 3}):
        _, result = attacked(TabLeak(restarts=4, iterations=200), mlp(rows, **named), rows)
        assert result.records.value == 1


def test_four_rows_and_their_labels_are_exact_from_one_step():
    rows = clinic(4, seed=1)
    found, result = attacked(TabLeak(restarts=4, iterations=200), mlp(rows, hidden=(64, 64)), rows)
    assert result.records.value == 1
    assert result.order.tolist() == [0, 1, 2, 3] or set(rows.y[result.order] == rows.y) == {True}
    assert rows.space.possible(torch.from_numpy(found)).all()


def test_a_larger_batch_hides_rows_and_noise_hides_all_while_clipping_hides_nothing():
    attack, shares = TabLeak(restarts=2, iterations=100), []
    for n in (1, 4, 24):
        rows = clinic(n)
        shares.append(attacked(attack, mlp(rows), rows)[1].records.value)
    assert shares[0] >= shares[1] > shares[2]
    rows = clinic(2)
    task = mlp(rows)
    update = seen(task, task.initial(), rows, 0, 1)
    noise = np.random.default_rng(0).standard_normal(task.size).astype(np.float32)
    noised = update + noise * np.linalg.norm(update) / np.sqrt(task.size)
    assert attacked(attack, task, rows)[1].records.value == 1
    assert attacked(attack, task, rows, update / 8)[1].records.value == 1
    assert attacked(attack, task, rows, noised)[1].records.value == 0


def test_more_iterations_match_no_worse_and_the_same_seed_gives_the_same():
    rows = clinic(3)
    task = mlp(rows, epochs=2)
    came, update = task.initial(), torch.from_numpy(seen(task, task.initial(), rows, 0, 1)).double()
    local = Local(task, came, draws(task, 0, 1), True)

    def distance(iterations):
        found, _ = attacked(TabLeak(restarts=4, iterations=iterations), task, rows)
        x = torch.from_numpy(found).double()[None]
        return float(mismatch(local, update, x, torch.from_numpy(rows.y))), found

    (short, _), (long, found), (_, again) = distance(5), distance(150), distance(150)
    assert long < short
    np.testing.assert_array_equal(found, again)


def test_what_the_pool_agrees_on_is_the_median_and_the_likeliest_code():
    form = Form(clinic(1).space, (5,))
    z = form.start(3, 1, torch.Generator().manual_seed(0))
    z[0][:] = torch.tensor([0.0, 0.5, -0.9])[:, None, None]
    z[1][:] = torch.tensor([[0.0, 5, 0, 0], [0, 5, 0, 0], [0, 0, 0, 5]])[:, None]
    z[2][:] = torch.tensor([[5.0, 0], [5, 0], [0, 5]])[:, None]
    np.testing.assert_allclose(TabLeak._pooled(form, z, 0), [[58, 3, 0, 140, 3]], atol=1e-3)


def test_rounding_gives_possible_rows_whatever_may_not_change():
    space = clinic(1).space
    rough = torch.tensor([[17.0, 5.9, 0.4, 120.4, 2.345], [44.6, 1.9, 0.6, 300.0, -1.0]])
    np.testing.assert_allclose(Form(space, (5,)).rounded(rough), [[18, 7, 0, 120, 2.345], [45, 1, 1, 200, 0]], 1e-6)


# ---- images


def psnr(result):
    return float(result.visible["psnr"].mean())


def test_an_image_is_rebuilt_and_noise_keeps_it_hidden():
    every = pictures(30)
    rows, others = every.take([0]), every.take(slice(10, 30))
    task = cnn(rows)
    guess = psnr(matched(baselines(others, 1)["mean"], rows.x, rows.space))
    attack = InvertingGradients(iterations=150)
    assert psnr(attacked(attack, task, rows, public=others.x)[1]) > guess + 6
    update = seen(task, task.initial(), rows, 0, 1)
    noise = np.random.default_rng(0).standard_normal(task.size).astype(np.float32)
    noised = update + 10 * noise * np.linalg.norm(update) / np.sqrt(task.size)
    assert psnr(attacked(attack, task, rows, noised, public=others.x)[1]) < guess


def test_local_steps_are_simulated_and_other_hospitals_hide_an_image():
    every, attack = pictures(30), InvertingGradients(iterations=100)
    rows, public = every.take(slice(4)), every.take(slice(10, 30)).x
    one = rows.take([0])
    task = cnn(one, epochs=4, lr=0.5)
    update = seen(task, task.initial(), one, 0, 1)
    assert (psnr(attacked(attack, task, one, public=public)[1])
            > psnr(attacked(attack, replace(task, epochs=1), one, update, public=public)[1]))
    task = cnn(rows)
    came = task.initial()
    total = np.mean([seen(task, came, rows.take([i]), i, 1) for i in range(4)], 0)
    alone, among = attacked(attack, task, one, public=public)[1], attacked(attack, task, rows, total, public=public)[1]
    assert among.visible["psnr"][0] < psnr(alone)


@dataclass(frozen=True)
class Normalised(ImageRecipe):
    """A small network with batch normalisation after its first convolution."""

    info = Info("Small network with batch normalisation", "")

    def network(self, inputs, classes):
        return nn.Sequential(nn.Conv2d(inputs[0], 8, 3, 2, 1), nn.BatchNorm2d(8, momentum=1.0), nn.ReLU(),
                             nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                             nn.Flatten(), nn.Linear(16, classes))


@dataclass(frozen=True)
class Kept(Task):
    """A task that keeps batch normalisation, which those of the federation do not."""

    def network(self):
        module = build(self.recipe, self.inputs, len(self.classes), self.seed)
        module[0].mean.fill_(0.5)
        module[0].std.fill_(0.5)
        return module, ""


def test_statistics_are_what_running_averages_of_one_step_hold():
    rows = pictures(4)
    task = Kept(Normalised(modality="none", **PLAIN), rows.x.shape[1:], rows.classes, rows.space, batch=64)
    local = Local(task, task.initial(), 0, False, torch.float32)
    told = local.statistics(torch.from_numpy(rows.x))
    assert [len(mean) for mean, _ in told] == [8, 16]
    task.train(task.initial(), rows, 0, 1)
    layer, count = task._module[1][1], 4 * 6 * 6
    torch.testing.assert_close(told[0][0], layer.running_mean)
    torch.testing.assert_close(told[0][1] * count / (count - 1), layer.running_var)
    assert local.far(torch.from_numpy(rows.x)[None], told).item() == pytest.approx(0, abs=1e-5)


def test_statistics_of_batch_normalisation_help_and_the_federation_has_none():
    rows = pictures(4)
    task = Kept(Normalised(modality="none", **PLAIN), rows.x.shape[1:], rows.classes, rows.space, batch=64)
    local = Local(task, task.initial(), 0, False, torch.float32)
    told, attack = local.statistics(torch.from_numpy(rows.x)), InvertingGradients(iterations=150)
    without, having = (psnr(attacked(attack, task, rows, statistics=s)[1]) for s in (None, told))
    assert having > without
    plain = Task(task.recipe, task.inputs, task.classes, task.space)
    assert not Local(plain, plain.initial(), 0, False, torch.float32).statistics(torch.from_numpy(rows.x))
    with pytest.raises(InputError, match="statistics of 2 batch normalisations, and the network has 0"):
        attacked(attack, plain, rows, statistics=told)


# ---- how much is right


def test_rows_are_assigned_by_hand():
    rows = clinic(3)
    found = rows.x[[2, 0, 1]].copy()
    found[0, 3] += 40  # of the last row, one cell in five
    result = matched(found, rows.x, rows.space)
    assert result.order.tolist() == [1, 2, 0]
    assert result.records[:1] + result.records[3:] == (2 / 3, 3)
    assert result.cells == pytest.approx(14 / 15)
    close = rows.x + 0.009 * rows.space.scale.numpy()
    assert matched(close, rows.x, rows.space).cells == 1
    assert matched(close, rows.x, rows.space, 0.005).cells == 0


def test_images_are_compared_as_people_see_them():
    rows = pictures(3)
    result = matched(rows.x[[1, 2, 0]] + np.float32(0.01), rows.x, rows.space)
    assert result.order.tolist() == [2, 0, 1]
    np.testing.assert_allclose(result.visible["psnr"], 40, atol=0.01)
    assert set(result.visible) == {"ssim", "psnr", "l2"}


def test_baselines_are_the_mean_and_other_rows():
    rows = clinic(20)
    guess = baselines(rows, 3)
    np.testing.assert_allclose(guess["mean"], np.repeat(rows.x.mean(0)[None], 3, 0))
    assert all((row == rows.x).all(1).any() for row in guess["others"])
    with pytest.raises(InputError, match="a guess of 21 rows needs as many public ones, and there are 20"):
        baselines(rows, 21)


# ---- what it refuses


def test_bad_input_is_named():
    rows = clinic(2)
    task = mlp(rows)
    came = task.initial()
    update = seen(task, came, rows, 0, 1)
    with pytest.raises(InputError, match=rf"update: needs {task.size} parameters"):
        TabLeak()(task, came, update[1:], 2)
    with pytest.raises(InputError, match="update: holds a value that is not finite"):
        TabLeak()(task, came, np.full_like(update, np.nan), 2)
    with pytest.raises(InputError, match="labels: needs 2 classes from 0 to 1"):
        TabLeak()(task, came, update, 2, np.array([0, 2]))
    with pytest.raises(InputError, match=r"public inputs: needs the shape \(5,\) each, got \(4,\)"):
        TabLeak()(task, came, update, 2, public=rows.x[:, 1:])
    with pytest.raises(InputError, match="rows must be at least 1"):
        TabLeak()(task, came, update, 0)
    with pytest.raises(NotApplicable, match="InvertingGradients is for images, and the inputs of this task are tables"):
        InvertingGradients()(task, came, update, 2)
    with pytest.raises(InputError, match="tv must be 0 or more"):
        InvertingGradients(tv=-1.0)
