"""Clipped gradients: against autograd row by row and against Opacus, for each layer and each way through it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imaging.models.models import ResNetSmall, SimpleCNN
from suite.base.errors import InputError
from suite.base.seeding import seeded
from suite.defenses.private import clipping
from suite.defenses.private.clipping import BookKeeping, PerRow, clipped_sum
from suite.training.groupnorm import without_batch_norm
from tabular.models import MLP

IMAGE = (1, 12, 12)


class Twice(nn.Module):
    """Sends its input through one layer two times, with another in between."""

    def __init__(self):
        super().__init__()
        self.own, self.between, self.last = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.between(self.own(self.between(self.own(x)).relu())).relu())


class Places(nn.Module):
    """Linear layers and a normalisation over several places of each row, as a transformer has them."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 40), nn.GELU(), nn.Linear(40, 5), nn.LayerNorm((9, 5)))
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.inner(x.flatten(1).view(-1, 9, 16)[..., :4]).mean(1))


class Scale(nn.Module):
    """A layer that nobody knows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.weight * x


with seeded(0):
    NETWORKS = {
        "mlp": (MLP().network((6,), 3), (6,)),
        "simple cnn": (SimpleCNN().network(IMAGE, 3), IMAGE),
        "resnet": (without_batch_norm(ResNetSmall(widths=(16, 32)).network((3, 20, 20), 3))[0], (3, 20, 20)),
        "twice": (Twice(), (6,)),
        "places": (Places(), (1, 12, 12)),
        "normalised table": (without_batch_norm(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(),
                                                              nn.Linear(8, 3)))[0], (6,)),
        "dilated": (nn.Sequential(nn.Conv2d(1, 3, 3, (2, 1), (1, 2), (1, 2), bias=False), nn.GroupNorm(3, 3), nn.Tanh(),
                                  nn.Flatten(), nn.LazyLinear(3)), IMAGE),
    }


def prepared(name, n=9):
    network, inputs = NETWORKS[name]
    torch.manual_seed(0)
    x = torch.randn(n, *inputs) * torch.logspace(-2, 1, n).view(-1, *[1] * len(inputs))  # some clipped, some not
    network(x)
    return copy.deepcopy(network), x, torch.arange(n) % 3


def gradients(network):
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def by_hand(network, x, y, norm):
    """One row after the other."""
    total = 0
    for a, b in zip(x, y, strict=True):
        parts = torch.autograd.grad(F.cross_entropy(network(a[None]), b[None]), tuple(network.parameters()))
        own = torch.cat([g.flatten() for g in parts])
        total = total + own * min(1.0, norm / own.norm())
    return total


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", [0.3, 1.5, 1e6])
def test_it_is_the_sum_of_clipped_rows_as_autograd_and_opacus_have_it(name, norm):
    network, x, y = prepared(name)
    assert clipping.suited(network)
    BookKeeping(network)(x, y, norm)
    expected = by_hand(network, x, y, norm)
    assert torch.allclose(gradients(network), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    theirs = peer(network)
    theirs(x, y, norm)
    assert torch.allclose(gradients(network), gradients(theirs.network), rtol=1e-4, atol=1e-5)


def peer(network):
    from opacus.grad_sample import GradSampleModule

    return PerRow(GradSampleModule(copy.deepcopy(network), loss_reduction="sum"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", [0.3, 1e6])
def test_of_patients_the_mean_of_their_rows_is_clipped_and_what_fills_up_counts_nothing(name, norm):
    network, x, y = prepared(name)
    shares = torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]])
    expected = 0
    for patient, share in zip(range(0, 9, 3), shares, strict=True):
        own = slice(patient, patient + int((share > 0).sum()))
        parts = torch.autograd.grad(F.cross_entropy(network(x[own]), y[own]), tuple(network.parameters()))
        mean = torch.cat([g.flatten() for g in parts])
        expected = expected + mean * min(1.0, norm / mean.norm())
    for clip in (BookKeeping(network), peer(network)):
        clip(x, y, norm, shares)
        assert torch.allclose(gradients(clip.network), expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [(4, 4), (28, 28)])
def test_both_ways_through_a_layer_are_the_same(size):
    """Few places: norms without gradients of rows. Many: gradients written out. The first layer has both here."""
    torch.manual_seed(0)
    seen, back = torch.randn(5, 20, size[0] ** 2), torch.randn(5, 30, size[0] ** 2)
    squares, weighted = clipping._products(nn.Linear(20, 30), seen, back)
    rows = torch.einsum("nit,not->noi", seen, back)
    assert torch.allclose(squares, rows.square().sum((1, 2)) + back.sum(2).square().sum(1), rtol=1e-4)
    w = torch.rand(5)
    weight, bias = weighted(w)
    assert torch.allclose(weight.view(30, 20), torch.einsum("n,noi->oi", w, rows), rtol=1e-4, atol=1e-3)
    assert torch.allclose(bias, w @ back.sum(2), rtol=1e-4, atol=1e-4)


def test_a_row_alone_is_never_longer_than_the_norm_and_no_shorter_if_clipped():
    for name in NETWORKS:
        network, x, _ = prepared(name)
        with torch.no_grad():
            worst = network(x[-1:]).argmin(1)  # a row that is judged rightly may have no gradient to clip
        BookKeeping(network)(x[-1:], worst, 0.01)
        assert gradients(network).norm() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("unknown", [
    Scale(), nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(1, 1, 3, padding="same"), nn.Conv2d(1, 1, 3, 1, 1,
    padding_mode="reflect"), nn.Conv1d(1, 1, 1), nn.Linear(2, 2).requires_grad_(False)])
def test_layers_it_does_not_know_are_left_to_opacus(unknown):
    assert not clipping.suited(nn.Sequential(nn.Linear(3, 3), unknown))


def test_a_shared_weight_is_left_to_opacus():
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    assert clipping.suited(nn.Sequential(one, other))
    other.weight = one.weight
    assert not clipping.suited(nn.Sequential(one, other))


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_opacus_leaves_nothing_behind():
    torch.manual_seed(0)
    network, x, y = nn.Sequential(nn.Linear(6, 3), Scale()), 3 * torch.randn(8, 6), torch.arange(8) % 3
    expected = by_hand(network, x, y, 0.7)
    with clipped_sum(network) as clipped:
        assert isinstance(clipped, PerRow)
        for _ in range(2):  # nothing adds up
            clipped(x, y, 0.7)
            assert torch.allclose(gradients(network), expected, atol=1e-5)
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())
    assert not any(hasattr(p, "grad_sample") for p in network.parameters())
    with clipped_sum(network[0]) as clipped:
        assert isinstance(clipped, BookKeeping)


class Folds(nn.Module):
    """Judges four parts of each row, as if they were rows, and takes the mean."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x):
        return self.a(x.reshape(-1, 4)).reshape(len(x), -1, 3).mean(1)


