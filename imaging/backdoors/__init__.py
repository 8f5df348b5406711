"""Triggers in images."""
