"""Exact attacks on tree ensembles: leaf boxes of a model, search kernels, and the driver with certified bounds."""