class Overwrites(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.relu_(self.a(x)))


class Behind(Overwrites):
    """Uses a layer's weight outside of it."""

    def forward(self, x):
        return F.linear(self.a(x), self.a.weight.T)[:, :3] + self.b(self.a(x))


class Idle(Overwrites):
    """Does not call one of its layers."""

    def forward(self, x):
        return self.a(x)[:, :3]


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("opacus", [False, True])
def test_parts_of_a_row_are_not_clipped_one_by_one(rows, opacus):
    network = Folds()
    clip = peer(network) if opacus else BookKeeping(network)
    with pytest.raises(InputError, match=f"of {rows} rows this network makes {4 * rows}"):
        clip(torch.randn(rows, 16), torch.zeros(rows, dtype=torch.long), 1.0)


@pytest.mark.parametrize("kind", [Overwrites, Behind])
def test_a_network_that_cannot_be_followed_is_refused(kind):
    torch.manual_seed(0)
    with pytest.raises(InputError, match="cannot follow this network"):
        BookKeeping(kind())(torch.randn(6, 4), torch.arange(6) % 3, 1.0)


@pytest.mark.parametrize("opacus", [False, True])
def test_a_layer_that_is_not_called_learns_nothing(opacus):
    torch.manual_seed(0)
    network, x, y = Idle(), torch.randn(6, 4), torch.arange(6) % 3
    clip = peer(network) if opacus else BookKeeping(network)
    clip(x, y, 1e6)
    grads = [p.grad for p in clip.network.parameters()]
    assert all(g.abs().sum() > 0 for g in grads[:2]) and all((g == 0).all() for g in grads[2:])


def test_frozen_layers_go_to_opacus_and_stay_as_they_are():
    torch.manual_seed(0)
    network, x, y = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(6, 4), torch.arange(6) % 3
    network[0].requires_grad_(False)
    with clipping.clipped_sum(network) as clip:
        clip(x, y, 1e6)
    truth = torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), [*network[2].parameters()])
    assert network[0].weight.grad is None
    for p, g in zip(network[2].parameters(), truth, strict=True):
        torch.testing.assert_close(p.grad, g)
