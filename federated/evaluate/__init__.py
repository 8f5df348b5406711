"""Measuring attacks on a federation, and verifying what it left."""
