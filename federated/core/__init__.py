"""A hospital, stacked updates, and what all parts of a federation share."""
