"""Pictures in the report: what attacks did to images, as PNG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from suite.report import known
from suite.report.rows import Rows
from suite.report.show import number

PANELS = {"clean": "original", "attacked": "attacked", "difference": "difference", "saliency": "saliency before",
          "saliency_attacked": "saliency after"}
MOST = 2
"""Examples of each attack that are shown, where there is room."""
SHOWN = 4
"""Classes of which reconstructions are shown."""
ROOM = 1_800_000
"""Characters of all examples together, so that the page stays below some 3 MB."""
SIDE = {"saliency": 64, "saliency_attacked": 64}
"""Longest side in pixels of what is shown smaller than 128."""
Arrays = Callable[[str], Mapping[str, np.ndarray]]
"""Arrays of a cell by its key, as `suite.results.run.Run.arrays` gives them."""


@dataclass(frozen=True)
class Picture:
    """One picture with the words under it and those for people who cannot see it."""

    uri: str
    title: str
    alt: str


@dataclass(frozen=True)
class Example:
    """One attacked image: its panels in a row, and what the model said of it."""

    caption: str
    panels: list[Picture]


def examples(rows: Rows, arrays: Arrays) -> dict[str, dict[str, list[Example]]]:
    """Undefended model -> attack -> its first successes; the same attack with other parameters counts once.

    The first of every attack comes before the second of any, and what does not fit into `ROOM` is left out.
    """
    out: dict[str, dict[str, list[Example]]] = {}
    kept_of: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for model in rows.models:
        for attack in rows.attacks(model, "none", "robust_accuracy"):
            row = rows.one("robust_accuracy", model, "none", attack, eps=rows.main(model, "none", attack))
            if row is not None and "picture_captions" in (kept := arrays(row.cell)):
                kept_of[model, known.label(row, rows.voice), attack] = kept
    room = ROOM
    for i in range(MOST):
        for (model, label, attack), kept in kept_of.items():
            if i < len(kept["picture_captions"]):
                made = _example(kept, i, attack)
                room -= sum(len(p.uri) for p in made.panels)
                if room >= 0:
                    out.setdefault(model, {}).setdefault(label, []).append(made)
    return out


def patterns(rows: Rows, arrays: Arrays) -> list[Picture]:
    """Universal perturbations, amplified, of the undefended models."""
    out = []
    for model in rows.models:
        for attack in rows.attacks(model, "none", "robust_accuracy"):
            pattern = arrays(rows.one("robust_accuracy", model, "none", attack).cell).get("pattern")
            if pattern is not None and pattern.ndim == 3:
                most = max(float(np.abs(pattern).max()), 1e-12)
                levels = np.moveaxis(np.round(127.5 + 127.5 * pattern / most).astype(np.uint8), 0, -1)
                gain = f"amplified {number(0.5 / most, 0)} times"
                out.append(Picture(png(levels), f"{attack} on {model}, {gain}",
                                   f"The one pattern that {attack} adds to every image of {model}, {gain}"))
    return out


def rebuilt(rows: Rows, arrays: Arrays) -> dict[str, list[Picture]]:
    """Attack and undefended model -> what the inversion began with, then of each class its mean and the
    reconstruction; the same attack with other parameters counts once, and of many classes the first `SHOWN`.
    """
    out = {}
    for model in rows.models:
        for attack in dict.fromkeys(r.attack for r in rows.all if (r.model, r.defense) == (model, "none")
                                    and r.metric.startswith("inversion_distance[")):
            row = next(iter(rows.named("inversion_distance", model, "none", attack).values()))
            kept = arrays(row.cell)
            if "picture_rebuilt" not in kept:
                continue
            of = f"{known.label(row, rows.voice)} on {model}"
            shown = [("mean of all", kept["picture_start"][0])]
            for name, mean, found in zip(kept["picture_classes"][:SHOWN], kept["picture_means"],
                                         kept["picture_rebuilt"], strict=False):
                shown += [(f"mean of “{name}”", mean), (f"“{name}”, rebuilt", found)]
            out[of] = [Picture(png(_small(levels, 128)), title, f"{of}: {title}") for title, levels in shown]
    return out


def _example(kept: Mapping[str, Any], i: int, attack: str) -> Example:
    caption, gain = str(kept["picture_captions"][i]), number(float(kept["picture_gain"][i]), 0)
    panels = []
    for key, title in PANELS.items():
        if (made := kept.get(f"picture_{key}")) is not None:
            title = f"{title} × {gain}" if key == "difference" else title
            panels.append(Picture(png(_small(made[i], SIDE.get(key, 128))), title, f"{attack}, {title}: {caption}"))
    return Example(caption, panels)


def _small(levels: np.ndarray, side: int) -> np.ndarray:
    """Every second, third ... pixel, so that no side is longer; a mean would wash the difference out."""
    step = -(-max(levels.shape[:2]) // side)
    return levels[::step, ::step]


def png(levels: np.ndarray) -> str:
    """(height, width[, 1 or 3]) uint8 as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels).save(buffer, "PNG",
                                                                                                  optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
