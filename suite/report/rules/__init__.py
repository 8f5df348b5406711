"""Judging rows, topic by topic: levels, what was not tested, the verdict."""
