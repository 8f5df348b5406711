"""Dealing the rows of a dataset out to hospitals, and checking that they fit together."""
