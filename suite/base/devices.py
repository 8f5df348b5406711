"""Where networks compute: what `--device` means, and the global generator of a device."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from suite.base.errors import InputError

FALLBACK = "use --device cpu or auto"


def resolve_device(name: str) -> torch.device:
    """The device of a name: any that PyTorch knows, such as "cuda:1"; "auto" is CUDA, else XPU, else the CPU.

    Raises:
        InputError: PyTorch knows no such device, it is not there, or it has no float64 numbers, in which probabilities
            and distances are computed (Apple's "mps": so "auto" never takes it).
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception:  # each kind of device fails in its own way
        raise InputError(f"device {name}: no such device is available here; {FALLBACK}") from None
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        raise InputError(f"device {name}: it has no float64 numbers, in which probabilities and distances are "
                         f"computed; {FALLBACK}") from None
    return device


def describe_device(device: torch.device) -> str:
    """For people."""
    if device.type == "cpu":
        return f"CPU with {cores()} cores"
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return name(device) if name else str(device)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def random_state(device: torch.device) -> Tensor | None:
    """State of the global generator of a device; None on a CPU, whose is PyTorch's own."""
    return None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Put back what `random_state` gave."""
    torch.get_device_module(device).set_rng_state(state, device)
