"""The step to the nearest linearised boundary: by hand, and the fused one against tensor operations."""

import pytest
import torch

from suite.attacks._boundary import NUDGE, by_tensors, step
from suite.attacks.minimal import DeepFool
from suite.core.space import Reach
from tests.support.models import patients

BOTH = pytest.mark.parametrize("walk", [step, by_tensors], ids=["fused", "tensors"])


@BOTH
def test_one_step_by_hand(walk):
    # features of scale 1, 2 and 1; the last cannot follow its gradient, as it stands at its limit
    z = torch.tensor([[0.0, 0.0, 5.0]])
    reach = Reach(z.clone(), torch.full((1, 3), -5.0), torch.full((1, 3), 5.0))
    gaps, grads = torch.tensor([[-2.0]]), [torch.tensor([[3.0, 2.0, 7.0]])]
    assert walk(z, torch.tensor([0]), gaps, grads, reach, torch.tensor([1.0, 4.0, 1.0]), 1.5).tolist() == [0]
    share = 1.5 * (2 + NUDGE) / (3 * 3 + 4 * 2 * 2)
    torch.testing.assert_close(z, torch.tensor([[3 * share, 8 * share, 5.0]]))


@BOTH
def test_rows_that_are_through_stay_and_rows_without_a_way_go_back(walk):
    x = torch.zeros(4, 1)
    reach = Reach(x, x - 1, x + torch.tensor([[1.0], [1.0], [0.5], [1.0]]))
    z = torch.full((4, 1), 0.5)
    # of rows 3, 1 and 2: one through, one with a flat gradient, one at its limit; row 0 is not asked about
    left = walk(z, torch.tensor([3, 1, 2]), torch.tensor([[0.1, -0.1, -0.1]]),
                [torch.tensor([[1.0], [0.0], [1.0]])], reach, torch.ones(1), 1.02)
    assert not len(left)
    assert z[:, 0].tolist() == [0.5, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("rivals", [1, 3])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)])
def test_fused_and_tensors_agree(rivals, shape):
    generator = torch.Generator().manual_seed(rivals)
    x, noise, width = (torch.randn(80, *shape, generator=generator) for _ in range(3))
    reach = Reach(x, x - width.relu(), x + width.abs())  # half of the features start at their lower limit
    rows = torch.randperm(80, generator=generator)[:50]
    gaps = torch.randn(rivals, 50, generator=generator).sub(0.7).sort(0, descending=True).values
    grads = [torch.randn(50, *shape, generator=generator) for _ in range(rivals)]
    square = torch.rand(shape, generator=generator) + 0.5
    start = torch.clamp(x + 0.3 * noise, reach.lower, reach.upper)
    (fused, left), (tensors, same) = ((z, walk(z, rows, gaps, grads, reach, square, 1.02))
                                      for z, walk in ((start.clone(), step), (start.clone(), by_tensors)))
    torch.testing.assert_close(fused, tensors)
    assert torch.equal(left, same)
    assert torch.equal(rows[left].sort().values, (fused != start).flatten(1).any(1).nonzero()[:, 0])
    assert 20 < len(left) < 50


def test_rounding_keeps_no_row_from_falling():
    classifier, x, y = patients(relations=False)
    hits = [(classifier.judge(DeepFool(steps=steps)(classifier, x, y)) != y).float().mean() for steps in (5, 50)]
    assert hits[0] < 1 and hits[1] == 1
