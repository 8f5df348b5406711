"""Attacks that only ask: by scores, or by labels alone."""
