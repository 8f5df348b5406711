"""Defenses that know neither tables nor images."""
