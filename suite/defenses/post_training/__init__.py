"""Defenses around a trained model: what it answers, and which inputs it refuses."""
