"""Batches: found from the network, halved when memory runs out, and without influence on any result."""

import pytest
import torch
from torch import nn

from suite import batches
from suite.attacks.gradient import BIM
from suite.batches import CACHED, batch_size, in_batches
from suite.classifier import TorchClassifier
from suite.seeding import seeded
from suite.space import Space


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


@pytest.mark.parametrize("message", [None, "DefaultCPUAllocator: can't allocate memory: you tried to allocate"])
def test_out_of_memory_halves_the_batch_and_goes_on(message):
    cramped, x = classifier(room=20, message=message), inputs(100)
    got = cramped.scores(x)
    assert cramped.batch == 12  # 100, 50, 25 did not fit
    assert cramped.module.seen == [100, 50, 25] + [12] * 8 + [4]
    torch.testing.assert_close(got, cramped.module.body(x))
    cramped.module.seen.clear()
    cramped.scores(x)
    assert max(cramped.module.seen) == 12  # it does not try again what has failed


def test_a_batch_of_one_that_fails_raises():
    with pytest.raises(torch.OutOfMemoryError):
        classifier(room=0).scores(inputs(3))


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
