"""Batches: found from the network, halved when memory runs out, and without influence on any result."""

import pytest
import torch
from torch import nn

from suite.attacks.gradient import BIM
from suite.base.seeding import seeded
from suite.core import batches
from suite.core.batches import CACHED, MOST, batch_size, in_batches
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from tests.support.toy import Says


class Cramped(nn.Module):
    """A network that runs out of memory above so many inputs, and remembers what it was given."""

    def __init__(self, room, message=None):
        super().__init__()
        with seeded(0):
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        self.room, self.message, self.seen = room, message, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise RuntimeError(self.message) if self.message else torch.OutOfMemoryError("CUDA out of memory")
        return self.body(x)


def classifier(room=10**9, batch=None, message=None):
    return TorchClassifier(Cramped(room, message), 2, Space(0.0, 1.0), batch=batch)


def inputs(n):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("message", [None, "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
                                     "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"])
def test_out_of_memory_halves_the_batch_and_goes_on(message):
    cramped, x = classifier(room=20, message=message), inputs(100)
    got = cramped.scores(x)
    assert cramped.batch == 12  # 100, 50, 25 did not fit
    assert cramped.module.seen == [100, 50, 25] + [12] * 8 + [4]
    torch.testing.assert_close(got, cramped.module.body(x))
    assert cramped.queries == 100  # what failed is not counted
    cramped.module.seen.clear()
    cramped.scores(x)
    assert max(cramped.module.seen) == 12  # it does not try again what has failed


def test_a_batch_of_one_that_fails_raises():
    with pytest.raises(torch.OutOfMemoryError):
        classifier(room=0).scores(inputs(3))


def test_what_failed_is_not_counted_as_gradients_either():
    cramped, x = classifier(room=20), inputs(50)
    in_batches(cramped, lambda part: cramped.pull(part, lambda z: [torch.ones_like(z)])[1][0], x)
    assert (cramped.queries, cramped.gradients) == (50, 50)


def test_the_batch_never_rises_again():
    """Work inside work has lowered it before the outer piece failed."""
    cramped, tried = classifier(batch=64), []

    def work(part):
        tried.append(len(part))
        if len(tried) == 1:
            cramped.batch = 4
            raise torch.OutOfMemoryError
        return part

    in_batches(cramped, work, inputs(64))
    assert tried == [64] + [2] * 32 and cramped.batch == 2


def test_large_inputs_are_bounded_without_a_network():
    forest = EstimatorClassifier(Says(0.1, 0.9), 2, Space(0.0, 1.0))
    assert batch_size(forest, torch.zeros(1, 30)) == MOST
    large = torch.zeros(1, 3, 224, 224)
    size = batch_size(forest, large)
    assert size * large.numel() * 4 * batches.KEPT <= batches.MEMORY < 2 * size * large.numel() * 4 * batches.KEPT


def test_free_memory_counts_what_pytorch_keeps_for_tensors_to_come(monkeypatch):
    for name, value in {"mem_get_info": (100, 1000), "memory_reserved": 70, "memory_allocated": 30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert batches.free(torch.device("cuda")) == 140


def test_other_errors_are_not_taken_for_want_of_memory():
    broken = classifier(room=1, message="mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        broken.scores(inputs(3))
    assert broken.module.seen == [3]


def test_an_attack_survives_and_finds_what_it_finds_with_room():
    x = inputs(50)
    roomy, cramped = classifier(), classifier(room=9)
    y = roomy.judge(x)
    torch.testing.assert_close(BIM(eps=0.05)(cramped, x, y), BIM(eps=0.05)(roomy, x, y))
    assert cramped.batch <= 9
    assert all(p.requires_grad for p in cramped.module.parameters())


@pytest.mark.parametrize("size", [1, 3, 8, 50])
def test_pieces_cover_all_rows_in_order(size):
    x, y, pieces = inputs(20), torch.arange(20), []

    def work(a, b):
        pieces.append(len(a))
        return a.flatten(1).sum(1) + b

    got = in_batches(classifier(batch=size), work, x, y)
    torch.testing.assert_close(got, x.flatten(1).sum(1) + y)
    assert max(pieces) == min(size, 20) and sum(pieces) == 20


def test_no_rows_are_worked_on_once():
    assert in_batches(classifier(), lambda x: x + 1, inputs(0)).shape == (0, 1, 8, 8)


def test_the_batch_found_fits_the_memory(monkeypatch):
    monkeypatch.setattr(batches, "SMALL", 0)
    with seeded(0):
        wide = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 2))
    target = TorchClassifier(wide, 2, Space(0.0, 1.0))
    held = 4 * (64 + 3 * 32 * 64 + 2)  # bytes of the input and of what each layer returns
    for memory in (2**20, 2**22, 2**24):
        monkeypatch.setattr(batches, "MEMORY", memory)
        size = batch_size(target, inputs(1))
        assert size * held * batches.KEPT <= memory < 2 * size * held * batches.KEPT
    monkeypatch.setattr(batches, "MEMORY", 1)
    assert batch_size(target, inputs(1)) == 1
    monkeypatch.setattr(batches, "MEMORY", 2**60)
    assert batch_size(target, inputs(1)) == CACHED
    assert target.queries == 0 and not wide[0]._forward_hooks
