"""Medical images: data, networks, attacks on what an image is, and defenses that look at pixels."""

from pathlib import Path

_PRESETS = Path(__file__).parent / "presets"
PRESET = _PRESETS / "imaging.toml"
"""The plan that `medsec audit imaging` carries out."""
COVID, ALZHEIMER, HAM10000 = (_PRESETS / f"{name}.toml" for name in ("covid", "alzheimer", "ham10000"))
