"""Defenses that look at pixels."""
