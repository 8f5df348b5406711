"""Clinical tables: data, schemas, models, attacks that search among possible patients, exact attacks on trees."""

from pathlib import Path

PRESET = Path(__file__).parent / "presets" / "tabular.toml"
"""The plan that `medsec audit tabular` carries out."""
