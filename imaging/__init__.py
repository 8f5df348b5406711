"""Medical images: data, networks, attacks on what an image is, and defenses that look at pixels."""

from pathlib import Path

PRESET = Path(__file__).parent / "presets" / "imaging.toml"
"""The plan that `medsec audit imaging` carries out."""
