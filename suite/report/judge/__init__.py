"""Judging rows, topic by topic."""
