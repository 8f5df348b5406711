"""What a model remembers or gives away: membership, attributes, typical inputs, and itself. Knows only `suite`."""

from pathlib import Path

PRESET = Path(__file__).parent / "presets" / "privacy.toml"
"""The plan that `medsec audit privacy` carries out."""
