"""A federation of hospitals on Flower: honest, hostile, private. May use all other packages."""

import os
from pathlib import Path

# Flower and Ray read these when they are imported; without them each run calls home, or installs what it thinks fit
for _name, _value in {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
                      "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "RAY_USAGE_STATS_ENABLED": "0"}.items():
    os.environ.setdefault(_name, _value)

_PRESETS = Path(__file__).parent / "presets"
PRESET = _PRESETS / "federation.toml"
"""The plan that `medsec federate` carries out."""
PRIVACY, IMAGING = (_PRESETS / f"{name}.toml" for name in ("federation-privacy", "federation-images"))
