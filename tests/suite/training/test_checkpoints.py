"""A killed training goes on to the very result it would have had; a checkpoint of another training is not used."""

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base.progress import listening
from suite.defenses.robust.distillation import Distillation
from suite.defenses.robust.fast import FastAdversarialTraining, FreeAdversarialTraining, Watchdog
from suite.training import checkpoints as module
from suite.training.checkpoints import checkpoints
from suite.training.loop import TorchRecipe
from tabular.data import breast_cancer
from tests.support.training import Net, same, table


@dataclass(frozen=True)
class Noisy(Net):
    """Dropout draws from the global generator, augmentation from the local one."""

    epochs: int = 6
    cosine: bool = True
    average: float = 0.9
    patience: int = 4

    def augment(self, x, generator):
        return x + torch.randn(x.shape, generator=generator)


@dataclass(frozen=True)
class Pictures(TorchRecipe):
    """Running statistics and integer buffers are state too."""

    def network(self, inputs, classes):
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)


def killed_after(epochs, train):
    """Run `train` until that many epochs were begun anew, over all its trainings."""
    count = 0

    def tick(*_):
        nonlocal count
        count += 1
        if count > epochs:
            raise Killed

    with pytest.raises(Killed), listening(tick):
        train()


def epochs_of(train):
    heard = []
    with listening(lambda what, done, _: heard.append(done) if what == "training" else None):
        return train(), heard


@pytest.mark.parametrize("recipe", [Noisy(), Net(epochs=6), Pictures(epochs=6)])
@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_training_is_the_same_to_the_bit(tmp_path, recipe, after):
    data = table(), table(60, 1)
    whole = recipe.fit(*data, seed=5)

    def train():
        with checkpoints(tmp_path):
            return recipe.fit(*data, seed=5)

    killed_after(after, train)
    found, epochs = epochs_of(train)
    assert same(found, whole) and epochs == list(range(after + 1, 7))


def test_it_can_be_killed_twice_and_early_stopping_counts_on(tmp_path):
    recipe, data = Net(epochs=60, patience=2, lr=0.3), (table(), table(60, 1))
    whole, epochs = epochs_of(lambda: recipe.fit(*data))
    assert 3 < len(epochs) < 60

    def train():
        with checkpoints(tmp_path):
            return recipe.fit(*data)

    killed_after(1, train)
    killed_after(1, train)
    found, rest = epochs_of(train)
    assert same(found, whole) and rest == epochs[2:]


def test_every_training_of_a_defense_has_its_own(tmp_path):
    recipe, data = Net(epochs=4), (table(), table(60, 1))
    whole = Distillation()(recipe, *data)

    def train():
        with checkpoints(tmp_path):
            return Distillation()(recipe, *data)

    killed_after(6, train)  # the teacher is done, the student half
    found, epochs = epochs_of(train)
    assert same(found, whole) and epochs == [3, 4]


