"""Differential privacy: clipping, noise, accounting, and teachers that vote."""
