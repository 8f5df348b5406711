"""What a model remembers or gives away: membership, attributes, typical inputs, and itself. Knows only `suite`."""

from pathlib import Path

_PRESETS = Path(__file__).parent / "presets"
PRESET = _PRESETS / "privacy.toml"
"""The plan that `medsec audit privacy` carries out."""
DEFENSES, IMAGING = (_PRESETS / f"{name}.toml" for name in ("privacy-defenses", "imaging-privacy"))