@pytest.mark.parametrize("defense", [FreeAdversarialTraining(eps=0.1, replays=2), FastAdversarialTraining(eps=0.1)],
                         ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("after", [1, 3])
def test_what_a_defense_remembers_from_batch_to_batch_goes_on_to_the_bit(tmp_path, defense, after):
    recipe, data = Net(epochs=5 * getattr(defense, "replays", 1)), (table(), table(60, 1))
    whole = defense(recipe, *data)

    def train():
        with checkpoints(tmp_path):
            return defense(recipe, *data)

    killed_after(after, train)
    found, epochs = epochs_of(train)
    assert same(found, whole) and epochs == list(range(after + 1, 6))


def test_the_watchdog_remembers_what_it_has_seen_before_the_kill(tmp_path, monkeypatch):
    """It bites in the third epoch, for what was better in the first."""
    several, single, epoch = [0.6, 0.5, 0.1], [0.7, 0.7, 0.9], 0
    monkeypatch.setattr(FastAdversarialTraining, "watchdog", lambda self, *_: Watchdog(
        lambda module: several[epoch - 1], lambda module: single[epoch - 1], 0.2))

    def train(stop=None):
        def tick(what, done, _):
            nonlocal epoch
            epoch = done
            if done == stop:
                raise Killed

        with checkpoints(tmp_path), listening(tick):
            return FastAdversarialTraining(eps=0.1)(Net(epochs=9), table(), table(60, 1))

    with pytest.raises(Killed):
        train(stop=3)
    assert train().notes["overfitting_at_epoch"] == 3


def test_naming_a_checkpoint_copies_no_data(tmp_path):
    large = table(100_000)
    tracemalloc.start()
    with checkpoints(tmp_path):
        first = module.Checkpoint(large, large).file
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large.x.nbytes / 4
    with checkpoints(tmp_path):  # the name is of the numbers, in whichever order they lie in memory
        assert module.Checkpoint(large.with_data(np.asfortranarray(large.x), large.y), large).file == first


@pytest.mark.parametrize("change", ["recipe", "seed", "data", "about", "order"])
def test_another_training_starts_anew(tmp_path, change):
    recipe, train, val = Net(epochs=4), table(), table(60, 1)
    with checkpoints(tmp_path, "one"):
        recipe.fit(train, val)
    other = replace(recipe, lr=1e-2) if change == "recipe" else recipe
    rows = train.with_data(train.x + 1, train.y) if change == "data" else train
    with checkpoints(tmp_path, "two" if change == "about" else "one"):
        if change == "order":
            recipe.fit(train, val)
        _, epochs = epochs_of(lambda: other.fit(rows, val, seed=int(change == "seed")))
    assert epochs == [1, 2, 3, 4]


def test_nothing_is_kept_where_nobody_asked_or_little_would_be_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Net(epochs=2).fit(table(), table(60, 1))
    monkeypatch.setattr(module, "EVERY", 1e6)
    with checkpoints(tmp_path / "kept"):
        Net(epochs=2).fit(table(), table(60, 1))
    assert not list(tmp_path.iterdir())


PLAN = Plan.check({"data": "breast-cancer", "models": [{"name": "mlp", "epochs": 5, "hidden": [8]}]}, "test")


def test_an_audit_that_was_killed_trains_no_epoch_twice_and_leaves_nothing(tmp_path):
    data = breast_cancer()

    def audit(folder):
        return Audit(PLAN, data, "").run(folder)

    whole = audit(tmp_path / "whole")
    killed_after(3, lambda: audit(tmp_path / "run"))
    assert len(list((tmp_path / "run" / "checkpoints").rglob("*.safetensors"))) == 1
    run, epochs = epochs_of(lambda: audit(tmp_path / "run"))
    assert epochs == [4, 5]
    weights = [next((r.folder / "models").rglob("weights.safetensors")).read_bytes() for r in (whole, run)]
    assert weights[0] == weights[1]
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize("change", ["nothing", "weights", "cut", "link"])
def test_only_a_checkpoint_that_the_run_itself_has_written_is_gone_on_from(tmp_path, change):
    """Its name is no secret, and whoever wrote it would choose what is trained; one that is cut off is no error."""
    data = breast_cancer()

    def audit():
        return Audit(PLAN, data, "").run(tmp_path / "run")

    killed_after(3, audit)
    file, = (tmp_path / "run" / "checkpoints").rglob("*.safetensors")
    if change == "weights":
        save_file({name: t + 1 if t.is_floating_point() else t for name, t in load_file(file).items()}, file)
    if change == "cut":
        file.write_bytes(file.read_bytes()[:40])
    if change == "link":
        file.rename(tmp_path / "theirs")
        file.symlink_to(tmp_path / "theirs")
    run, epochs = epochs_of(audit)
    assert epochs == ([4, 5] if change == "nothing" else [1, 2, 3, 4, 5])
    assert not run.failed() and run.verify().whole and run.verify().missing == ()


def test_a_checkpoint_outside_of_runs_that_cannot_be_read_is_none(tmp_path):
    with checkpoints(tmp_path):
        found = module.Checkpoint(table(), table(60, 1))
        found.write({"w": torch.ones(3)})
        assert found.read()["w"].tolist() == [1, 1, 1]
        found.file.write_bytes(found.file.read_bytes()[:20])
        assert found.read() is None
