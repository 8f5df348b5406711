"""What sanitizers do to images: pure functions `(n, channels, height, width) float32 in [0, 1] -> the same`, batched.

Autograd gives an attacker their true derivative, but for rounding, whose derivative is 0: it passes straight through
(BPDA: Athalye, Carlini and Wagner 2018, arXiv 1802.00420). Taking a whole denoiser for the identity would be the weaker
attack by far.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from imaging.transforms import dct
from suite.training.straight_through import straight_through

_KEPT = 6
"""Steps of total variation that a backward pass holds at a time."""
_LUMINANCE = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99"""
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Compressed and decompressed as by a baseline JPEG coder, up to the rounding of its integer arithmetic.

    The tables are those of the standard (ITU-T T.81, annex K), scaled by quality as in libjpeg; the chrominance of
    colour images is kept at half the resolution (4:2:0). What does not fill a block is padded with the edge.

    Args:
        x: 1 or 3 channels (RGB).
        quality: 1 to 100.
    """
    grey = _rounded(255 * x)
    if x.shape[1] == 1:
        return _byte(_coded(grey - 128, _LUMINANCE, quality) + 128) / 255
    luma, chroma = _rounded(torch.einsum("dc,nchw->ndhw", _TO_YCC.to(x), grey)).split([1, 2], 1)
    height, width = x.shape[2:]
    half = _coded(_rounded(F.avg_pool2d(_padded(chroma, 2), 2)), _CHROMINANCE, quality)
    chroma = F.interpolate(half, scale_factor=2, mode="bilinear")[..., :height, :width]
    coded = torch.cat([_coded(luma - 128, _LUMINANCE, quality) + 128, chroma], 1)
    return _byte(torch.einsum("dc,nchw->ndhw", _from_ycc().to(x), coded)) / 255


@cache
def _from_ycc() -> Tensor:
    return torch.linalg.inv(_TO_YCC.double()).float()


def _coded(plane: Tensor, table: str, quality: int) -> Tensor:
    """Planes around 0, with the coefficients of their blocks of 8 x 8 rounded to multiples of a table's."""
    n, c, height, width = plane.shape
    padded = _padded(plane, 8)
    down, across = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = padded.view(n, c, down, 8, across, 8).transpose(3, 4)
    step = _steps(table, quality).to(plane)
    blocks = dct.image(_rounded(dct.spectrum(blocks) / step) * step)
    return blocks.transpose(3, 4).reshape(padded.shape)[..., :height, :width]


@cache
def _steps(table: str, quality: int) -> Tensor:
    """(8, 8) quantisation steps of a quality."""
    base = torch.tensor([[float(v) for v in line.split()] for line in table.strip().splitlines()])
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((base * scale + 50) / 100).floor().clamp(1, 255)


def _padded(x: Tensor, multiple: int) -> Tensor:
    """With the last row and column repeated until both sides are multiples."""
    right, below = -x.shape[3] % multiple, -x.shape[2] % multiple
    return F.pad(x, (0, right, 0, below), mode="replicate") if right or below else x


def bit_depth(x: Tensor, bits: int) -> Tensor:
    """Intensities rounded to `2 ** bits` levels, black and white among them."""
    most = 2**bits - 1
    return _rounded(x * most) / most


def _rounded(x: Tensor) -> Tensor:
    return straight_through(x, x.round())


def _byte(x: Tensor) -> Tensor:
    """Whole numbers from 0 to 255."""
    return straight_through(x, x.round().clamp(0, 255))


def median(x: Tensor, size: int = 3) -> Tensor:
    """Each pixel replaced by the median of the square of `size` around it, channel by channel; edges are repeated.

    As SciPy's `median_filter`: the window of an even size reaches further up and left, and its median is the upper one.
    """
    before = size // 2
    padded = F.pad(x, [before, size - 1 - before] * 2, mode="replicate")
    windows = padded.detach().unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1).flatten(2, 3).unbind(2)
    middle = _middle(windows)
    if not padded.requires_grad:
        return middle
    places = torch.arange(padded[0, 0].numel(), device=x.device).view(padded.shape[2:])
    places = places.unfold(0, x.shape[2], 1).unfold(1, x.shape[3], 1).flatten(0, 1)
    chosen = torch.zeros(middle.shape, dtype=torch.long, device=x.device)
    for window, place in zip(windows, places, strict=True):
        chosen = torch.where(window == middle, place, chosen)
    return padded.flatten(2).gather(2, chosen.flatten(2)).view_as(middle)


