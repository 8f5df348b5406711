"""Hostile hospitals and a curious server."""
