"""What travels between server and hospitals, and what a task keeps between them: as Flower and a fresh task have it."""

import copy
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord

from federated.flower.client_app import NPY, WEIGHTS, packed, unpacked
from federated.task.task import Task
from suite.base.seeding import seeded, torch_seeded
from tabular.models import MLP
from tests.support.breast import breast

NUMBERS = np.random.default_rng(0).normal(size=37).astype(np.float32)
NUMBERS[:4] = np.nan, np.inf, -0.0, 1e-42


@pytest.mark.parametrize("size", [1, 37, 10_000, 10**6])
def test_packed_is_to_the_byte_what_flower_packs(size):
    weights = np.resize(NUMBERS, size)
    ours, flowers = packed(weights)[WEIGHTS], Array(weights)
    assert vars(ours) == vars(flowers)
    assert unpacked(packed(weights)).tobytes() == weights.tobytes()


def test_packed_takes_other_layouts_and_types():
    np.testing.assert_array_equal(unpacked(packed(NUMBERS.astype(np.float64)[::2])), NUMBERS[::2])


ODD = {"double": NUMBERS.astype(np.float64), "big endian": NUMBERS.astype(">f4"), "a row": NUMBERS[None],
       "integers": np.arange(37, dtype=np.int32), "one number": np.float32(3), "nothing": NUMBERS[:0],
       "columns first": np.asfortranarray(np.resize(NUMBERS, (4, 5)))}


@pytest.mark.parametrize("name", ODD)
def test_unpacked_reads_anything_else_as_flower_does(name):
    record = ArrayRecord({WEIGHTS: Array(np.asarray(ODD[name]))})
    found, wanted = unpacked(record), record[WEIGHTS].numpy()
    assert found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


def test_unpacked_believes_the_bytes_and_not_what_is_said_of_them():
    data = packed(NUMBERS)[WEIGHTS].data
    lied = ArrayRecord({WEIGHTS: Array("float64", (3,), NPY, data)})
    assert unpacked(lied).tobytes() == NUMBERS.tobytes() == lied[WEIGHTS].numpy().tobytes()
    longer = unpacked(ArrayRecord({WEIGHTS: Array("float32", (37,), NPY, data + b"more")}))
    assert longer.tobytes() == NUMBERS.tobytes()
    for broken in (data[:-4], data[:100], b"", b"junk"):
        with pytest.raises((ValueError, EOFError)):
            unpacked(ArrayRecord({WEIGHTS: Array("float32", (37,), NPY, broken)}))
    with pytest.raises(TypeError):
        unpacked(ArrayRecord({WEIGHTS: Array("float32", (37,), "torch", data)}))


@pytest.fixture(scope="module")
def rows():
    return breast()[0].take(slice(0, 100))


@pytest.fixture(scope="module")
def task(rows):
    return Task(MLP(hidden=(8,), dropout=0.3), rows.x.shape[1:], rows.classes, rows.space, epochs=2)


def test_a_hospital_does_not_remember_who_came_before(task, rows):
    """Neither parameters nor momentum nor gradients, and what it has given away does not change any more."""
    weights = task.initial()
    first = task.train(weights, rows, 0, 1)
    kept = first.copy()
    other = task.train(weights + 1, rows, 1, 1)
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, other)
    task.digest(weights - 1)
    fresh = Task(task.recipe, task.inputs, task.classes, task.space, epochs=2)
    for again in (task, fresh):
        np.testing.assert_array_equal(again.train(weights, rows, 0, 1), first)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda task: pickle.loads(pickle.dumps(task))],
                         ids=["copied", "sent to a process"])
def test_a_task_that_has_trained_trains_the_same_elsewhere(way, task, rows):
    weights = task.initial()
    wanted = task.train(weights, rows, 0, 1)
    again = way(task)
    assert again.recipe == task.recipe and again.size == task.size
    np.testing.assert_array_equal(again.train(weights, rows, 0, 1), wanted)


def test_pytorch_alone_is_seeded_as_by_itself_and_put_back():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with torch_seeded(2**32 - 1):
        drawn = torch.rand(5)
    with seeded(2**32 - 1):
        assert torch.equal(torch.rand(5), drawn)
    assert torch.equal(drawn, torch.rand(5, generator=torch.Generator().manual_seed(2**32 - 1)))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_seeding_leaves_nothing_behind():
    """`torch.manual_seed` keeps the stack of each call for a device that is never started."""
    before = len(torch.cuda._queued_calls)
    for _ in range(3):
        with torch_seeded(1):
            pass
    assert len(torch.cuda._queued_calls) == before
