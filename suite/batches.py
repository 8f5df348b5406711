"""Work on many inputs in batches that fit in memory: their size is found from the network, and halved if wrong."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from suite.classifier import Classifier

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


def in_batches(classifier: Classifier, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
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
        size = classifier.batch
        try:
            done.append(work(*(t[start:start + size] for t in rows)))
        except RuntimeError as e:
            if not out_of_memory(e) or size == 1:
                raise
            classifier.batch = min(size, max(n - start, 1)) // 2 or 1
            continue
        start += size
    return torch.cat(done) if len(done) > 1 else done[0]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out; then what can be freed is freed."""
    if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
        return False
    error.__traceback__ = None  # its frames hold on to the tensors of the failed attempt
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def batch_size(classifier: Classifier, x: Tensor) -> int:
    """How many inputs like `x` fit in memory with what a forward and backward pass keeps of them: a power of two.

    Args:
        classifier: Its network judges one input; without one nothing is known, and all is assumed to fit.
        x: (n, ...) inputs, n >= 1.
    """
    module: nn.Module | None = getattr(classifier, "module", None)
    if module is None or x[0].numel() * x.element_size() * MOST * KEPT <= SMALL:
        return MOST
    x = x[:1].to(classifier.device)
    held = [x.numel() * x.element_size()]
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
    memory = SHARE * torch.cuda.mem_get_info(x.device)[0] if cuda else MEMORY
    fits = int(memory // (KEPT * sum(held)))
    return min(MOST if cuda else CACHED, 1 << max(fits, 1).bit_length() - 1)
