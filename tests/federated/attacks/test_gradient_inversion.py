"""Rows rebuilt from updates: answers in closed form, and what makes it harder is harder."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("flwr")

from federated.attacks.gradient_inversion import InvertingGradients, TabLeak, mismatch
from federated.core.form import Form
from federated.evaluate.rebuilt import baselines, matched
from federated.task.local import Local, seen
from federated.task.task import Task, draws
from imaging.models.models import ImageRecipe
from suite.base.errors import InputError, NotApplicable
from suite.base.info import Info
from suite.training.loop import build
from tests.support.inversion import PLAIN, attacked, clinic, cnn, mlp, pictures

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
