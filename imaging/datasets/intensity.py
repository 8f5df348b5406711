"""From stored pixels to images: float32 in [0, 1], channels first, of one size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from suite.base.errors import InputError

SMALLEST = 8
"""Height and width in pixels that an image needs at least: networks halve it several times."""

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


def unit(stored: np.ndarray) -> np.ndarray:
    """(n, c, h, w) float32 in [0, 1] of stored (n, h, w) or (n, h, w, c) uint8 images, or of float ones in [0, 1].

    Raises:
        InputError: Another type or shape, not 1 or 3 channels, an image that is too small, NaN, or out of range. The
            message does not name the file.
    """
    if not (stored.dtype == np.uint8 or np.issubdtype(stored.dtype, np.floating)):
        raise InputError(f"holds {stored.dtype}; images are uint8 from 0 to 255, or float from 0 to 1")
    if stored.ndim == 3:
        stored = stored[..., None]
    if stored.ndim != 4:
        raise InputError(f"has the shape {stored.shape}; images have (n, height, width) or (n, height, width, 3)")
    _, height, width, channels = stored.shape
    if channels not in (1, 3):
        raise InputError(f"has {channels} channels; images have 1 or 3")
    if min(height, width) < SMALLEST:
        raise InputError(f"has images of {width} x {height} pixels; they need at least {SMALLEST} x {SMALLEST}")
    if stored.dtype == np.uint8:
        x = stored.astype(np.float32)
        x /= 255
    else:
        x = stored.astype(np.float32)
        _check_unit(x)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def fit(x: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """The images (n, c, h, w), resized to (`size`, `size`) without keeping their aspect, with that many channels.

    Resizing is bicubic and antialiased: what is made smaller is blurred first.
    """
    if channels == 1 and x.shape[1] == 3:
        x = np.tensordot(x, GREY, (1, 0))[:, None].clip(0, 1)
    elif channels == 3 and x.shape[1] == 1:
        x = x.repeat(3, axis=1)
    if size is not None and x.shape[2:] != (size, size):
        scaled = F.interpolate(torch.from_numpy(x), (size, size), mode="bicubic", antialias=True, align_corners=False)
        x = scaled.clamp_(0, 1).numpy()
    return x


def ends(values: np.ndarray, window: tuple[float, float] | None) -> tuple[float, float]:
    """The measured values that become black and white: of a window (center, width), or the 0.5th and the 99.5th
    percentile."""
    if window is None:
        low, high = np.percentile(values, (0.5, 99.5))
        return low, high
    return window[0] - window[1] / 2, window[0] + window[1] / 2


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Measured values as float32 from 0 (`low` and below) to 1 (`high` and above)."""
    return ((values - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)


def _check_unit(x: np.ndarray) -> None:
    wrong = ~np.isfinite(x).reshape(len(x), -1).all(1)
    if wrong.any():
        raise InputError(f"image {int(wrong.argmax())} holds a value that is not finite")
    low, high = (float(v) for v in (x.min(initial=0), x.max(initial=0)))
    if low < 0 or high > 1:
        hint = ""
        if low >= 0 and high > 1:
            hint = ("; divide by 255, or store them as uint8" if high <= 255 else
                    "; divide by the largest value that their bits can hold: 4095 for 12, 65535 for 16")
        raise InputError(f"has float values from {low:g} to {high:g}, and they must be from 0 to 1{hint}")
