"""Work on many inputs in batches that fit in memory: their size is found from the network, and halved if wrong."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

MOST = 4096
"""Inputs in one batch, however small they are."""
MEMORY = 2**29
"""Bytes that the activations of one batch may take on a CPU."""
CACHED = 512
"""Images in one batch on a CPU, however small they are; more leave its caches without being faster."""
SHARE = 0.25
"""Share of a GPU's free memory that they may take."""
SMALL = 2**24
"""Bytes of a full batch of inputs below which nobody asks how large the network's activations are."""
KEPT = 3
"""Copies of an activation that a forward and a backward pass hold together: itself, its gradient, and a work space."""

COUNTERS = ("queries", "gradients")
"""What classifiers count."""


class Batched(Protocol):
    """What judges inputs: a `suite.core.classifier.Classifier`."""

    batch: int | None
    """Inputs judged at once; None until it is known what fits."""

    @property
    def device(self) -> torch.device: ...


def in_batches(classifier: Batched, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`work` on all rows, in pieces of at most `classifier.batch`, joined again.

    When the memory runs out the batch is halved, for this classifier from now on, and the piece is tried again.

    Args:
        classifier: Its `batch` is read, found where it is not known yet, and lowered.
        work: `(*pieces) -> (n, ...)`, called in the order of the rows; called once with no rows if there are none.
        rows: Tensors of the same length, at least one.

    Raises:
        RuntimeError: Not even one input fits in memory.
    """
    done, start, n = [], 0, len(rows[0])
    if classifier.batch is None:
        classifier.batch = batch_size(classifier, rows[0]) if n else MOST
    while start < n or not done:
        size, counted = classifier.batch, {k: v for k, v in vars(classifier).items() if k in COUNTERS}
        try:
            done.append(work(*(t[start:start + size] for t in rows)))
        except RuntimeError as e:
            if not out_of_memory(e) or size == 1:
                raise
            vars(classifier).update(counted)  # what failed was no answer
            classifier.batch = min(classifier.batch, size, n - start) // 2 or 1  # `work` may have lowered it, too
            continue
        start += size
    return torch.cat(done) if len(done) > 1 else done[0]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out; then what can be freed is freed."""
    # cuBLAS and cuDNN have errors of their own
    if not isinstance(error, torch.OutOfMemoryError) and not any(
            said in str(error) for said in ("can't allocate memory", "ALLOC_FAILED")):
        return False
    error.__traceback__ = None  # its frames hold on to the tensors of the failed attempt
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def batch_size(classifier: Batched, x: Tensor) -> int:
    """How many inputs like `x` fit in memory with what a forward and backward pass keeps of them: a power of two.

    Args:
        classifier: Its network judges one input; without one only the inputs themselves are known.
        x: (n, ...) inputs, n >= 1.
    """
    module: nn.Module | None = getattr(classifier, "module", None)
    held = [x[0].numel() * x.element_size()]
    if held[0] * MOST * KEPT <= SMALL:
        return MOST
    if module is None:
        return _power(MEMORY // (KEPT * held[0]), MOST)
    x = x[:1].clone().to(classifier.device)  # the network may change its input in place
    leaves = [m for m in module.modules() if not any(m.children())]

    def weigh(_: nn.Module, __: object, out: object) -> None:
        held.extend(t.numel() * t.element_size() for t in (out if isinstance(out, tuple | list) else (out,))
                    if isinstance(t, Tensor))

    hooks = [m.register_forward_hook(weigh) for m in leaves]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    cuda = x.device.type == "cuda"
    memory = SHARE * free(x.device) if cuda else MEMORY
    return _power(int(memory // (KEPT * sum(held))), MOST if cuda else CACHED)


def free(device: torch.device) -> int:
    """Free bytes of a GPU, with what PyTorch keeps of it for tensors to come."""
    return (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device))


def _power(fits: int, most: int) -> int:
    """The largest power of two that fits, from 1 to `most`."""
    return min(most, 1 << max(fits, 1).bit_length() - 1)
