"""A pretend accelerator: tensors that say device "accel" and are computed on the CPU, for machines without a GPU.

    with accelerator.Pretend() as seen:
        classifier = TorchClassifier(module, 3, space, device="accel")
        attack(classifier, x.to("accel"), y.to("accel"))
    print(seen.counts, seen.where.most_common(5))

It refuses what CUDA refuses: tensors of two devices in one operation, indices on a device into a tensor of the CPU, and
generators of another device than the numbers they draw. It counts what a GPU would have to wait for: copies from and
to the host, and values that the host reads (`item`, `nonzero`, `equal`, indexing with a mask). Numbers are those of the
CPU to the bit, so a difference between the two is a fault of the code under test.

It cannot show speed, memory, or kernels that round otherwise; `benchmarks/gpu_check.py` does, where there is a GPU.
PyTorch calls its interface for backends in Python experimental: this is written for the version in `constraints.txt`.
"""

from __future__ import annotations

import sys
from collections import Counter
from weakref import WeakValueDictionary

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "accel"
CPU = torch.device("cpu")
SOURCES = ("/suite/", "/imaging/", "/tabular/", "/privacy/", "/federated/")
WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim",
         "unique_consecutive"}
"""Operations whose result the host must know before it goes on."""
COPIES = {"copy_", "_to_copy"}
INDEXES = {"index", "index_put_", "index_put", "_index_put_impl_"}

_setup_privateuseone_for_python_backend(NAME)
_active: list[Pretend] = []
_Generator = torch.Generator
_generators = WeakValueDictionary()
"""Ours by the address of what they really are, as operations are handed another object of the same generator."""


class Tensor(torch.Tensor):
    """A tensor that claims to be on the accelerator; `held` is what it really is."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=torch.device(NAME, 0), requires_grad=False)

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"Tensor({self.held})"

    @property
    def data(self):
        return Tensor(self.held)

    @data.setter
    def data(self, other):
        self.held = other.held

    def requires_grad_(self, requires_grad=True):
        self.requires_grad = requires_grad  # which, unlike the method, is allowed inside `torch.func.vmap`, too
        return self

    def tolist(self):
        _note("to host")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Generator(_Generator):
    """A generator that claims a device and draws on the CPU."""

    def __new__(cls, device="cpu"):
        return _Generator.__new__(cls, "cpu")

    def __init__(self, device="cpu"):
        self.claimed = torch.device(device)
        _generators[self._cdata] = self

    @property
    def device(self):
        return self.claimed


class Pretend(TorchDispatchMode):
    """Where it is entered, the accelerator is there.

    Attributes:
        counts: How often each kind of transfer or wait happened.
        where: The same by kind, file and line of our sources.
    """

    def __init__(self):
        super().__init__()
        self.counts, self.where = Counter(), Counter()

    def __enter__(self):
        torch.Generator = Generator
        _active.append(self)
        return super().__enter__()

    def __exit__(self, *error):
        torch.Generator = _Generator
        _active.remove(self)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _note(kind):
    frame = sys._getframe(2)
    while frame and not any(part in frame.f_code.co_filename for part in SOURCES):
        frame = frame.f_back
    place = ("/".join(frame.f_code.co_filename.split("/")[-3:]), frame.f_lineno) if frame else ("elsewhere", 0)
    for seen in _active:
        seen.counts[kind] += 1
        seen.where[kind, *place] += 1


def _check(name, args, kwargs, flat, far):
    """Raise where CUDA would."""
    near = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, Tensor) and t.dim() > 0]
    if far and name in INDEXES:
        whole, _, *values = args
        if not isinstance(whole, Tensor):
            raise RuntimeError(f"{name}: indices on {NAME} into a tensor on cpu")
        near = [t for t in near if any(t is v for v in values)]
    if far and near and name not in COPIES:
        raise RuntimeError(f"{name}: expected all tensors on one device, found {NAME} and cpu")
    asked = kwargs.get("device")
    kind = (NAME if far else "cpu") if asked is None else torch.device(asked).type
    for generator in flat:
        if isinstance(generator, _Generator):
            claimed = _generators.get(generator._cdata, generator).device.type
            if claimed != kind:
                raise RuntimeError(f"{name}: expected a '{kind}' generator, found '{claimed}'")


def _count(name, args, flat, far, to):
    near = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, Tensor) and t.dim() > 0]
    if name == "_to_copy" and to is not None and bool(far) != to:
        _note("to device" if to else "to host")
    elif name == "copy_" and far and near:
        _note("to device" if isinstance(args[0], Tensor) else "to host")
    elif far and name in WAITS:
        _note(f"wait {name}")
    elif far and name in INDEXES:
        indices = [t for t in args[1] if t is not None]
        if any(not isinstance(t, Tensor) for t in indices):
            _note("to device")
        # a value of one number is filled in under the mask, which needs no positions
        elif any(t.dtype == torch.bool for t in indices) and not (len(args) > 2 and args[2].dim() == 0):
            _note("wait mask")


def _run(func, args, kwargs):
    name, asked = func.overloadpacket.__name__, kwargs.get("device")
    flat = pytree.tree_leaves((args, kwargs))
    far = [t for t in flat if isinstance(t, Tensor)]
    to = None if asked is None else torch.device(asked).type == NAME
    _check(name, args, kwargs, flat, far)
    _count(name, args, flat, far, to)
    if asked is not None:
        kwargs = kwargs | {"device": CPU}
    args_held, kwargs_held = pytree.tree_map(lambda t: t.held if isinstance(t, Tensor) else t, (args, kwargs))
    out = func(*args_held, **kwargs_held)
    if not (bool(far) if to is None else to) or (name == "copy_" and not isinstance(args[0], Tensor)):
        return out
    known = {id(t.held): t for t in far}  # what works in place returns what it was given
    return pytree.tree_map(lambda t: known[id(t)] if id(t) in known else Tensor(t)
                           if isinstance(t, torch.Tensor) and not isinstance(t, Tensor) else t, out)


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return Tensor(torch.empty_strided(size, stride, dtype=dtype))


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return Tensor(torch.empty(size, dtype=dtype))


def _copy_from(src, dst, non_blocking=False):
    _note("to device" if isinstance(dst, Tensor) else "to host")
    a, b = (t.held if isinstance(t, Tensor) else t for t in (src, dst))
    b.copy_(a)
    return dst


_library = torch.library.Library("aten", "IMPL")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")

_module = type(torch.accel)
_module.get_rng_state = lambda self, device=0: torch.zeros(1, dtype=torch.uint8)
_module.set_rng_state = lambda self, state, device=0: None
_module.manual_seed_all = _module.manual_seed = lambda self, seed: None
_module.get_amp_supported_dtype = lambda self: [torch.bfloat16]