def _middle(values: Sequence[Tensor]) -> Tensor:
    """Elementwise median of tensors of equal shape, the upper one of an even number.

    Forgetful selection: of as many as half of them and two, neither the least nor the greatest can be the median; both
    are dropped and the next comes in. All is minimum and maximum of whole images: 11 times as fast as a sort per pixel.
    """
    waiting = list(values) if len(values) % 2 else [*values, torch.full_like(values[0], torch.inf)]
    held = [waiting.pop() for _ in range(len(waiting) // 2 + 2)] if len(waiting) > 1 else waiting
    while len(held) > 1:
        for i in range(len(held) - 1):
            held[i], held[i + 1] = torch.minimum(held[i], held[i + 1]), torch.maximum(held[i], held[i + 1])
        held.pop()
        for i in reversed(range(len(held) - 1)):
            held[i], held[i + 1] = torch.minimum(held[i], held[i + 1]), torch.maximum(held[i], held[i + 1])
        held[0:1] = [waiting.pop()] if waiting else []
    return held[0]


def total_variation(x: Tensor, weight: float, steps: int) -> Tensor:
    """The image u with the least `|u - x|^2 / 2 + weight * total variation of u`, channel by channel.

    Chambolle's dual projection (2004, doi 10.1023/B:JMIV.0000011325.36760.1e) of so many steps. A backward pass repeats
    them a few at a time: to keep them all would take a dozen images each.
    """
    dual = torch.zeros_like(x), torch.zeros_like(x)
    for done in range(0, steps, _KEPT):
        dual = checkpoint(_projected, x, *dual, weight, min(_KEPT, steps - done), use_reentrant=False,
                          preserve_rng_state=False)
    return (x - weight * _divergence(*dual)).clamp(0, 1)


def _projected(x: Tensor, down: Tensor, across: Tensor, weight: float, steps: int) -> tuple[Tensor, Tensor]:
    x = x / weight
    for _ in range(steps):
        u = _divergence(down, across) - x
        rise, run = _forward(u, 2), _forward(u, 3)
        length = 1 + 0.25 * (rise.square() + run.square() + 1e-12).sqrt()  # the root of 0 has no derivative
        down, across = (down + 0.25 * rise) / length, (across + 0.25 * run) / length
    return down, across


def _forward(u: Tensor, axis: int) -> Tensor:
    """Difference to the next pixel along an axis, 0 at the last."""
    return torch.diff(u, dim=axis, append=u.narrow(axis, -1, 1))


def _divergence(down: Tensor, across: Tensor) -> Tensor:
    """What the negative of `_forward` along both axes is the transpose of."""
    return sum(torch.diff(p, dim=axis, prepend=torch.zeros_like(p.narrow(axis, 0, 1)))
               for p, axis in ((down, 2), (across, 3)))


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the orthonormal Haar transform of images with even sides.

    Returns:
        (n, c, h / 2, w / 2) averages, times 2, and (3, n, c, h / 2, w / 2) details: across, down, diagonal.
    """
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 2, torch.stack([a - b + c - d, a + b - c - d, a - b - c + d]) / 2


def haar_inverse(low: Tensor, details: Tensor) -> Tensor:
    """The images of what `haar` returns."""
    across, down, diagonal = details
    top = torch.stack([low + across + down + diagonal, low - across + down - diagonal], -1).flatten(-2)
    bottom = torch.stack([low + across - down - diagonal, low - across - down + diagonal], -1).flatten(-2)
    return torch.stack([top, bottom], -2).flatten(-3, -2) / 2


def wavelet(x: Tensor, levels: int = 2) -> Tensor:
    """Denoised: Haar details shrunk by the universal threshold of Donoho and Johnstone (1994).

    The noise of each channel of each image is estimated from its finest diagonal details.
    """
    height, width = x.shape[2:]
    low, details = _padded(x, 2**levels), []
    for _ in range(levels):
        low, detail = haar(low)
        details.append(detail)
    sigma = details[0][2].abs().flatten(2).median(2).values / 0.6745
    threshold = (sigma * (2 * torch.tensor(float(height * width)).log().sqrt().to(x)))[None, ..., None, None]
    for detail in reversed(details):
        low = haar_inverse(low, detail.sign() * (detail.abs() - threshold).clamp(min=0))
    return low[..., :height, :width].clamp(0, 1)
