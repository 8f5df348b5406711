"""Attacks that know neither tables nor images."""
